"""Files of tensors: read whatever their kind, refused when they name anything else."""

import os

import pytest
import torch
from safetensors.torch import save_file

from lingen.io.tensors import read_tensors


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_both_kinds_of_files(tmp_path, kind):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    (save_file if kind == "safetensors" else torch.save)(tensors, tmp_path / f"x.{kind}")
    found = read_tensors(tmp_path / f"x.{kind}")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_not_run(tmp_path, zipped):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    torch.save({"a": Evil()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x\.pth names posix\.system, so it may run code: it is refused$"):
        read_tensors(tmp_path / "x.pth")
    assert not (tmp_path / "owned").exists()


def test_what_is_no_file_of_tensors(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("list.pth", "text.pth"):
        with pytest.raises(ValueError, match=rf"{name} is not a file of"):
            read_tensors(tmp_path / name)
