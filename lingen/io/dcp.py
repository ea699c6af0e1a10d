"""Reading checkpoints of torch.distributed.checkpoint (DCP) that others may have written: nothing in them is run.

DCP unpickles a folder's .metadata and its entries that are not tensors without restraint. Here .metadata may name
DCP's own data classes alone, and entries what `torch.load(weights_only=True)` allows.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.serialization import _get_layout

from lingen.io.tensors import forbidden_name

METADATA = ".metadata"

DATA_CLASSES = (
    Metadata,
    StorageMeta,
    _StorageInfo,
    dcp_metadata.BytesStorageMetadata,
    dcp_metadata.ChunkStorageMetadata,
    dcp_metadata.MetadataIndex,
    dcp_metadata.TensorProperties,
    dcp_metadata.TensorStorageMetadata,
)
ALLOWED: dict[str, Any] = {
    **{f"{c.__module__}.{c.__qualname__}": c for c in (*DATA_CLASSES, dcp_metadata._MEM_FORMAT_ENCODING, torch.Size)},
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    "torch.serialization._get_layout": _get_layout,
    # StorageMeta says where the checkpoint was written.
    "pathlib.PosixPath": PurePosixPath,
    "pathlib._local.PosixPath": PurePosixPath,
}
"""Everything that .metadata of a checkpoint may name."""


class ForbiddenContent(ValueError):
    """A checkpoint would run code, or read files of others, if it were loaded as it is."""


def load_state(state: dict[str, Any], folder: Path, group: dist.ProcessGroup) -> None:
    """Load a DCP folder into a state in place, as `dcp.load` does; called by every rank of the group.

    Raises:
        ForbiddenContent: on every rank; names the file and what it would have called.
        Exception, CheckpointException: the checkpoint is damaged.
    """
    metadata: Metadata | None = None
    error: Exception | None = None
    try:
        metadata = read_metadata(folder / METADATA)
    except ForbiddenContent as forbidden:
        error = forbidden
    except Exception as damage:  # a damaged pickle raises anything
        error = pickle.UnpicklingError(f"{folder / METADATA}: {type(damage).__name__}: {damage}")
    errors: list[Exception | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(errors, error, group)
    for error in filter(None, errors):
        raise error
    assert metadata is not None
    try:
        dcp.load(state, storage_reader=_Reader(folder, metadata), planner=_Planner(), process_group=group)
    except CheckpointException as failure:
        for cause, _ in failure.failures.values():
            if isinstance(cause, pickle.UnpicklingError) and (name := forbidden_name(cause)):
                raise _forbidden(folder, f"names {name}") from None
        raise


def read_metadata(path: Path) -> Metadata:
    """Unpickle .metadata.

    Raises:
        ForbiddenContent: it names something that is not `ALLOWED`, or files outside its folder.
        OSError: it, or a file that it names, is missing or is no regular file: reading a pipe would wait for a writer.
    """
    _require_file(path)
    with open(path, "rb") as file:
        metadata = _Unpickler(file, path).load()
    names = {info.relative_path for info in metadata.storage_data.values()}
    for name in names:
        if Path(name).name != name:
            raise _forbidden(path, f"refers to {name!r}")
    for name in sorted(names):
        _require_file(path.with_name(name))
    metadata.storage_meta = metadata.storage_meta or StorageMeta()
    return metadata


_PythonUnpickler: Any = pickle._Unpickler
"""Not the one in C: that can be made to set attributes of classes, which all of the program would see."""


class _Unpickler(_PythonUnpickler):
    """Makes `ALLOWED` things alone, and gives state to instances of `DATA_CLASSES` alone."""

    def __init__(self, file: io.BufferedReader, path: Path):
        super().__init__(file)
        self._path = path
        self.dispatch = {**_PythonUnpickler.dispatch, pickle.BUILD[0]: _Unpickler.load_build}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise _forbidden(self._path, f"names {module}.{name}")
        return ALLOWED[f"{module}.{name}"]

    def load_build(self) -> None:
        target = self.stack[-2]
        if type(target) not in DATA_CLASSES:
            raise _forbidden(self._path, f"changes {getattr(target, '__name__', type(target).__name__)}")
        super().load_build()


class _Reader(FileSystemReader):
    """Reads a folder whose metadata is known."""

    def __init__(self, folder: Path, metadata: Metadata):
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._metadata


class _Planner(DefaultLoadPlanner):
    """Hands on entries that are not tensors only when they are plain data."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise OSError(f"{path.name} is {'not a file' if path.exists() else 'missing'}")


def _forbidden(path: Path, what: str) -> ForbiddenContent:
    return ForbiddenContent(
        f"{path} {what}, which no checkpoint of training does: it is refused, and nothing in it was run. "
        "Delete this checkpoint, and find out who wrote it; the same command then continues from the one before"
    )
