"""Training checkpoints: DCP folders that any number of workers can read, published by a rename.

    checkpoints/step_00000100/   model, EMA and optimizer shards (torch.distributed.checkpoint) and meta.json

A folder without the final name is a save that was cut off; it is never read and removed by the next save.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from lingen.ema import EMA
from lingen.manifest import read_json, write_json

log = logging.getLogger(__name__)

META = "meta.json"


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if (p / META).is_file())


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    meta: dict[str, Any],
    keep: int,
) -> Path:
    """Save all that training needs to go on after `step` updates. Called by every rank.

    Only the newest `keep` checkpoints stay; older ones go when the new one is published.
    """
    final = checkpoint_path(folder, step)
    partial = folder / f".{final.name}.part"
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments, "ema": ema.weights}, checkpoint_id=partial)
    if dist.get_rank() == 0:
        write_json(partial / META, {**meta, "step": step, "ema_updates": ema.updates})
        shutil.rmtree(final, ignore_errors=True)  # the same step again, after a fall-back to an older one
        partial.rename(final)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def load_checkpoint(path: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load in place, resharding to this number of workers; returns meta.json. Called by every rank."""
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments, "ema": ema.weights}
    dcp.load(state, checkpoint_id=path)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    meta = read_json(path / META)
    ema.updates = meta["ema_updates"]
    return meta


def load_newest(folder: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be read; None when there is none.

    A damaged one is reported, set aside as `damaged_<name>`, and the one before is taken.
    """
    while found := checkpoints(folder):
        try:
            return load_checkpoint(found[-1], model, ema, optimizer)
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            # DCP raises many kinds for damaged files; whatever it is, the one before is the better answer.
            log.warning("checkpoint %s cannot be read (%s); taking the one before", found[-1], str(error)[:300])
            dist.barrier()
            if dist.get_rank() == 0:
                aside = found[-1].with_name(f"damaged_{found[-1].name}")
                shutil.rmtree(aside, ignore_errors=True)
                found[-1].rename(aside)
            dist.barrier()
    return None
