"""lingen.load, and that importing the package is cheap."""

import subprocess
import sys

import torch

import lingen
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import export_model


def test_load_returns_the_denoiser_of_a_stage(tmp_path):
    (tmp_path / "tae").mkdir()
    config = DenoiserConfig(width=32, depth=1, heads=2, ssm_head_dim=16, mamba2_state=8, text_dims=(12,))
    weights = Denoiser(config).state_dict()
    raw = {name: value + 1 for name, value in weights.items()}
    export_model(tmp_path / "model", raw, weights, config, {}, tmp_path / "tae")
    assert torch.equal(lingen.load(tmp_path).positions.tables[0], weights["positions.tables.0"])
    assert torch.equal(lingen.load(str(tmp_path), weights="raw").positions.tables[0], raw["positions.tables.0"])


def test_importing_the_package_does_not_import_torch():
    subprocess.run([sys.executable, "-c", "import lingen, sys; assert 'torch' not in sys.modules"], check=True)
