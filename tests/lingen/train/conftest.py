"""A process group of this process alone, and scripts on several real processes with gloo."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch.distributed as dist

LIVE_BYTES = """
import weakref
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

class LiveBytes(TorchDispatchMode):
    # Bytes of all CPU tensors that operators see inside the block: alive now, and the most at any moment.
    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            tensor = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
            if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu":
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known[key] = weakref.ref(storage, lambda _: self.gone(key, size))
            self.now += size
            self.most = max(self.most, self.now)

    def gone(self, key, size):
        del self.known[key]
        self.now -= size
"""


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """A process group of one rank, for the module."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def live_bytes() -> str:
    """The source of `LiveBytes`, a block that counts the bytes of tensors; for scripts of `run_ranks`."""
    return LIVE_BYTES


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., tuple[str, str]]:
    """run_ranks(script, count, *arguments) -> rank 0's (stdout, stderr) of a script on so many ranks of one group.

    A rank that fails fails the test, with the end of its stderr.
    """

    def run(script: str, count: int, *arguments: object) -> tuple[str, str]:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                env=os.environ | group | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        written = [p.communicate(timeout=300) for p in processes]
        failed = [err[-3000:] for p, (_, err) in zip(processes, written) if p.returncode]
        assert not failed, failed[0]
        return written[0]

    return run
