"""The ledger of a training step: every byte that lives, and every operator's FLOPs and traffic, piece by piece.

A dispatch mode that writes down what PyTorch's operators do on one rank. With fake tensors nothing is computed, so a 4B
step takes seconds and no memory; with real tensors the ledger is the same. Not seen: what an operator allocates inside.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.tensor._sharding_prop as sharding_prop
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

KINDS = ("weights", "gradients", "optimizer", "averages", "activations", "temporaries")
"""What memory is used for. Activations live from the forward to the backward pass; temporaries are all the rest, the
gathered weights and the layer that is being recomputed included."""

_NO_TRAFFIC = frozenset(
    [
        *("empty", "empty_strided", "empty_like", "new_empty", "empty_permuted", "_unsafe_view", "detach", "alias"),
        *("lift_fresh", "view", "t", "as_strided", "unbind", "split", "split_with_sizes"),
    ]
)
_WRITES_ONLY = frozenset(["zeros", "zeros_like", "new_zeros", "zero_", "fill_", "ones", "full", "arange"])


@dataclasses.dataclass
class Memory:
    """Memory of one rank, alive from one operator to another."""

    size: int
    """in bytes; 0 while FSDP2 has freed it"""
    kind: str | None = None
    """one of KINDS; None until known"""


@dataclasses.dataclass(frozen=True)
class Collective:
    """One call of a collective operation, as one rank sees it."""

    name: str
    ranks: int
    """of its group"""
    size: int
    """bytes of the whole tensor: gathered, or before it is scattered"""

    @property
    def moved(self) -> float:
        """Bytes that a ring sends and receives per rank."""
        times = 2 if "allreduce" in self.name or "all_reduce" in self.name else 1
        return times * self.size * (self.ranks - 1) / self.ranks


@dataclasses.dataclass
class Piece:
    """A part of a step: one layer's forward pass, its backward pass, or what comes before, between and after."""

    name: str
    layer: int | None = None
    micro: int = 0
    """number of the micro-batch"""
    changes: list[tuple[Memory, int]] = dataclasses.field(default_factory=list)
    """bytes allocated (or, if negative, freed), in order"""
    work: Counter[tuple[float, int, bool]] = dataclasses.field(default_factory=Counter)
    """(FLOPs, bytes read and written, in half precision) of an operator -> calls"""
    collectives: Counter[Collective] = dataclasses.field(default_factory=Counter)
    """calls"""


class StepLedger(TorchDispatchMode):
    """Writes a step down, piece by piece, between `begin` calls.

    Attributes:
        pieces: in the order of the step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces = [Piece("state")]
        self._alive: dict[int, tuple[weakref.ref, Memory]] = {}
        self._paused = 0
        self._closed = False

    def begin(self, name: str, layer: int | None = None, micro: int = 0) -> None:
        """What follows belongs to a new piece."""
        self.pieces.append(Piece(name, layer, micro))

    def add(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Name the kind of some tensors' memory; what is not known yet is counted from now on."""
        for tensor in tensors:
            self._storage(tensor).kind = kind

    def name_alive(self, kind: str, among: Iterable[Piece]) -> None:
        """Name the kind of what these pieces allocated, is alive and has no kind yet."""
        allocated = {id(storage) for piece in among for storage, change in piece.changes if change > 0}
        for _, storage in self._alive.values():
            if storage.kind is None and id(storage) in allocated:
                storage.kind = kind

    def _storage(self, tensor: Tensor) -> Memory:
        if type(tensor) is DTensor:
            tensor = tensor.to_local()
        raw = tensor.untyped_storage()
        key = raw._cdata
        if key in self._alive:
            return self._alive[key][1]
        storage = Memory(0)
        self._alive[key] = (weakref.ref(raw, lambda _: self._freed(key)), storage)
        self._change(storage, raw.nbytes())
        return storage

    def _change(self, storage: Memory, change: int) -> None:
        if change and not self._closed:
            storage.size += change
            self.pieces[-1].changes.append((storage, change))

    def _freed(self, key: int) -> None:
        _, storage = self._alive.pop(key)
        self._change(storage, -storage.size)

    def __enter__(self) -> StepLedger:
        resize, propagate = (
            torch.UntypedStorage.resize_,
            sharding_prop.ShardingPropagator._propagate_tensor_meta_non_cached,
        )

        def resize_(raw: torch.UntypedStorage, size: int) -> None:  # frees gathered weights in FSDP2
            resize(raw, size)
            if known := self._alive.get(raw._cdata):
                known[1].kind = known[1].kind or "temporaries"
                self._change(known[1], size - known[1].size)

        def without_us(*args: Any, **kwargs: Any) -> Any:  # makes fakes of global size, which no rank has
            self._paused += 1
            try:
                return propagate(*args, **kwargs)
            finally:
                self._paused -= 1

        self._patches = ExitStack()
        self._patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", resize_))
        name = "_propagate_tensor_meta_non_cached"
        self._patches.enter_context(mock.patch.object(sharding_prop.ShardingPropagator, name, without_us))
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        self._patches.close()
        self._closed = True
        return super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # a number that the loop reads back, such as the norm of the gradient
        if func is torch.ops._c10d_functional.wait_tensor.default:
            return args[0]
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._paused and func.namespace not in ("prim", "profiler"):
            self._write_down(func, args, kwargs, out)
        return out

    def _write_down(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        outputs = [z for z in tree_leaves(out) if isinstance(z, Tensor)]
        communicates = func.namespace in ("c10d", "_c10d_functional")
        if communicates or func.namespace == "fsdp":  # buffers, and the gathered weights
            for z in (*outputs, *tree_leaves((args, kwargs))):
                if isinstance(z, Tensor) and (storage := self._storage(z)).kind is None:
                    storage.kind = "temporaries"
        for z in outputs:
            self._storage(z)
        piece = self.pieces[-1]
        if communicates:
            if (collective := _collective(func, args, kwargs, out)) is not None:
                piece.collectives[collective] += 1
            return
        name = func._schema.name.split("::")[-1]
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if is_view or name in _NO_TRAFFIC:
            return
        inputs = {id(z): z for z in tree_leaves((args, kwargs)) if isinstance(z, Tensor)}
        read = 0 if name in _WRITES_ONLY else sum(map(_extent, inputs.values()))
        written = sum(map(_extent, outputs)) if outputs else _written(func, args)
        flops = 0.0
        if (count := _FLOPS.get(func._overloadpacket)) is not None:
            flops = float(count(*args, **kwargs, out_val=out))
        half = all(z.dtype != torch.float32 for z in inputs.values()) if flops else True
        piece.work[flops, read + written, half] += 1


def _sdpa_cpu(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _sdpa_cpu_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)


_FLOPS = dict(flop_registry) | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_cpu_backward,
}


def _extent(z: Tensor) -> int:
    """Bytes that are touched: broadcast axes count once."""
    return math.prod(n for n, stride in zip(z.shape, z.stride()) if stride) * z.element_size()


def _written(func: Any, args: Any) -> int:
    """Bytes that an operator without outputs writes: the arguments that its schema marks as changed."""
    changed = [a for a, spec in zip(args, func._schema.arguments) if spec.alias_info and spec.alias_info.is_write]
    return sum(_extent(z) for z in tree_leaves(changed) if isinstance(z, Tensor))


def _collective(func: Any, args: Any, kwargs: Any, out: Any) -> Collective | None:
    sizes = [z.numel() * z.element_size() for z in tree_leaves((args, kwargs, out)) if isinstance(z, Tensor)]
    if not sizes:
        return None
    ranks = next((r for a in (*args, *kwargs.values()) if (r := _group_size(a))), dist.get_world_size())
    return Collective(func._schema.name.split("::")[-1].strip("_"), ranks, max(sizes))


def _group_size(argument: Any) -> int:
    """Ranks of a process group that is passed as an object or by name; 0 for anything else."""
    if isinstance(argument, dist.ProcessGroup):
        return argument.size()
    if isinstance(argument, torch.ScriptObject):
        try:
            return dist.ProcessGroup.unbox(argument).size()
        except RuntimeError:
            return 0
    return 0
