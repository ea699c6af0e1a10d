"""A trained model as a self-contained folder: safetensors, config.json and the TAE of its latents.

model/ema.safetensors, raw.safetensors    averaged and plain weights of the denoiser
model/config.json                         architecture, stage, text encoder, TAE digest, latent geometry
model/tae/                                the temporal autoencoder
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lingen.io.manifest import read_json, write_atomic, write_json
from lingen.io.tensors import safetensors_pieces
from lingen.model.denoiser import Denoiser, DenoiserConfig

CONFIG = "config.json"


def export_model(
    folder: str | Path,
    raw: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    config: DenoiserConfig,
    about: dict[str, Any],
    tae: str | Path,
    gather: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Path:
    """Write a model folder, tensor by tensor; config.json is written last, so a folder that has one is complete.

    Args:
        folder: where the model goes.
        raw: the last weights, by name.
        ema: the averaged weights.
        config: the architecture.
        about: what config.json contains besides the architecture (stage, text, TAE digest, resolution, frames, fps).
        tae: folder of the TAE, which is copied.
        gather: makes a sharded tensor whole; called for one after the other, raw then ema, each sorted by name.

    Returns:
        The folder.
    """
    folder = Path(folder)
    (folder / CONFIG).unlink(missing_ok=True)
    for name, weights in (("raw", raw), ("ema", ema)):
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        tensors = (gather(weights[name]) for name in sorted(weights))
        write_atomic(folder / f"{name}.safetensors", safetensors_pieces(shapes, tensors))
    shutil.copytree(tae, folder / "tae", dirs_exist_ok=True)
    write_json(folder / CONFIG, {**about, "model": config.to_dict()})
    return folder


def model_folder(path: str | Path, field: str = "--checkpoint") -> Path:
    """The model folder that a path means: the path itself, or the `model` folder of a stage's output.

    Args:
        path: a model folder or the output folder of a stage.
        field: the flag that an error names.

    Raises:
        ValueError: neither contains an exported model.
    """
    for folder in (Path(path), Path(path) / "model"):
        if (folder / CONFIG).is_file() and (folder / "ema.safetensors").is_file():
            return folder
    raise ValueError(f"{field}: {path} contains no exported model; name the output folder of a finished jobs/train.py")


def read_about(folder: Path) -> dict[str, Any]:
    """Read the config.json of a model folder."""
    return read_json(folder / CONFIG)


def read_weights(folder: Path, weights: str = "ema") -> tuple[DenoiserConfig, dict[str, Tensor]]:
    """Read a model folder.

    Args:
        folder: the model folder.
        weights: ema or raw.

    Returns:
        The architecture and the state dictionary.
    """
    from safetensors.torch import load_file

    return DenoiserConfig.from_dict(read_about(folder)["model"]), load_file(folder / f"{weights}.safetensors")


def load_denoiser(path: str | Path, weights: str = "ema", device: str | torch.device = "cpu") -> Denoiser:
    """Load the denoiser of an exported model, ready to sample: evaluation mode, no gradients.

    Args:
        path: a model folder or the output folder of a stage.
        weights: ema or raw.
        device: where the model goes.

    Raises:
        ValueError: there is no model, or its weights do not match its configuration.
    """
    folder = model_folder(path)
    config, state = read_weights(folder, weights)
    with torch.device("meta"):
        model = Denoiser(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"--checkpoint: the weights in {folder} do not match its config.json: {error}") from error
    return model.to(device).eval().requires_grad_(False)
