"""Training checkpoints: DCP folders that any number of workers can read, written in the background.

    checkpoints/step_00000100/   model, EMA, optimizer and RNG shards (torch.distributed.checkpoint) and meta.json

Training waits only while the state is copied to host memory. A thread writes it, one save at a time, and gives the
folder its name when all is written. A folder without that name is a save that was cut off: it is never read, and is
removed at the next start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from lingen.io.dcp import ForbiddenContent, load_state
from lingen.io.job_files import CHECKPOINT_FILES, move_aside, remove_files
from lingen.io.manifest import read_json, write_json
from lingen.train.ema import EMA
from lingen.train.ranks import cpu_group
from lingen.train.rng import rng_state, set_rng_state

log = logging.getLogger(__name__)

Result = TypeVar("Result")

META = "meta.json"


class CheckpointFailed(RuntimeError):
    """A checkpoint could not be written; the ones before it are intact."""


@dataclasses.dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept: always the newest, and as many older ones as configured."""

    last: int = 2
    """the newest so many of the regular ones, which a rewind may go back to"""
    every: int = 0
    """and for good those at multiples of so many steps; 0: none"""

    def keeps(self, steps: list[int], regular: list[int]) -> set[int]:
        """Those of `steps` that are kept; both lists are ascending."""
        return {*steps[-1:], *regular[-self.last :], *(s for s in steps if self.every and s % self.every == 0)}


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` updates."""
    return folder / f"step_{step:08d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(path.name.removeprefix("step_"))


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first; not a person's copies of them under names like step_00000100_best."""
    return sorted(p for p in folder.glob("step_*") if p.name[5:].isdecimal() and (p / META).is_file())


def regular_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints that were due, not requested by a notice; oldest first."""
    return [step_of(path) for path in checkpoints(folder) if read_json(path / META)["regular"]]


def discard(path: Path) -> None:
    """Delete a checkpoint, or a link to one; a folder with files that are not a checkpoint's keeps them, moved aside.

    An error of the disk leaves the rest where it is. meta.json goes first: what is left is no checkpoint.
    """
    with contextlib.suppress(OSError, ValueError):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            (path / META).unlink(missing_ok=True)
            remove_files(path, CHECKPOINT_FILES)
            if any(path.iterdir()):
                move_aside(path)
            else:
                path.rmdir()


class Checkpointer:
    """Saves and loads the state of one training run. Every method is called by every rank, in the same order.

    Args:
        folder: where the checkpoints are.
        model, ema, optimizer: what is saved, and loaded in place.
        retention: which checkpoints are kept.
        timeout_s: how long ranks wait for each other while one is saved or loaded; None is torch's default.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        ema: EMA,
        optimizer: torch.optim.Optimizer,
        retention: Retention = Retention(),
        timeout_s: float | None = None,
    ):
        self.folder = folder
        self._model, self._ema, self._optimizer, self._retention = model, ema, optimizer, retention
        # The writing thread talks to its peers while training does: that takes a separate group, on CPU tensors.
        self._group = cpu_group(timeout_s)
        gpu = torch.cuda.is_available()
        self._stager = DefaultStager(StagingOptions(gpu, False, False, gpu))  # pinned, copied without blocking
        self._saving: Future[Path] | None = None
        self._step = 0
        if dist.get_rank() == 0:
            self._remove_partial()
        dist.barrier(group=self._group)

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing."""
        return self._saving is not None and not self._saving.done()

    @property
    def failed(self) -> bool:
        """Whether this rank knows that the save in flight has failed; `wait` then raises."""
        return self._saving is not None and self._saving.done() and self._saving.exception() is not None

    def save(self, step: int, meta: dict[str, Any], regular: bool = True) -> None:
        """Start saving all that training needs to resume after `step` updates; waits first for the previous save.

        Returns once the state is copied, so that training may change it.

        Args:
            meta: content of meta.json, JSON-able.
            regular: whether a rewind may go back to it.

        Raises:
            CheckpointFailed: the previous save failed.
        """
        self.wait()
        state = self._state() | {"rng": {_rank_name(): rng_state()}}
        meta = {**meta, "step": step, "regular": regular, "world": dist.get_world_size()}
        meta["ema_updates"] = self._ema.updates
        self._step = step
        self._saving = _in_thread(self._write, self._stager.stage(state), step, meta)

    def wait(self) -> Path | None:
        """Wait until the checkpoint in flight is published. Returns it; None when none was in flight.

        Raises:
            CheckpointFailed: it could not be written; the message says where, why and what to do.
        """
        saving, self._saving = self._saving, None
        if saving is None:
            return None
        error = saving.exception()
        if error is None:
            return saving.result()
        if dist.get_rank() == 0:
            self._remove_partial()
        raise CheckpointFailed(self._explain(error)) from error

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint that can be read. Returns its meta; None when there is none.

        A damaged one is reported, set aside as `damaged_<name>`, and the one before it is loaded.

        Raises:
            ForbiddenContent: the newest would run code, or read other files; nothing is loaded in its place.
        """
        while found := checkpoints(self.folder):
            try:
                return self.load(step_of(found[-1]))
            except ForbiddenContent:
                raise
            except (Exception, CheckpointException) as error:  # the latter is not an Exception
                # DCP raises many kinds for damaged files; whichever it is, the one before is the better answer.
                log.warning("checkpoint %s cannot be read (%s); taking the one before", found[-1], str(error)[:300])
                dist.barrier(group=self._group)
                if dist.get_rank() == 0:
                    aside = found[-1].with_name(f"damaged_{found[-1].name}")
                    discard(aside)
                    found[-1].rename(aside)
                dist.barrier(group=self._group)
        return None

    def load(self, step: int) -> dict[str, Any]:
        """Load in place, resharding to this number of workers. Returns the checkpoint's meta.

        Raises:
            ForbiddenContent: it would run code, or read other files.
        """
        path = checkpoint_path(self.folder, step)
        meta = read_json(path / META)
        state = self._state()
        if same_world := meta.get("world") == dist.get_world_size():
            state["rng"] = {_rank_name(): rng_state()}
        load_state(state, path, self._group)
        set_state_dict(
            self._model, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        self._ema.updates = meta["ema_updates"]
        if same_world:  # generators belong to ranks: on another number of them there is nothing to restore
            set_rng_state(state["rng"][_rank_name()])
        return meta

    def _state(self) -> dict[str, Any]:
        weights, moments = get_state_dict(self._model, self._optimizer)
        return {"model": weights, "optimizer": moments, "ema": self._ema.weights}

    def _write(self, state: dict[str, Any], step: int, meta: dict[str, Any]) -> Path:
        """Runs in a thread of every rank."""
        dcp.save(state, checkpoint_id=self._partial(step), process_group=self._group)
        error: list[str | None] = [None]
        if dist.get_rank() == 0:  # by now every rank has written and flushed its files
            try:
                self._publish(step, meta)
            except OSError as failure:
                error = [f"{type(failure).__name__}: {failure}"]
        dist.broadcast_object_list(error, src=0, group=self._group)  # done on one rank means published on all
        if error[0]:
            raise OSError(error[0])
        return checkpoint_path(self.folder, step)

    def _publish(self, step: int, meta: dict[str, Any]) -> None:
        final = checkpoint_path(self.folder, step)
        write_json(self._partial(step) / META, meta)
        discard(final)  # the same step again, after falling back to an older one
        self._partial(step).rename(final)
        found = {step_of(path): path for path in checkpoints(self.folder)}
        for old in found.keys() - self._retention.keeps(list(found), regular_steps(self.folder)):
            discard(found[old])

    def _partial(self, step: int) -> Path:
        return self.folder / f".{checkpoint_path(self.folder, step).name}.part"

    def _remove_partial(self) -> None:
        for partial in self.folder.glob(".step_*.part"):
            shutil.rmtree(partial, ignore_errors=True)

    def _explain(self, error: BaseException) -> str:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, CheckpointException) and error.failures:
            rank, (cause, _) = next(iter(error.failures.items()))
            reason = f"{type(cause).__name__} on rank {rank}: {cause}"
        free = shutil.disk_usage(self.folder).free
        size = 4 * sum(p.numel() * p.element_size() for p in self._model.parameters())  # weights, EMA, two moments
        room = f"{_mebibytes(free)} are free there, a checkpoint takes about {_mebibytes(size)}"
        room = f"the disk is full: {room}. Make room, or keep fewer (fit.keep_checkpoints)" if free < size else room
        before = checkpoints(self.folder)
        return (
            f"the checkpoint of step {self._step} could not be written to {self.folder} ({' '.join(reason.split())}); "
            f"{room}. "
            + (
                f"The checkpoint of step {step_of(before[-1])} is intact, the same command continues from it"
                if before
                else "There is no earlier checkpoint, the same command starts over"
            )
        )


def _in_thread(function: Callable[..., Result], *args: Any) -> Future[Result]:
    """Run in a daemon thread, not a pool's: those are joined at exit, which would wait for a peer that died."""
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:  # DCP's own is not an Exception; it is raised where the save is waited for
            future.set_exception(error)

    threading.Thread(target=work, name="checkpoint", daemon=True).start()
    return future


def _rank_name() -> str:
    return f"rank{dist.get_rank()}"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
