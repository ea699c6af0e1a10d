"""Upright RGB frames at presentation times, of any video or photograph that `probe` accepts.

decord reads a few frames of a plain video (it seeks well); PyAV reads everything else: long runs, and what decord
cannot open (AV1) or silently gets wrong (MPEG-TS, edit lists, mirrored or non-square pixels, hidden VP8 frames, HDR).
The choice is made per file, by comparing decord's table of times with the packets'.

N: frames; H, W: height and width. Sizes are (H, W) throughout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress

import av
import cv2
import numpy as np
from PIL import Image

from data_prep.media.container import demux, is_plainly, open_video, video_stream
from data_prep.media.errors import MediaError
from data_prep.media.hdr import to_sdr
from data_prep.media.probe import Probe, open_image, pillow_errors, probe
from data_prep.media.regular import open_regular

DECORD_CODECS = {"h264", "hevc", "mpeg4", "vp8", "vp9"}
HALF_TICK_S = 5e-4  # pts are rounded to milliseconds in Matroska
MOST_SEEKS = 32  # for more frames than this reading on is as fast as seeking
MOST_UNLIKE = 40.0  # levels of 255; two readers' first frames differ by 4 or less, in pure green by 30
MOST_SKIPPED_S = 0.2  # a gap longer than this ends the skipping of frames


def read_frames(
    path: str | os.PathLike,
    times_s: Sequence[float],
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    threads: int = 0,
    known: Probe | None = None,
) -> np.ndarray:
    """Read the frame on the screen at each time, that is the last one with pts <= t.

    Args:
        path: a video, or a photograph, which is the same frame at all times.
        times_s: seconds from the first shown frame, in any order: (N,).
        size: (H, W), None for the shown size.
        fit: "crop" (cover `size` without distortion and cut out the centre) or "stretch".
        threads: for decoding, 0 for all cores.
        known: the file's probe if the caller has it.
    Returns:
        uint8 (N, H, W, 3).
    Raises:
        MediaError: as for `probe`, and undecodable when a frame cannot be read.
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
    """Read like `read_frames`, at ascending times of a long video, in constant memory.

    Args:
        path: a video.
        times_s: seconds from the first shown frame, ascending: (N,).
        size: (H, W).
        length: frames per piece; the last one may be shorter.
        known: the file's probe.
        threads: for decoding, 0 for all cores.
    Yields:
        uint8 (length, H, W, 3).
    Raises:
        MediaError: undecodable when a frame cannot be read.
    """
    wanted = shown_index(known.times_s, times_s)
    piece: list[np.ndarray] = []
    done = 0
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
    """Read a photograph as uint8 RGB (H, W, 3), turned upright by its EXIF orientation; `size` and `fit` as in
    `read_frames`."""
    image, _ = open_image(os.fspath(path), at_least=(2 * size[0], 2 * size[1]) if size else None)
    image = to_rgb(image)
    if size is not None:
        height, width = _cover(image.height, image.width, size) if fit == "crop" else size
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return _centre(np.asarray(image), size)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode (palette, CMYK, 16 bits, grey) to 8-bit RGB, with transparency over white.

    Raises:
        MediaError: undecodable.
    """
    with pillow_errors():
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
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
    """Index of the frame on the screen at each time; the first and the last frame extend beyond the ends."""
    at = np.searchsorted(frame_times_s, np.asarray(times_s, np.float64) + HALF_TICK_S, side="right") - 1
    return np.clip(at, 0, len(frame_times_s) - 1)


def decode(
    path: str,
    known: Probe,
    start_s: float = 0.0,
    threads: int = 0,
    on_damage: Callable[[], object] = lambda: None,
    skip: bool = False,
) -> Generator[tuple[float, av.VideoFrame], None, None]:
    """Decode a video in display order, one frame in memory at a time.

    Args:
        path: a video.
        known: its probe.
        start_s: decoding starts from the key frame at or before this.
        threads: for decoding, 0 for all cores.
        on_damage: called for every damaged packet; these are skipped, so that what comes is what a player shows.
        skip: leave out frames from which no other frame is predicted (most B-frames), as long as the gaps stay short;
            the others are the same as without.
    Yields:
        (seconds from the first shown frame, decoded frame).
    Raises:
        MediaError: the file cannot be opened.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        assert stream is not None  # `probe` accepts no file without one
        assert stream.time_base is not None
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        # Where times depend on the count of frames, leaving some out would move them.
        skip = skip and not known.decode_times and known.first_pts is not None
        if skip:
            stream.codec_context.skip_frame = "NONREF"
        tick_s, before_s = float(stream.time_base), np.inf
        keys = known.keyframes_s[known.keyframes_s <= start_s + HALF_TICK_S]
        if known.seekable and len(keys) and keys[-1] > 0 and known.first_pts is not None:
            with suppress(av.FFmpegError):  # then it is read from its beginning
                container.seek(round(keys[-1] / tick_s) + known.first_pts, stream=stream)
        clock = _FrameClock(known, tick_s)
        for packet in demux(container, stream, lambda error: on_damage()):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                if packet.size:  # Theora repeats a frame by an empty packet, which the decoder rejects
                    on_damage()
                continue
            for frame in frames:
                seconds = clock.seconds(frame)
                if skip and seconds - before_s > MOST_SKIPPED_S and _between(known, before_s, seconds):
                    skip, stream.codec_context.skip_frame = False, "DEFAULT"
                before_s = seconds
                if seconds > -HALF_TICK_S:
                    yield max(0.0, seconds), frame


class _FrameClock:
    """Tells the seconds of decoded frames from the first shown one; called once for each, in order."""

    def __init__(self, known: Probe, tick_s: float):
        self._known, self._tick_s = known, tick_s
        self._count = 0
        self._tick: int | None = None

    def seconds(self, frame: av.VideoFrame) -> float:
        if not self._known.decode_times:
            self._tick = frame.pts
        elif frame.dts is not None or self._tick is None:
            self._tick = frame.dts
        else:  # the last ones come without a packet
            self._tick += 1
        self._count += 1
        if self._tick is None or self._known.first_pts is None:
            return (self._count - 1) / (self._known.fps or 25.0)
        return (self._tick - self._known.first_pts) * self._tick_s


def _between(known: Probe, after_s: float, until_s: float) -> int:
    """How many frames are shown strictly between these two times."""
    first, last = np.searchsorted(known.times_s, (after_s + HALF_TICK_S, until_s - HALF_TICK_S))
    return int(last - first)


def picture(
    frame: av.VideoFrame, known: Probe, size: tuple[int, int], fit: str = "crop", scaler: str = "BICUBIC"
) -> np.ndarray:
    """Convert a decoded frame to upright RGB.

    Args:
        frame: a frame of `decode`.
        known: the file's probe.
        size: (H, W).
        fit: as in `read_frames`.
        scaler: one of swscale's (AREA is fast).
    Returns:
        uint8 (H, W, 3).
    """
    height, width = _cover(known.height, known.width, size) if fit == "crop" else size
    stored = (height, width) if known.orientation[0] else (width, height)
    rgb: np.ndarray = frame.reformat(
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
    """Turn and mirror a stored picture (H, W, ...) as shown; `orientation` as in Probe."""
    a, b, c, d = orientation
    if a == 0:
        pixels = np.swapaxes(pixels, 0, 1)  # now x follows stored y (sign c), y follows stored x (sign b)
        a, d = c, b
    return pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]


def _cover(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size that covers `size` at the same aspect ratio."""
    scale = max(size[0] / height, size[1] / width)
    return max(size[0], round(height * scale)), max(size[1], round(width * scale))


def _centre(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None:
        return np.ascontiguousarray(pixels)
    top, left = (pixels.shape[0] - size[0]) // 2, (pixels.shape[1] - size[1]) // 2
    return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]])


def _read_decord(path: str, known: Probe, wanted: np.ndarray, out: np.ndarray, fit: str) -> bool:
    """Fill `out` (N, H, W, 3) by seeking; False where decord cannot be trusted with this file.

    decord brings another FFmpeg. It gets a descriptor, not a name, of a file whose first bytes allow one demuxer only,
    and has to see the same frames at the same times.
    """
    plain = known.orientation == (1, 0, 0, 1) and known.pixel_aspect == 1 and not known.hdr
    unique = np.unique(wanted)
    sparse = len(unique) <= MOST_SEEKS
    honest = known.header_frames <= 4 * known.frame_count + 1000  # decord allocates as many as the header claims
    usable = known.seekable and known.codec in DECORD_CODECS and known.colour_matrix != "ITU709"
    if not (plain and sparse and honest and usable):
        return False
    import decord

    decord.logging.set_level(decord.logging.QUIET)

    size = out.shape[1:3]
    height, width = _cover(known.height, known.width, size) if fit == "crop" else size
    with open_regular(path) as file:
        if not is_plainly(known.container, file.read(128)):
            return False
        try:
            reader = decord.VideoReader(f"/dev/fd/{file.fileno()}", width=width, height=height, num_threads=1)
            times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
            if len(times) != len(known.times_s) or np.abs(times - times[0] - known.times_s).max() > 2 * HALF_TICK_S:
                return False
            indices = np.union1d([0], unique)
            batch = reader.get_batch(indices).asnumpy()
        except (decord.DECORDError, RuntimeError, IndexError):
            return False
    # decord pads rows of some narrow pictures
    if batch.shape[1:] != (height, width, 3) or not _is_first(batch[0], known):
        return False
    for row, at in enumerate(np.searchsorted(indices, wanted)):
        out[row] = _centre(batch[at], size)
    return True


def _is_first(rgb: np.ndarray, known: Probe) -> bool:
    """Whether a picture, uint8 (H, W, 3), is the first frame of a file, allowing for another colour matrix."""
    if known.first is None:
        return False
    seen = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), known.first.shape[::-1], interpolation=cv2.INTER_AREA)
    return float(cv2.absdiff(seen, known.first).mean()) < MOST_UNLIKE


def _pictures(
    path: str, known: Probe, wanted: np.ndarray, size: tuple[int, int], fit: str, threads: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (stop, picture): the picture of the `wanted` frames (indices, ascending) from the last stop up to this one.

    A frame lost to damage is replaced by the one on the screen before it; MediaError when there is none at all.
    """
    times = known.times_s[wanted]
    done = 0
    last: av.VideoFrame | None = None
    while done < len(times):
        began = done
        with closing(decode(path, known, times[done], threads)) as decoder:
            for seconds, frame in decoder:
                for shown, until_s in ((last, seconds - HALF_TICK_S), (frame, seconds + HALF_TICK_S)):
                    stop = int(np.searchsorted(times, until_s, side="right"))
                    if shown is not None and stop > done:
                        yield stop, picture(shown, known, size, fit)
                        done = stop
                last = frame
                # Some files lead to an earlier key frame than asked for: seeking again would lead there again.
                if done == len(times) or (done > began and worth_seeking(known, seconds, times[done])):
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
