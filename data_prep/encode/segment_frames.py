"""Reading windows' frames in Ray tasks, a few ahead of whoever encodes them.

One task reads the windows of one clip that follow each other, so the clip is fetched, hashed and probed once. A process
of its own per task: a decoder that crashes, hangs or eats the memory costs a window, not the job. Frames travel in
shared memory; those of a long window piece by piece. No torch here, so that the reading processes start fast and stay
small.

N frames, H/W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import ray

from data_prep.encode.segments import Window
from data_prep.media.probe import MediaError
from lingen.data.buckets import Bucket

READ_AHEAD = 3
GROUP_BYTES = 256e6
"""Frames that one task may return, unless a single window is larger."""

Frames = tuple[np.ndarray | None, str, str]
"""(uint8 N,H,W,3, "", "") or (None, reason, detail)."""


def windows_with_frames(
    windows: Sequence[Window], errors: list[dict], num_cpus: float, timeout_s: float
) -> Iterator[tuple[Window, np.ndarray | None]]:
    """Every window in order with its frames (uint8 N,H,W,3), or None and a row in `errors` (the errors table).

    Args: num_cpus, reserved per reading task; timeout_s, how long to wait for one window.
    """
    task = _read.options(num_cpus=num_cpus)
    todo, ahead = deque(_group(windows)), deque()
    while todo or ahead:
        while todo and len(ahead) < READ_AHEAD:
            group = todo.popleft()
            ahead.append((group, task.remote(group)))
        group, ref = ahead.popleft()
        found = _wait(ref, timeout_s * len(group))
        if isinstance(found, str):  # the process died or hung: find out on which window
            alone = [found] if len(group) == 1 else [_wait(task.remote([w]), timeout_s) for w in group]
            found = [(None, *one.split(": ", 1)) if isinstance(one, str) else one[0] for one in alone]
        for window, (frames_NHW3, reason, detail) in zip(group, found, strict=True):
            if reason:
                errors.append(error_row(window, reason, detail))
            yield window, frames_NHW3


def is_long(bucket: str) -> bool:
    """Whether a bucket's windows are too large to hold one whole."""
    return _bytes(Bucket.parse(bucket)) > GROUP_BYTES


def frames_in_pieces(window: Window, length: int, num_cpus: float, timeout_s: float) -> Iterator[np.ndarray]:
    """The frames of one window, uint8 (length, H, W, 3) at a time; the reader is at most two pieces ahead.

    Args: num_cpus, reserved for the reading task; timeout_s, how long to wait for a piece.

    Raises:
        MediaError: why the frames cannot be had; with the reasons of the errors table.
    """
    task = _read_in_pieces.options(num_cpus=num_cpus, _generator_backpressure_num_objects=2)
    refs = task.remote(window, length)
    while True:
        ready, _ = ray.wait([refs], timeout=timeout_s)
        if not ready:
            ray.cancel(refs, force=True)
            raise MediaError("decode_timeout", f"no frames after {timeout_s:g} s")
        ref = next(refs, None)
        if ref is None:
            return
        found = _wait(ref, timeout_s)
        if isinstance(found, str):
            raise MediaError(*found.split(": ", 1))
        yield found


def error_row(window: Window, reason: str, detail: str) -> dict[str, str]:
    """A row of the errors table."""
    source = window.provenance
    about = {"key": window.key, "clip_id": source.clip_id, "uri": source.uri, "bucket": window.bucket}
    return about | {"reason": reason, "detail": detail}


def _bytes(bucket: Bucket) -> int:
    return 3 * bucket.frames * bucket.height * bucket.width


def _group(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Neighbours of one clip, as many as their frames may take memory."""
    for _, same in groupby(windows, key=lambda w: w.provenance.uri):
        same = list(same)
        size = max(1, int(GROUP_BYTES // _bytes(Bucket.parse(same[0].bucket))))
        yield from (same[i : i + size] for i in range(0, len(same), size))


def _wait(ref, timeout_s: float):
    """What the task returns, or "reason: detail" when its process failed."""
    ready, _ = ray.wait([ref], timeout=timeout_s)
    if not ready:
        ray.cancel(ref, force=True)
        return f"decode_timeout: no frames after {timeout_s:g} s"
    try:
        return ray.get(ref)
    except ray.exceptions.WorkerCrashedError:
        return "decoder_crashed: the reading process ended"
    except ray.exceptions.OutOfMemoryError:
        return "out_of_memory: the reading process was killed for memory; a larger --decode-cpus runs fewer at once"


@ray.remote(max_retries=1)
def _read(group: list[Window]) -> list[Frames]:
    """The windows' frames; all are of one clip."""
    from data_prep.media.frames import read_frames

    found: list[Frames] = []
    try:
        with _opened(group[0]) as (path, known):
            for window in group:
                bucket = Bucket.parse(window.bucket)
                size = (bucket.height, bucket.width)
                try:
                    frames_NHW3 = read_frames(path, window.times_s, size=size, threads=1, known=known)
                    found.append((frames_NHW3, "", ""))
                except MediaError as error:
                    found.append((None, error.reason, error.detail))
    except MediaError as error:
        return [(None, error.reason, error.detail)] * len(group)
    return found


@ray.remote(max_retries=0)
def _read_in_pieces(window: Window, length: int) -> Iterator[np.ndarray | str]:
    """The window's frames piece by piece; "reason: detail" where they end too soon."""
    from data_prep.media.frames import read_frames_in_pieces

    bucket = Bucket.parse(window.bucket)
    try:
        with _opened(window) as (path, known):
            yield from read_frames_in_pieces(path, window.times_s, (bucket.height, bucket.width), length, known, 1)
    except MediaError as error:
        yield str(error)


@contextmanager
def _opened(window: Window):
    """(path, probe) of a window's file here. MediaError where it is gone, changed or broken."""
    from data_prep.media.fetch import content_hash, local_copy
    from data_prep.media.probe import probe

    with local_copy(window.provenance.uri) as path:
        if content_hash(path) != window.content_hash:
            raise MediaError("content_changed", "the file is not the one that was curated; run jobs/curate.py again")
        yield path, probe(path)
