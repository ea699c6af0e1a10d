"""What a media file is: validated by demuxing all of it and decoding a first picture, or refused with a named reason.

Headers lie (durations of 40 hours for 30 frames, frame counts of files cut short), so counts and times come from the
packets. Sizes are as shown: after rotation and pixel aspect. Times are seconds from the first frame that is shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from data_prep.media.container import demux, ffmpeg_message, open_video, video_stream
from data_prep.media.errors import MediaError
from data_prep.media.planes import grey, planes
from data_prep.media.regular import open_regular
from data_prep.media.timing import Timing, header_seconds, read_timing

MIN_SIDE = 16
"""Pixels; smaller pictures (tracking pixels, icons) are useless to every stage, and scalers misbehave on them."""
MAX_PIXELS = 16384 * 16384
"""A larger picture is refused before it is decoded (decompression bombs)."""
EXIF_ORIENTATION = 0x0112
EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a stored photograph upright; from 5 on width and height change places."""
FIRST = (16, 16)
"""Sides of the miniature of the first frame."""
UNSPECIFIED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED
IMAGE_CODECS = {"JPEG": "jpeg", "MPO": "jpeg"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A usable image or video."""

    media_type: str
    """image or video."""
    container: str
    """FFmpeg's or Pillow's name, as for the codec."""
    codec: str
    width: int
    """As shown, like the height."""
    height: int
    fps: float = 0.0
    """Shown frames per second, 0 for an image."""
    duration_s: float = 0.0
    """0 for an image."""
    frame_count: int = 1
    """Frames that are shown."""
    header_frames: int = 0
    """As the header claims; 0 when it claims none."""
    variable_rate: bool = False
    """Whether frame intervals differ by more than half."""
    orientation: tuple[int, int, int, int] = (1, 0, 0, 1)
    """(a, b, c, d) of the display matrix as signs: shown x = a*x + c*y, y = b*x + d*y."""
    pixel_aspect: float = 1.0
    """Width of a stored pixel over its height."""
    hdr: str = ""
    """pq, hlg or empty."""
    has_audio: bool = False
    seekable: bool = False
    """Whether key frames are clean entry points."""
    colour_matrix: str = ""
    """swscale's name where the file does not tell and its size decides, as in players."""
    first_pts: int | None = None
    """Of the first shown frame, in stream ticks; None when packets carry no times."""
    decode_times: bool = False
    """Whether a frame's time is its dts, the tick at which it leaves the decoder, and first_pts a dts too (reordered
    pictures in AVI)."""
    times_s: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1), repr=False, compare=False)
    """Seconds of every shown frame, ascending from 0: (frame_count,)."""
    keyframes_s: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1), repr=False, compare=False)
    """Seconds of the key frames."""
    first: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)
    """Miniature of a video's first frame as stored, grey: uint8 of FIRST. Another reader must see the same."""

    @property
    def rotation(self) -> int:
        """Degrees clockwise that the stored picture is turned by when shown (mirroring aside)."""
        return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[self.orientation[:2]]


def probe(path: str | os.PathLike) -> Probe:
    """Validate the file at `path` and describe it.

    Raises:
        MediaError: file_missing, not_a_file, not_readable, empty_file, unknown_format, unsupported_codec, encrypted,
            truncated, no_video_stream, no_frames, undecodable, zero_duration, too_small, too_large.
    """
    path = os.fspath(path)
    with open_regular(path) as file:
        head = file.read(64)
    if not head:
        raise MediaError("empty_file", "0 bytes")
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"):
        raise MediaError("unsupported_codec", "HEIC photographs need converting to JPEG, PNG, WebP or AVIF first")
    shown = probe_image(path) if is_image(head) else probe_video(path)
    if min(shown.width, shown.height) < MIN_SIDE:
        raise MediaError("too_small", f"{shown.width}x{shown.height} pixels, under {MIN_SIDE}")
    return shown


def is_image(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a supported photograph format."""
    return (
        head[:3] == b"\xff\xd8\xff"
        or head[:8] == b"\x89PNG\r\n\x1a\n"
        or head[:2] == b"BM"
        or head[:4] in (b"II*\0", b"MM\0*")
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
    )


def open_image(path: str, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a photograph, upright.

    Args:
        path: a file that `is_image` accepts.
        at_least: (height, width) from which a JPEG may come at half, a quarter or an eighth of its size, which decodes
            faster; all of the file is read either way, so damage shows.
    Returns:
        The photograph, and its full size (height, width).
    Raises:
        MediaError: unknown_format, truncated, undecodable, too_large.
    """
    with pillow_errors():
        image: Image.Image = Image.open(path)
        full = image.size
        if full[0] * full[1] > MAX_PIXELS:
            raise MediaError("too_large", f"{full[0]}x{full[1]} pixels")
        if at_least and image.format in ("JPEG", "MPO"):
            side = max(at_least)
            image.draft(None, (side, side))
        image.load()  # turns a TIFF, of which `full` is known upright
        orientation = _exif_orientation(image)
        if orientation in EXIF_TURNS:
            image = image.transpose(EXIF_TURNS[orientation])
        return image, full if orientation >= 5 else full[::-1]


@contextlib.contextmanager
def pillow_errors() -> Iterator[None]:
    """Refuse the file where Pillow raises: damaged bytes make its readers raise anything."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise MediaError("unknown_format", str(error)) from None
    except Image.DecompressionBombError as error:
        raise MediaError("too_large", str(error)) from None
    except Exception as error:
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise MediaError("truncated" if cut else "undecodable", str(error) or type(error).__name__) from None


def _exif_orientation(image: Image.Image) -> int:
    """1 to 8; 1 where it is missing, nonsense, or cannot be read, as in other viewers."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises anything, and is no reason to refuse the picture
        return 1
    return next((known for known in EXIF_TURNS if known == value), 1)


def probe_image(path: str) -> Probe:
    """Probe a photograph, decoding all of it.

    Raises:
        MediaError: as for `open_image`.
    """
    _, (height, width) = open_image(path, at_least=(64, 64))
    with Image.open(path) as header:
        kind = header.format or "image"
    return Probe(
        media_type="image",
        container=kind.lower(),
        codec=IMAGE_CODECS.get(kind, kind.lower()),
        width=width,
        height=height,
    )


def probe_video(path: str) -> Probe:
    """Probe a file that is not a photograph.

    Raises:
        MediaError: as for `probe`.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        if stream is None:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            raise MediaError("no_video_stream", f"{container.format.name} with {', '.join(kinds)} only")
        timing = read_timing(path, container, stream)
        header_frames, header_s = stream.frames, header_seconds(container, stream)
        has_audio = bool(container.streams.audio)
        container_name, codec = container.format.name.split(",")[0], stream.codec_context.name
        rate = stream.guessed_rate or stream.average_rate
    _check_complete(timing, header_frames, header_s, container_name)
    first = _first_picture(path)
    width, height, pixel_aspect = _shown_size(first)
    times, keyframes = timing.times_s, timing.keyframes_s
    if len(times) == 1 and timing.packets > 1:  # elementary streams carry no times: assume the nominal rate
        times = np.arange(timing.packets) / float(rate or 25)
        keyframes = times[:1]
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else (1 / float(rate) if rate else 0.0)
    duration = float(times[-1]) + (timing.last_s or step)
    if duration <= 0:
        raise MediaError("zero_duration", "one frame without a duration")
    return Probe(
        media_type="video",
        container=container_name,
        codec=codec,
        width=width,
        height=height,
        fps=len(times) / duration,
        duration_s=duration,
        frame_count=len(times),
        header_frames=header_frames,
        variable_rate=bool(len(steps) and steps.max() > 1.5 * max(step, 1e-6)),
        orientation=first.orientation,
        pixel_aspect=pixel_aspect,
        hdr={16: "pq", 18: "hlg"}.get(first.transfer, ""),
        has_audio=has_audio,
        seekable=container_name in ("mov", "matroska"),
        colour_matrix=first.colour_matrix,
        first_pts=timing.first_pts,
        decode_times=timing.decode_times,
        times_s=times,
        keyframes_s=keyframes,
        first=first.miniature,
    )


def _check_complete(timing: Timing, header_frames: int, header_s: float, container: str) -> None:
    """Raise MediaError where the header announces clearly more than the packets hold."""
    if timing.packets == 0:
        reason = "truncated" if header_frames else "no_frames"
        raise MediaError(reason, f"the header announces {header_frames} frames, the file holds none")
    end_s = timing.times_s[-1]
    short = header_s > 1.25 * (end_s + timing.last_s) + 1
    if short and (timing.damaged or header_frames > 1.25 * timing.packets + 2 or container == "matroska"):
        raise MediaError("truncated", f"the header announces {header_s:.1f} s, the file ends at {end_s:.1f} s")


@dataclasses.dataclass(frozen=True)
class _Picture:
    """The first decoded picture; width and height as stored."""

    width: int
    height: int
    sample_aspect: Fraction | None
    orientation: tuple[int, int, int, int]
    transfer: int
    colour_matrix: str
    miniature: np.ndarray


def _first_picture(path: str) -> _Picture:
    with open_video(path) as container:
        stream, last = video_stream(container), "no frame came out"
        assert stream is not None
        stream.thread_type = "SLICE"
        for count, packet in enumerate(demux(container, stream)):
            try:
                for frame in packet.decode():
                    return _Picture(
                        frame.width,
                        frame.height,
                        stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio,
                        orientation(frame),
                        frame.color_trc,
                        ("ITU709" if frame.height >= 720 else "ITU601") if frame.colorspace == UNSPECIFIED else "",
                        grey(frame, planes(frame)[0], FIRST, exact=True),
                    )
            except av.FFmpegError as error:
                last = ffmpeg_message(error)
            if count > 300:
                break
    raise MediaError("undecodable", f"no picture could be decoded ({last})")


def _shown_size(first: _Picture) -> tuple[int, int, float]:
    """(width, height, pixel aspect) as shown; raises MediaError where that is too large."""
    aspect = float(first.sample_aspect) if first.sample_aspect else 1.0
    aspect = aspect if 0.05 < aspect < 20 else 1.0
    width = first.width * aspect if aspect > 1 else first.width
    height = first.height / aspect if aspect < 1 else first.height
    if first.orientation[0] == 0:  # turned by 90 degrees
        width, height = height, width
    if width * height > MAX_PIXELS:
        raise MediaError("too_large", f"{width:.0f}x{height:.0f} pixels")
    return round(width), round(height), aspect


def orientation(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) as signs: shown x = a*x + c*y, shown y = b*x + d*y. Nonsense matrices count as upright."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return (1, 0, 0, 1)
    m = np.frombuffer(bytes(matrix), np.int32) / 65536.0  # type: ignore[call-overload]
    a, b, c, d = (round(float(v)) if math.isfinite(v) else 0 for v in (m[0], m[1], m[3], m[4]))
    straight = abs(a) == 1 and abs(d) == 1 and b == c == 0
    turned = abs(b) == 1 and abs(c) == 1 and a == d == 0
    return (a, b, c, d) if straight or turned else (1, 0, 0, 1)
