"""Reading windows' frames in Ray tasks, a few ahead of whoever encodes them.

A process of its own per task: a decoder that crashes, hangs or eats the memory costs one window. Frames travel in
shared memory. No torch here, so that the reading processes start fast and stay small.

N frames, H/W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import ray

from data_prep.windows import Window
from lingen.buckets import Bucket

READ_AHEAD = 3


def windows_with_frames(
    windows: Sequence[Window], errors: list[dict], num_cpus: float, timeout_s: float
) -> Iterator[tuple[Window, np.ndarray | None]]:
    """Every window in order with its frames (uint8 N,H,W,3), or None and a row (key, reason, detail) in `errors`.

    Args: num_cpus, reserved per reading task; timeout_s, how long to wait for one window.
    """
    task = _read.options(num_cpus=num_cpus)
    todo, ahead = deque(windows), deque()
    while todo or ahead:
        while todo and len(ahead) < READ_AHEAD:
            window = todo.popleft()
            bucket = Bucket.parse(window.bucket)
            size = (bucket.height, bucket.width)
            ahead.append((window, task.remote(window.provenance.uri, window.times_s, size)))
        window, ref = ahead.popleft()
        frames, reason, detail = _wait(ref, timeout_s)
        if reason:
            source = window.provenance
            about = {"key": window.key, "clip_id": source.clip_id, "uri": source.uri, "bucket": window.bucket}
            errors.append(about | {"reason": reason, "detail": detail})
        yield window, frames


def _wait(ref, timeout_s: float) -> tuple[np.ndarray | None, str, str]:
    ready, _ = ray.wait([ref], timeout=timeout_s)
    if not ready:
        ray.cancel(ref, force=True)
        return None, "decode_timeout", f"no frames after {timeout_s:g} s"
    try:
        return ray.get(ref)
    except ray.exceptions.WorkerCrashedError as error:
        return None, "decoder_crashed", str(error).splitlines()[0]
    except ray.exceptions.OutOfMemoryError:
        return None, "out_of_memory", "the reading process was killed for memory; a larger --decode-cpus runs fewer"


@ray.remote(max_retries=1)
def _read(uri: str, times_s: list[float], size: tuple[int, int]) -> tuple[np.ndarray | None, str, str]:
    """(frames, "", "") or (None, reason, detail)."""
    from data_prep.frames import read_frames
    from data_prep.probe import MediaError

    try:
        return read_frames(uri.removeprefix("file://"), times_s, size=size, fit="crop", threads=1), "", ""
    except MediaError as error:
        return None, error.reason, error.detail
    except OSError as error:
        return None, "unreadable", str(error)
