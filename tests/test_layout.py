"""The house rule: dependencies only go down, and lingen stands alone on a bare GPU box."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_only_go_down():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
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
