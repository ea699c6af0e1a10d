"""The house rules: imports only go down, files and functions stay short, lingen stands alone on a bare GPU box."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STOREYS = ("jobs", "pipelines", "data_prep", "lingen")
MODULES = [path for storey in STOREYS for path in sorted((ROOT / storey).rglob("*.py"))]


def test_imports_only_go_down_from_storey_to_storey_and_from_room_to_room():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_file_above_400_lines_and_no_folder_above_16_modules():
    long = {str(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}
    assert not long
    folders = {path.parent for path in MODULES}
    crowded = {str(f): n for f in folders if (n := len([p for p in f.glob("*.py") if p.stem != "__init__"])) > 16}
    assert not crowded


def test_no_function_of_60_lines():
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 59:
                long[f"{path}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert not long


def test_no_two_classes_share_a_name():
    found: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path))
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def test_every_test_stands_under_the_name_of_a_module():
    """tests/lingen/data/test_loader.py is of lingen/data/loader.py; test_loader_s3.py is of it too."""
    strays = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        room = path.parent.relative_to(ROOT / "tests")
        if not room.parts or room.parts[0] not in STOREYS:
            continue
        names = {p.stem.strip("_") for p in (ROOT / room).glob("*.py")}
        own = path.stem.removeprefix("test_")
        if not any(own == name or own.startswith(name + "_") for name in names):
            strays.append(str(path.relative_to(ROOT)))
    assert not strays


def test_the_picture_of_the_house_is_up_to_date(tmp_path):
    subprocess.run([sys.executable, ROOT / "docs" / "draw_house.py", tmp_path / "house.svg"], cwd=ROOT, check=True)
    drawn = (tmp_path / "house.svg").read_text()
    assert drawn == (ROOT / "docs" / "house.svg").read_text(), "run `make house`"


@pytest.mark.slow
def test_types_are_consistent():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_lingen_imports_with_torch_numpy_safetensors_alone():
    code = """
import importlib, pkgutil, sys
allowed_missing = "ray mlflow webdataset decord av cv2 open_clip tyro pyarrow fsspec PIL pebble".split()
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in allowed_missing:
            raise ModuleNotFoundError(name + " is blocked in this test", name=name)
sys.meta_path.insert(0, Block())
import lingen
for module in pkgutil.walk_packages(lingen.__path__, "lingen."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
