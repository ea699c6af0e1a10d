"""A process group of this process alone, and scripts on several real processes with gloo."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """A process group of one rank, for the module."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


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
