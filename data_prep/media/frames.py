"""Upright RGB frames at presentation times, of any video or photograph that `probe` accepts.

N frames, H height, W width. decord reads a few frames out of a plain video (it seeks well); PyAV reads everything
else: long runs, and what decord cannot open (AV1) or silently gets wrong (MPEG-TS, edit lists, mirrored or non-square
pixels, hidden VP8 frames, HDR). Which one is decided per file, by comparing decord's table of times with the packets'.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import av
import numpy as np
from PIL import Image

from data_prep.media.hdr import to_sdr
from data_prep.media.probe import MediaError, Probe, open_image, open_video, probe, video_stream

DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp8", "vp9"}
HALF_TICK_S = 5e-4  # pts are rounded to milliseconds in Matroska
MOST_SEEKS = 32  # beyond this many frames reading on is as fast as seeking
MOST_SKIPPED_S = 0.2  # where skipping leaves out more than this, nothing is skipped any more


def read_frames(
    path: str | os.PathLike,
    times_s: Sequence[float],
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    threads: int = 0,
    known: Probe | None = None,
) -> np.ndarray:
    """uint8 (N, H, W, 3): for each time the frame that is on the screen then, that is the last one with pts <= t.

    Args: times_s, seconds from the first shown frame, in any order; size, (H, W), None for the shown size; fit, "crop"
    (cover the box without distortion and cut the centre), "stretch"; threads for decoding, 0 for all cores; known, this
    file's probe if the caller has it. A photograph is the same frame at all times.

    Raises:
        MediaError: what `probe` raises, and undecodable when a wanted frame cannot be had.
    """
    if fit not in ("crop", "stretch"):
        raise ValueError(f"fit: {fit!r} is unknown; use crop or stretch")
    path = os.fspath(path)
    known = known or probe(path)
    if known.media_type == "image":
        one = read_image(path, size, fit)
        return np.broadcast_to(one, (len(times_s), *one.shape)).copy()
    wanted = shown_index(known.times_s, times_s)
    size = size or (known.height, known.width)
    out = np.empty((len(wanted), *size, 3), np.uint8)
    if not _read_decord(path, known, wanted, out, fit):
        order, done = np.argsort(wanted, kind="stable"), 0
        for stop, shown in _pictures(path, known, wanted[order], size, fit, threads):
            out[order[done:stop]] = shown
            done = stop
    return out


def read_frames_in_pieces(
    path: str | os.PathLike,
    times_s: Sequence[float],
    size: tuple[int, int],
    length: int,
    known: Probe,
    threads: int = 0,
) -> Iterator[np.ndarray]:
    """What `read_frames` gives for rising times of a long video, in pieces of `length` frames, in flat memory.

    Raises:
        MediaError: undecodable when a wanted frame cannot be had.
    """
    wanted = shown_index(known.times_s, times_s)
    piece, done = [], 0
    for stop, shown in _pictures(os.fspath(path), known, wanted, size, "crop", threads):
        for _ in range(stop - done):
            piece.append(shown)
            if len(piece) == length:
                yield np.stack(piece)
                piece = []
        done = stop
    if piece:
        yield np.stack(piece)


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None, fit: str = "crop") -> np.ndarray:
    """uint8 (H, W, 3) of a photograph: EXIF turned, palette, CMYK, 16-bit and grey made RGB, alpha over white."""
    image, _ = open_image(os.fspath(path), at_least=(2 * size[0], 2 * size[1]) if size else None)
    image = to_rgb(image)
    if size is not None:
        height, width = _cover(image.height, image.width, size) if fit == "crop" else size
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return _centre(np.asarray(image), size)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "F"):
        pixels = np.asarray(image, np.float32)
        top = 65535.0 if image.mode != "F" or pixels.max() > 255 else (255.0 if pixels.max() > 1 else 1.0)
        image = Image.fromarray(np.clip(pixels / top * 255, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def shown_index(frame_times_s: np.ndarray, times_s: Sequence[float]) -> np.ndarray:
    """Index of the frame on the screen at each time; before the first and after the last, those."""
    at = np.searchsorted(frame_times_s, np.asarray(times_s, np.float64) + HALF_TICK_S, side="right") - 1
    return np.clip(at, 0, len(frame_times_s) - 1)


def decode(
    path: str,
    known: Probe,
    start_s: float = 0.0,
    threads: int = 0,
    on_damage: Callable[[], object] = lambda: None,
    skip: bool = False,
) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds from the first shown frame, decoded frame) in display order, from the key frame at or before start_s.

    Damaged packets are skipped, each told to on_damage: what is yielded is what a player shows. Memory is flat: one
    frame at a time. With `skip`, frames that no other frame is predicted from (most B-frames) may be left out, as long
    as the gaps stay short; those that come are the same as without.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        # Where times are the decoder's own guesses, leaving frames out would move them.
        skip = skip and not known.decode_times and known.first_pts is not None
        if skip:
            stream.codec_context.skip_frame = "NONREF"
        rate, tick_s, before_s = known.fps or 25.0, float(stream.time_base), np.inf
        keys = known.keyframes_s[known.keyframes_s <= start_s + HALF_TICK_S]
        origin = known.first_pts
        if known.seekable and len(keys) and keys[-1] > 0 and origin is not None:
            container.seek(round(keys[-1] / tick_s) + origin, stream=stream)
        count, tick = 0, None
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                if packet.size:  # Theora repeats a frame by an empty packet, which the decoder refuses
                    on_damage()
                continue
            for frame in frames:
                if known.decode_times:  # the last ones come without a packet
                    tick = frame.dts if frame.dts is not None or tick is None else tick + 1
                else:
                    tick = frame.pts
                if tick is None or origin is None:
                    seconds = count / rate
                else:
                    seconds = (tick - origin) * tick_s
                count += 1
                if skip and seconds - before_s > MOST_SKIPPED_S and _between(known, before_s, seconds):
                    skip, stream.codec_context.skip_frame = False, "DEFAULT"
                before_s = seconds
                if seconds > -HALF_TICK_S:
                    yield max(0.0, seconds), frame


def _between(known: Probe, after_s: float, until_s: float) -> int:
    """How many frames are shown between these two."""
    first, last = np.searchsorted(known.times_s, (after_s + HALF_TICK_S, until_s - HALF_TICK_S))
    return int(last - first)


def picture(
    frame: av.VideoFrame, known: Probe, size: tuple[int, int], fit: str = "crop", scaler: str = "BICUBIC"
) -> np.ndarray:
    """A decoded frame as upright uint8 RGB (H, W, 3) in `size`; scaler is one of swscale's (AREA is fast)."""
    height, width = _cover(known.height, known.width, size) if fit == "crop" else size
    stored = (height, width) if known.orientation[0] else (width, height)
    rgb = frame.reformat(
        width=stored[1],
        height=stored[0],
        format="rgb48le" if known.hdr else "rgb24",
        src_colorspace=known.colour_matrix or None,
        interpolation=scaler,
        threads=1,
    ).to_ndarray()
    if known.hdr:
        rgb = to_sdr(rgb, known.hdr)
    return _centre(turn(rgb, known.orientation), size)


def turn(pixels: np.ndarray, orientation: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W, ...) stored -> as shown; `orientation` as in Probe."""
    a, b, c, d = orientation
    if a == 0:
        pixels = np.swapaxes(pixels, 0, 1)  # now x follows stored y (sign c), y follows stored x (sign b)
        a, d = c, b
    return pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]


def _cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The size that keeps the shape and covers `size`."""
    scale = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * scale)), max(size[1], round(width * scale))


def _centre(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None:
        return np.ascontiguousarray(pixels)
    top, left = (pixels.shape[0] - size[0]) // 2, (pixels.shape[1] - size[1]) // 2
    return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]])


def _read_decord(path: str, known: Probe, wanted: np.ndarray, out: np.ndarray, fit: str) -> bool:
    """Fill `out` by seeking; False where decord is not to be trusted with this file."""
    plain = known.orientation == (1, 0, 0, 1) and known.pixel_aspect == 1 and not known.hdr
    unique = np.unique(wanted)
    sparse = len(unique) <= MOST_SEEKS
    if not (plain and sparse and known.seekable and known.codec in DECORD_CODECS and known.colour_matrix != "ITU709"):
        return False
    import decord

    decord.logging.set_level(decord.logging.QUIET)

    size = out.shape[1:3]
    height, width = _cover(known.height, known.width, size) if fit == "crop" else size
    try:
        reader = decord.VideoReader(path, width=width, height=height, num_threads=1)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        if len(times) != len(known.times_s) or np.abs(times - times[0] - known.times_s).max() > 2 * HALF_TICK_S:
            return False
        batch = reader.get_batch(unique).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError):
        return False
    if batch.shape[1:] != (height, width, 3):  # decord pads rows of some narrow pictures
        return False
    for row, at in enumerate(np.searchsorted(unique, wanted)):
        out[row] = _centre(batch[at], size)
    return True


def _pictures(
    path: str, known: Probe, wanted: np.ndarray, size: tuple[int, int], fit: str, threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(stop, picture) with rising stops: the picture of the `wanted` frames (indices, rising) before `stop`.

    A frame lost to damage is stood in for by the one on the screen before it. MediaError when there is none at all.
    """
    times = known.times_s[wanted]
    done, last = 0, None
    while done < len(times):
        with closing(decode(path, known, times[done], threads)) as decoder:
            for seconds, frame in decoder:
                for shown, until_s in ((last, seconds - HALF_TICK_S), (frame, seconds + HALF_TICK_S)):
                    stop = int(np.searchsorted(times, until_s, side="right"))
                    if shown is not None and stop > done:
                        yield stop, picture(shown, known, size, fit)
                        done = stop
                last = frame
                if done == len(times) or worth_seeking(known, seconds, times[done]):
                    break
            else:
                if last is None:
                    raise MediaError("undecodable", "no frame could be decoded")
                yield len(times), picture(last, known, size, fit)
                done = len(times)


def worth_seeking(known: Probe, now_s: float, target_s: float) -> bool:
    """Whether a key frame well ahead of the decoder leads to the target."""
    at = np.searchsorted(known.keyframes_s, target_s + HALF_TICK_S, side="right") - 1
    return bool(known.seekable and at >= 0 and known.keyframes_s[at] > now_s + 0.5)
