"""A model folder: what is written is what is read, and errors name the flag."""

import dataclasses

import pytest
import torch

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import export_model, load_denoiser, model_folder, read_about, read_weights

CONFIG = DenoiserConfig(width=32, depth=1, heads=2, ssm_head_dim=16, mamba2_state=8, text_dims=(12,))


@pytest.fixture
def stage(tmp_path):
    """A stage's output folder whose raw weights are one more than its averaged ones."""
    (tmp_path / "tae").mkdir()
    (tmp_path / "tae" / "config.json").write_text("{}")
    torch.manual_seed(0)
    ema = Denoiser(CONFIG).state_dict()
    raw = {name: value + 1 for name, value in ema.items()}
    folder = export_model(tmp_path / "model", raw, ema, CONFIG, {"fps": 16}, tmp_path / "tae")
    assert folder == tmp_path / "model"
    return tmp_path


def test_what_is_written_is_what_is_read(stage):
    assert model_folder(stage) == model_folder(stage / "model") == stage / "model"
    assert read_about(stage / "model")["fps"] == 16
    assert (stage / "model" / "tae" / "config.json").is_file()
    config, raw = read_weights(stage / "model", "raw")
    assert config == CONFIG
    model = load_denoiser(stage)
    assert not model.training
    for name, value in model.named_parameters():
        assert not value.requires_grad
        torch.testing.assert_close(raw[name], value + 1)


def test_a_folder_without_a_model_is_named_with_the_flag(tmp_path):
    with pytest.raises(ValueError, match=f"^--init: {tmp_path} contains no exported model"):
        model_folder(tmp_path, "--init")


def test_an_interrupted_export_is_no_model(stage, monkeypatch):
    """config.json is written last: until then the folder does not count."""

    def full_disk(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("shutil.copytree", full_disk)
    _, weights = read_weights(stage / "model")
    with pytest.raises(OSError, match="no space left"):
        export_model(stage / "model", weights, weights, CONFIG, {}, stage / "tae")
    with pytest.raises(ValueError, match="contains no exported model"):
        load_denoiser(stage)


def test_weights_of_another_architecture_are_refused(stage):
    other = dataclasses.replace(CONFIG, depth=2)
    _, weights = read_weights(stage / "model")
    export_model(stage / "model", weights, weights, other, {}, stage / "tae")
    with pytest.raises(ValueError, match=r"^--checkpoint: the weights in .* do not match its config.json"):
        load_denoiser(stage)
