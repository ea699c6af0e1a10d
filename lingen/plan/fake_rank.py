"""One rank of many, without the others and without a GPU: fake tensors, a fake process group, a card's operators.

Fake tensors have shapes and types, and no content. They live on the CPU here, because autograd on fake CUDA tensors
asks the driver for a context; where PyTorch or the model choose an operator by device, the card's choice is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.device_mesh as device_mesh
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily


@contextlib.contextmanager
def fake_rank(world: int, card: bool = True) -> Iterator[None]:
    """Inside the block this process is rank 0 of `world`, whose largest shards it has; tensors are fake.

    Args:
        world: ranks.
        card: choose operators as on a CUDA card; otherwise as on a CPU.

    Raises:
        RuntimeError: this process is in a process group.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RuntimeError("this process is a rank of a real process group; plan in another process")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    real_mesh = device_mesh.init_device_mesh

    def init_device_mesh(*args: Any, **kwargs: Any) -> device_mesh.DeviceMesh:
        with unset_fake_temporarily():  # a mesh computes with its ranks' numbers
            return real_mesh(*args, **kwargs)

    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(device_mesh, "init_device_mesh", init_device_mesh))
            if card:
                stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", True))
                stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention))
                stack.enter_context(mock.patch.object(F, "rms_norm", _rms_norm))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            yield
    finally:
        dist.destroy_process_group()


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """What SDPA takes on CUDA: flash attention, or the memory-efficient kernel with a mask or in float32."""
    assert not options, options
    if attn_mask is None and query.dtype in (torch.bfloat16, torch.float16):
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    bias = None
    if attn_mask is not None:
        length = attn_mask.shape[-1]
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
        bias = F.pad(bias, (0, -length % 8))[..., :length].expand(*query.shape[:3], length)
    keep_statistics = torch.is_grad_enabled() and query.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, keep_statistics)[0]


def _rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """On CUDA one kernel, which keeps its input and one number a row; on the CPU a chain with float32 copies."""
    return _fused_norm(x, weight)[0]


@torch.library.custom_op("lingen_plan::rms_norm", mutates_args=())
def _fused_norm(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("for fake tensors only")


@torch.library.custom_op("lingen_plan::rms_norm_backward", mutates_args=())
def _fused_norm_backward(gradient: Tensor, x: Tensor, rms: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("for fake tensors only")


@_fused_norm.register_fake
def _(x: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.float32)


@_fused_norm_backward.register_fake
def _(gradient: Tensor, x: Tensor, rms: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(0) if weight is None else torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1], inputs[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None]:
    x, rms, weight = ctx.saved_tensors
    of_x, of_weight = _fused_norm_backward(gradient, x, rms, weight)
    return of_x, None if weight is None else of_weight


_fused_norm.register_autograd(_gradients, setup_context=_keep)
