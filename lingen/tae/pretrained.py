"""Saving and loading a TAE as a folder: tae.safetensors and tae.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lingen.io.manifest import read_json, write_atomic, write_json
from lingen.tae.config import TAEConfig
from lingen.tae.diffusers import DiffusersTAE, build_diffusers, open_diffusers
from lingen.tae.tae import TAE


def save_tae(tae: TAE | DiffusersTAE, folder: str | Path) -> None:
    """Write tae.safetensors and tae.json (configuration and digest) into a folder."""
    from safetensors.torch import save

    folder = Path(folder)
    tensors = {name: t.detach().cpu().contiguous() for name, t in tae.state_dict().items()}
    write_atomic(folder / "tae.safetensors", save(tensors))
    kind = "tae" if isinstance(tae, TAE) else "diffusers"
    write_json(folder / "tae.json", {"kind": kind, "config": tae.config, "digest": tae.digest})


def load_tae(source: str | Path) -> TAE | DiffusersTAE:
    """Load a folder that `save_tae` wrote, or open diffusers:PATH_OR_HUB_NAME[#subfolder].

    Returns:
        The autoencoder in evaluation mode, without gradients.

    Raises:
        ValueError: there is no TAE, or its weights do not fit its configuration.
    """
    from safetensors.torch import load_file

    if str(source).startswith("diffusers:"):
        return open_diffusers(str(source))
    folder = Path(source)
    if not (folder / "tae.json").is_file() or not (folder / "tae.safetensors").is_file():
        raise ValueError(
            f"--tae: {folder} does not contain a TAE (tae.json, tae.safetensors); name a folder of jobs/train_tae.py"
        )
    about = read_json(folder / "tae.json")
    config: dict[str, Any] = about["config"]
    tae: TAE | DiffusersTAE
    if about.get("kind") == "diffusers":
        tae = build_diffusers(config["name"], config["settings"])
    else:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        tae = TAE(TAEConfig(**fields))
    try:
        tae.load_state_dict(load_file(folder / "tae.safetensors"))
    except RuntimeError as error:
        raise ValueError(f"--tae: the weights in {folder} do not fit its tae.json: {error}") from error
    return tae.eval().requires_grad_(False)
