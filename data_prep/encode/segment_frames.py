"""Read the frames of segments in Ray tasks, a few tasks ahead of the encoder.

One task reads consecutive segments of one clip, so the clip is fetched, hashed and probed once. Each task runs in a
process of its own: a decoder that crashes, hangs or runs out of memory costs a segment, not the job. Frames travel in
shared memory; those of a long segment piece by piece. No torch here, so that reading processes start fast and stay
small.

Legend: N frames, H/W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import TypeVar, cast

import numpy as np
import ray

from data_prep.encode.segments import Segment
from data_prep.media.errors import MediaError, internal_error
from data_prep.media.probe import Probe
from lingen.data.buckets import Bucket

READ_AHEAD = 3
"""Groups of segments that are read at once."""
GROUP_BYTES = 256e6
"""Most bytes of frames that one task returns, unless a single segment is larger."""

Frames = np.ndarray | MediaError
"""uint8 (N, H, W, 3), or why there are none."""

T = TypeVar("T")


def read_segments(segments: Sequence[Segment], num_cpus: float, timeout_s: float) -> Iterator[tuple[Segment, Frames]]:
    """Yield every segment in order, with its frames or why there are none, whatever reading it raises.

    Args:
        segments: what to read; segments of one clip should be neighbours.
        num_cpus: CPUs reserved per reading task.
        timeout_s: seconds to wait for one segment.
    """
    reader = _read.options(num_cpus=num_cpus)
    todo = deque(_groups(segments))
    ahead: deque[tuple[list[Segment], ray.ObjectRef]] = deque()
    while todo or ahead:
        while todo and len(ahead) < READ_AHEAD:
            group = todo.popleft()
            ahead.append((group, reader.remote(group)))
        group, ref = ahead.popleft()
        yield from zip(group, _frames_of(group, ref, reader.remote, timeout_s), strict=True)


def is_long(bucket: str) -> bool:
    """Whether a bucket's segments are too large to hold one whole in memory."""
    return _frame_bytes(bucket) > GROUP_BYTES


def read_in_pieces(segment: Segment, length: int, num_cpus: float, timeout_s: float) -> Iterator[np.ndarray]:
    """Yield the frames of one segment as pieces, uint8 (length, H, W, 3); the reader is at most two pieces ahead.

    Args:
        segment: what to read.
        length: frames per piece; the last piece may be shorter.
        num_cpus: CPUs reserved for the reading task.
        timeout_s: seconds to wait for a piece.

    Raises:
        MediaError: the frames cannot be read; with the reasons of the errors table.
    """
    reader = _read_in_pieces.options(num_cpus=num_cpus, _generator_backpressure_num_objects=2)
    refs = cast(ray.ObjectRefGenerator, reader.remote(segment, length))
    try:
        while True:
            ready, _ = ray.wait([refs], timeout=timeout_s)
            if not ready:
                raise _timeout(timeout_s)
            ref = next(refs, None)
            if ref is None:
                return
            frames: Frames = _result(ref, timeout_s)
            if isinstance(frames, MediaError):
                raise frames
            yield frames
    except BaseException:  # GeneratorExit too: who encodes the pieces may give up on them
        ray.cancel(refs, force=True)
        raise


def _frame_bytes(bucket: str) -> int:
    """Bytes of a segment's frames."""
    shape = Bucket.parse(bucket)
    return 3 * shape.frames * shape.height * shape.width


def _groups(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Neighbours of one clip, as many as fit GROUP_BYTES."""
    for _, neighbours in groupby(segments, key=lambda s: s.provenance.uri):
        of_clip = list(neighbours)
        size = max(1, int(GROUP_BYTES // _frame_bytes(of_clip[0].bucket)))
        yield from (of_clip[i : i + size] for i in range(0, len(of_clip), size))


def _frames_of(
    group: list[Segment],
    ref: ray.ObjectRef[list[Frames]],
    read: Callable[[list[Segment]], ray.ObjectRef[list[Frames]]],
    timeout_s: float,
) -> list[Frames]:
    """The result of a reading task; where its process died or hung, its segments are read again one by one."""
    try:
        return _result(ref, timeout_s * len(group))
    except MediaError as error:
        if len(group) == 1:
            return [error]
    return [frames for s in group for frames in _frames_of([s], read([s]), read, timeout_s)]


def _result(ref: ray.ObjectRef[T], timeout_s: float) -> T:
    """What a task returns. MediaError when it takes too long, its process died or Ray lost its result."""
    ready, _ = ray.wait([ref], timeout=timeout_s)
    if not ready:
        ray.cancel(ref, force=True)
        raise _timeout(timeout_s)
    try:
        return ray.get(ref)
    except ray.exceptions.WorkerCrashedError:
        raise MediaError("decoder_crashed", "the reading process ended") from None
    except ray.exceptions.OutOfMemoryError:
        detail = "the reading process was killed for memory; a larger --decode-cpus runs fewer at once"
        raise MediaError("out_of_memory", detail) from None
    except Exception as error:
        raise refusal(error) from None


def _timeout(timeout_s: float) -> MediaError:
    return MediaError("decode_timeout", f"no frames after {timeout_s:g} s")


@ray.remote(max_retries=1)
def _read(group: list[Segment]) -> list[Frames]:
    """The frames of segments of one clip."""
    from data_prep.media.frames import read_frames

    found: list[Frames] = []
    try:
        with _local_file(group[0]) as (path, known):
            for segment in group:
                bucket = Bucket.parse(segment.bucket)
                size = (bucket.height, bucket.width)
                try:
                    found.append(read_frames(path, segment.times_s, size=size, threads=1, known=known))
                except Exception as error:
                    found.append(refusal(error))
    except Exception as error:
        return [*found, *[refusal(error)] * (len(group) - len(found))]
    return found


@ray.remote(max_retries=0)
def _read_in_pieces(segment: Segment, length: int) -> Iterator[Frames]:
    """The segment's frames piece by piece; an error where they end too soon."""
    from data_prep.media.frames import read_frames_in_pieces

    bucket = Bucket.parse(segment.bucket)
    try:
        with _local_file(segment) as (path, known):
            yield from read_frames_in_pieces(path, segment.times_s, (bucket.height, bucket.width), length, known, 1)
    except Exception as error:
        yield refusal(error)


def refusal(error: Exception) -> MediaError:
    """Why a segment gives no sample, from whatever reading or encoding it raised."""
    if isinstance(error, MediaError):
        return error
    if isinstance(error, MemoryError):
        return MediaError("out_of_memory", "reading wanted more memory than there is")
    return internal_error(error)


@contextmanager
def _local_file(segment: Segment) -> Iterator[tuple[str, Probe]]:
    """A local path and the probe of a segment's file. MediaError when the file is gone, changed or broken."""
    from data_prep.media.fetch import content_hash, local_copy
    from data_prep.media.probe import probe

    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_copy(segment.provenance.uri))
            changed = content_hash(path) != segment.content_hash
        except OSError as error:
            raise MediaError("fetch_failed", str(error)) from None
        if changed:
            raise MediaError("content_changed", "the file is not the one that was curated; run jobs/curate.py again")
        yield path, probe(path)
