"""Checkpoints of others: their data is loaded, their code is not run, and what they tried is named."""

import dataclasses
import io
import os
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from lingen.io.dcp import ALLOWED, METADATA, ForbiddenContent, load_state


@pytest.fixture(scope="module", autouse=True)
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def state(fill=0.0, **more):
    groups = [{"lr": fill, "betas": (fill, 0.9), "params": ["a", "b"], "fused": None}]
    tensors = {"a": torch.full((3, 4), fill), "half": torch.full((2,), fill, dtype=torch.bfloat16)}
    return {"model": tensors, "rng": {"torch": torch.zeros(9, dtype=torch.uint8)}, "groups": groups, **more}


@pytest.fixture
def folder(tmp_path):
    dcp.save(state(1.5), checkpoint_id=tmp_path / "step")
    return tmp_path / "step"


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def change_metadata(folder, **fields):
    metadata = pickle.loads((folder / METADATA).read_bytes())
    (folder / METADATA).write_bytes(pickle.dumps(dataclasses.replace(metadata, **fields)))
    return metadata


def loaded(folder):
    into = state()
    load_state(into, folder, dist.group.WORLD)
    return into


def test_an_honest_checkpoint_is_loaded_as_by_dcp(folder):
    expected, found = state(), loaded(folder)
    dcp.load(expected, checkpoint_id=folder)
    assert found["groups"] == expected["groups"] == state(1.5)["groups"]
    for name, tensor in state(1.5)["model"].items():
        assert torch.equal(found["model"][name], tensor)


def test_every_allowed_name_is_data_or_makes_data():
    """Nothing that calls, imports, opens or fetches attributes."""
    others = {n for n, o in ALLOWED.items() if not isinstance(o, torch.dtype) and not dataclasses.is_dataclass(o)}
    assert others == {
        "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
        "torch.Size",
        "torch.serialization._get_layout",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
    }


@pytest.mark.parametrize(
    ("function", "name"),
    [(os.system, "posix.system"), (eval, "builtins.eval"), (getattr, "builtins.getattr"), (torch.load, "torch.serial")],
)
def test_code_in_the_metadata_is_not_run(folder, tmp_path, function, name):
    argument = f"touch {tmp_path}/owned" if function is os.system else f"open({str(tmp_path / 'owned')!r}, 'w')"
    change_metadata(folder, planner_data=Calls(function, argument))
    with pytest.raises(ForbiddenContent, match=rf"step/\.metadata names {name}.* refused") as raised:
        loaded(folder)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "owned").exists()


def raw(*parts):
    """A pickle of protocol 4 whose result is the last of some values on the stack."""
    return b"\x80\x04" + b"".join(parts) + b"."


def name(*parts):
    return b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in parts) + b"\x93"


SETS_OWNED = b"N}\x8c\x05owned\x88s\x86b"  # (None, {"owned": True}) as the state: attributes of the object before it
OURS = "torch.distributed.checkpoint.metadata"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (raw(name(OURS, "Metadata.__init__")), r"names .*Metadata\.__init__"),
        (raw(name(OURS, "os"), b"0", name("posix", "system")), "names .*metadata.os"),
        (raw(name(OURS, "Metadata"), SETS_OWNED), "changes Metadata"),
        (raw(name(OURS, "_MEM_FORMAT_ENCODING"), b"K\x00\x85R", SETS_OWNED), "changes _MEM_FORMAT_ENCODING"),
        (raw(name("pathlib", "PosixPath"), SETS_OWNED), "changes PurePosixPath"),
        (raw(name("torch.serialization", "_get_layout"), SETS_OWNED), "changes _get_layout"),
    ],
)
def test_no_way_round_the_list_of_names(folder, data, said):
    (folder / METADATA).write_bytes(data)
    with pytest.raises(ForbiddenContent, match=said):
        loaded(folder)
    for thing in (Metadata, _MEM_FORMAT_ENCODING(0), torch.serialization._get_layout):
        assert not hasattr(thing, "owned")


@pytest.mark.parametrize("entry", ["groups.0.lr", "model.a"])
def test_code_in_an_entry_is_not_run(folder, tmp_path, entry):
    """DCP unpickles entries that are not tensors without restraint."""
    data = io.BytesIO()
    torch.save(Calls(os.system, f"touch {tmp_path}/owned"), data)
    (folder / "evil.distcp").write_bytes(data.getvalue())
    stored = change_metadata(folder).storage_data
    (index,) = (index for index in stored if index.fqn == entry)
    where = dataclasses.replace(stored[index], relative_path="evil.distcp", offset=0, length=len(data.getvalue()))
    change_metadata(folder, storage_data=stored | {index: where})
    with pytest.raises(ForbiddenContent, match=r"step names posix\.system.* refused"):
        loaded(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("path", ["../other.distcp", "/etc/passwd", "a/b.distcp"])
def test_files_outside_the_folder_are_not_read(folder, path):
    stored = change_metadata(folder).storage_data
    change_metadata(folder, storage_data={i: dataclasses.replace(s, relative_path=path) for i, s in stored.items()})
    with pytest.raises(ForbiddenContent, match=rf"step/\.metadata refers to '{path}'"):
        loaded(folder)


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b), lambda b: b[9:]]
)
def test_damage_is_told_from_malice(folder, damage):
    path = folder / METADATA
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(pickle.UnpicklingError, match=r"step/\.metadata: \w+"):
        loaded(folder)


@pytest.mark.parametrize("name", [METADATA, "__0_0.distcp"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_pipe_a_folder_or_a_device_is_damage_and_not_waited_for(folder, name, make):
    (folder / name).unlink()
    with pytest.raises(pickle.UnpicklingError, match=rf"step/\.metadata: OSError: {name} is missing"):
        loaded(folder)
    make(folder / name)
    with pytest.raises(pickle.UnpicklingError, match=rf"step/\.metadata: OSError: {name} is not a file"):
        loaded(folder)
