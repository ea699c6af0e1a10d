"""Files of tensors that others may have written: nothing in them is run."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file, by name.

    Raises:
        ValueError: it is not a file of tensors alone.
    """
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} {refusal(error)}") from error
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} is not a file of named tensors")
    return tensors


def safetensors_pieces(shapes: Mapping[str, torch.Size], tensors: Iterable[Tensor]) -> Iterator[bytes]:
    """Yield the content of a .safetensors file of float32 tensors, one tensor at a time; the same bytes as `save`.

    Args:
        shapes: of all tensors.
        tensors: the tensors, sorted by name; the next is asked for when the one before is written.
    """
    header, end = {}, 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors:
        yield tensor.detach().float().cpu().contiguous().numpy().tobytes()


def refusal(error: pickle.UnpicklingError) -> str:
    """Why `torch.load(weights_only=True)` refused a file, in the middle of a line; PyTorch's advice is to trust it."""
    name = forbidden_name(error)
    return f"names {name}, so it may run code: it is refused" if name else "is not a file of tensors, or damaged"


def forbidden_name(error: pickle.UnpicklingError) -> str | None:
    """What a pickle names that is not data; None when it is only damaged."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else None
