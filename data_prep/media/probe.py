"""What a media file is: validated by demuxing all of it and decoding a first picture, or refused with a named reason.

Headers lie (durations of 40 hours for 30 frames, frame counts of files cut short), so counts and times come from the
packets. Sizes are as shown: after rotation and pixel aspect. Times are seconds from the first frame that is shown.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import av
import av.logging
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MIN_SIDE = 16
"""Pixels; smaller pictures (tracking pixels, icons) are no use to any stage, and scalers misbehave on them."""
MAX_PIXELS = 16384 * 16384
"""A picture larger than this is refused before it is decoded (decompression bombs)."""

# Demuxers that read exactly the file they are given. Playlists and scripts (hls, dash, concat, ...) could pull in other
# files or addresses, so a file that is one is not opened, whatever its name says.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,h264,hevc,obu,ivf,mpegvideo,m4v,mxf,gif,wtv,dv,"
    "nut,rm,wav,mp3,aac,flac"
)
ENCRYPTION_BOXES = (b"encv", b"pssh", b"cenc", b"cbcs")
EXIF_ORIENTATION = 0x0112
UNSPECIFIED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED
IMAGE_CODECS = {"JPEG": "jpeg", "MPO": "jpeg"}

# PyAV's own callback needs the GIL and deadlocks with frame threads (PyAV#1849); FFmpeg's writes to stderr, so: quiet.
av.logging.restore_default_callback()
av.logging.set_libav_level(av.logging.PANIC)


class MediaError(Exception):
    """A file that cannot be used. `reason` is a short snake_case code for the ledger, `detail` a sentence."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, " ".join(detail.split())[:300]

    def __reduce__(self):
        return MediaError, (self.reason, self.detail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """A usable image or video.

    Fields: media_type (image or video); container and codec (FFmpeg's or Pillow's names); width, height as shown;
    fps (shown frames per second, 0 for an image); duration_s (0 for an image); frame_count (frames that are shown);
    variable_rate (frame intervals differ by more than half); orientation (a, b, c, d of the display matrix as signs:
    shown x = a*x + c*y, y = b*x + d*y); pixel_aspect (width of a stored pixel over its height); hdr ("pq", "hlg" or
    ""); has_audio; times_s (T, seconds of every shown frame, ascending from 0); seekable (key frames are clean entry
    points); colour_matrix (swscale's name where the file is silent and its size decides, as in players); first_pts (of
    the first shown frame, in stream ticks; None when packets carry no times); decode_times (a frame's time is its dts,
    the tick at which it leaves the decoder, and first_pts is a dts too: reordered pictures in AVI); keyframes_s
    (seconds).
    """

    media_type: str
    container: str
    codec: str
    width: int
    height: int
    fps: float = 0.0
    duration_s: float = 0.0
    frame_count: int | None = 1
    variable_rate: bool = False
    orientation: tuple[int, int, int, int] = (1, 0, 0, 1)
    pixel_aspect: float = 1.0
    hdr: str = ""
    has_audio: bool = False
    seekable: bool = False
    colour_matrix: str = ""
    first_pts: int | None = None
    decode_times: bool = False
    times_s: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1), repr=False, compare=False)
    keyframes_s: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1), repr=False, compare=False)

    @property
    def rotation(self) -> int:
        """Degrees clockwise that the stored picture is turned by when shown (mirroring aside)."""
        return {(1, 0): 0, (0, 1): 90, (-1, 0): 180, (0, -1): 270}[self.orientation[:2]]


def probe(path: str | os.PathLike) -> Probe:
    """What the file at `path` is.

    Raises:
        MediaError: file_missing, empty_file, unknown_format, unsupported_codec, encrypted, truncated, no_video_stream,
            no_frames, undecodable, zero_duration, too_small, too_large.
    """
    path = os.fspath(path)
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as f:
            head = f.read(64)
    except (OSError, ValueError) as error:  # ValueError: NUL byte in the name
        raise MediaError("file_missing", str(error)) from None
    if size == 0:
        raise MediaError("empty_file", "0 bytes")
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"):
        raise MediaError("unsupported_codec", "HEIC photographs need converting to JPEG, PNG, WebP or AVIF first")
    shown = probe_image(path) if is_image(head) else probe_video(path)
    if min(shown.width, shown.height) < MIN_SIDE:
        raise MediaError("too_small", f"{shown.width}x{shown.height} pixels, under {MIN_SIDE}")
    return shown


def is_image(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a photograph format we read."""
    return (
        head[:3] == b"\xff\xd8\xff"
        or head[:8] == b"\x89PNG\r\n\x1a\n"
        or head[:2] == b"BM"
        or head[:4] in (b"II*\0", b"MM\0*")
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
    )


def open_image(path: str, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The decoded photograph, upright, and its full size (height, width).

    With `at_least` (height, width) a JPEG may come at half, a quarter or an eighth of its size, which decodes faster;
    all of the file is read either way, so damage shows.

    Raises:
        MediaError: unknown_format, truncated, undecodable, too_large.
    """
    try:
        image = Image.open(path)
        full = image.size
        if full[0] * full[1] > MAX_PIXELS:
            raise MediaError("too_large", f"{full[0]}x{full[1]} pixels")
        if at_least and image.format in ("JPEG", "MPO"):
            side = max(at_least)
            image.draft(None, (side, side))
        turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
        image.load()
        return ImageOps.exif_transpose(image), full if turned else full[::-1]
    except UnidentifiedImageError as error:
        raise MediaError("unknown_format", str(error)) from None
    except Image.DecompressionBombError as error:
        raise MediaError("too_large", str(error)) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise MediaError("truncated" if cut else "undecodable", str(error)) from None


def probe_image(path: str) -> Probe:
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


def open_video(path: str) -> av.container.InputContainer:
    """The container, read strictly from this one file. Raises MediaError."""
    try:
        return av.open(
            "file:" + os.path.abspath(path),
            options={"protocol_whitelist": "file", "format_whitelist": DEMUXERS},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _why_not_opened(path, error) from None


def _why_not_opened(path: str, error: Exception) -> MediaError:
    """FFmpeg says 'invalid data' for all of these; the bytes say more."""
    with open(path, "rb") as f:
        head = f.read(1 << 20)
    size = os.path.getsize(path)
    if any(box in head for box in ENCRYPTION_BOXES):
        return MediaError("encrypted", "the container carries DRM boxes and no readable stream")
    if isinstance(error, av.error.EOFError):
        return MediaError("truncated", "the file ends inside its header")
    if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"wide"):
        if b"moov" not in head and b"moov" not in _tail(path):
            return MediaError("truncated", "no moov box: the recording or the download was cut short")
        return MediaError("damaged_container", f"boxes cannot be followed: {_ffmpeg_says(error)}")
    if head[:3] == b"FLV" or (head[:4] in (b"RIFF", b"OggS", b"\x1aE\xdf\xa3") and size < 1024):
        return MediaError("truncated", f"only a header: {size} bytes")
    segment = Path(path).suffix.lower() in (".ts", ".m4s", ".aes")  # HLS encrypts whole segments
    if segment and size % 16 == 0 and _entropy(head) > 7.99:
        return MediaError("encrypted", "no container signature and the bytes are as random as a cipher's")
    return MediaError("unknown_format", _ffmpeg_says(error))


def _tail(path: str, size: int = 1 << 20) -> bytes:
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - size))
        return f.read()


def _entropy(data: bytes) -> float:
    """Bits per byte."""
    p = np.bincount(np.frombuffer(data, np.uint8), minlength=256) / max(1, len(data))
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


def _ffmpeg_says(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def probe_video(path: str) -> Probe:
    with open_video(path) as container:
        stream = video_stream(container)
        if stream is None:
            kinds = sorted({s.type for s in container.streams}) or ["nothing"]
            raise MediaError("no_video_stream", f"{container.format.name} with {', '.join(kinds)} only")
        # AVI counts chunks in the order of decoding. Where B-frames reorder them, FFmpeg's pts are guesses (H.264's and
        # padded Xvid's run backwards); a player shows one frame per chunk, as the decoder lets them go.
        decode_times = container.format.name == "avi" and stream.codec_context.has_b_frames
        leaves = _leaves_decoder(path) if decode_times else None
        times, keys, last_s, first_pts, packets, damaged = _packet_times(container, stream, leaves)
        header_frames, header_s = stream.frames, _header_seconds(container, stream)
        has_audio = bool(container.streams.audio)
        container_name, codec = container.format.name.split(",")[0], stream.codec_context.name
        rate = stream.guessed_rate or stream.average_rate
    if packets == 0:
        reason = "truncated" if header_frames else "no_frames"
        raise MediaError(reason, f"the header announces {header_frames} frames, the file holds none")
    short = header_s > 1.25 * (times[-1] + last_s) + 1
    if short and (damaged or header_frames > 1.25 * packets + 2 or container_name == "matroska"):
        raise MediaError("truncated", f"the header announces {header_s:.1f} s, the file ends at {times[-1]:.1f} s")
    first = _first_picture(path)
    aspect = float(first.sample_aspect) if first.sample_aspect else 1.0
    aspect = aspect if 0.05 < aspect < 20 else 1.0
    width, height = first.width * aspect if aspect > 1 else first.width, first.height
    if aspect < 1:
        height = first.height / aspect
    turned = first.orientation[0] == 0
    width, height = (height, width) if turned else (width, height)
    if width * height > MAX_PIXELS:
        raise MediaError("too_large", f"{width:.0f}x{height:.0f} pixels")
    if len(times) == 1 and packets > 1:  # elementary streams carry no times: the nominal rate stands in
        times = np.arange(packets) / float(rate or 25)
        keys = times[:1]
    steps = np.diff(times)
    step = float(np.median(steps)) if len(steps) else (1 / float(rate) if rate else 0.0)
    duration = float(times[-1]) + (last_s or step)
    if duration <= 0:
        raise MediaError("zero_duration", "one frame without a duration")
    return Probe(
        media_type="video",
        container=container_name,
        codec=codec,
        width=round(width),
        height=round(height),
        fps=len(times) / duration,
        duration_s=duration,
        frame_count=len(times),
        variable_rate=bool(len(steps) and steps.max() > 1.5 * max(step, 1e-6)),
        orientation=first.orientation,
        pixel_aspect=aspect,
        hdr={16: "pq", 18: "hlg"}.get(first.transfer, ""),
        has_audio=has_audio,
        seekable=container_name in ("mov", "matroska"),
        colour_matrix=first.colour_matrix,
        first_pts=first_pts,
        decode_times=leaves is not None,
        times_s=times,
        keyframes_s=keys,
    )


def _header_seconds(container, stream) -> float:
    """The duration that the header claims for the pictures, 0 when it claims none."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska only knows the whole file's, which the sound may set.
    return (container.duration or 0) / 1e6 if not container.streams.audio else 0.0


def video_stream(container):
    """The first real video stream or None; cover art in audio files is a video stream to FFmpeg."""
    real = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    return real[0] if real else None


def _leaves_decoder(path: str) -> tuple[int, int] | None:
    """The dts at which the first frame leaves the decoder, and how many more it then holds back for reordering."""
    with open_video(path) as container:
        stream = video_stream(container)
        stream.thread_type = "SLICE"  # frame threads hold back more
        for packet in container.demux(stream):
            try:
                if frames := packet.decode():
                    first = frames[0].dts
                    return None if first is None else (first, len(frames) - 1 + len(stream.codec_context.decode(None)))
            except av.FFmpegError:
                continue
    return None


def _packet_times(
    container, stream, leaves: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray, float, int | None, int, bool]:
    """Times of shown frames and of key frames (seconds from the first), how long the last one stays, the first's pts,
    the count of packets with data, and whether the file broke off.

    With `leaves` (see _leaves_decoder) frames are timed by dts: those held back come out one tick apart at the end.
    """
    shown, keys, packets, damaged = {}, [], 0, False
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            packets += 1
            damaged |= packet.is_corrupt
            if leaves is not None:
                if packet.dts is not None and packet.dts >= leaves[0]:
                    shown[packet.dts] = packet.duration or 0
                continue
            if packet.pts is None or packet.is_discard:  # discarded: outside the edit list
                continue
            shown[packet.pts] = packet.duration or 0  # keyed: VP8's hidden frames share the time of a shown one
            if packet.is_keyframe:
                keys.append(packet.pts)
    except av.FFmpegError:
        damaged = True
    if not shown:
        return np.zeros(1), np.zeros(1), 0.0, None, packets, damaged
    tick = float(stream.time_base)
    if leaves is not None:
        end = max(shown)
        shown.update({end + 1 + i: 1 for i in range(leaves[1])})
        keys = [leaves[0]]
    pts = np.array(sorted(shown), np.int64)
    keyframes = (np.array(sorted(keys), np.int64) - pts[0]) * tick
    return (pts - pts[0]) * tick, keyframes, shown[int(pts[-1])] * tick, int(pts[0]), packets, damaged


@dataclasses.dataclass(frozen=True)
class _Picture:
    width: int
    height: int
    sample_aspect: object
    orientation: tuple[int, int, int, int]
    transfer: int
    colour_matrix: str


def _first_picture(path: str) -> _Picture:
    with open_video(path) as container:
        stream, last = video_stream(container), "no frame came out"
        stream.thread_type = "SLICE"
        for count, packet in enumerate(container.demux(stream)):
            try:
                for frame in packet.decode():
                    return _Picture(
                        frame.width,
                        frame.height,
                        stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio,
                        orientation(frame),
                        frame.color_trc,
                        ("ITU709" if frame.height >= 720 else "ITU601") if frame.colorspace == UNSPECIFIED else "",
                    )
            except av.FFmpegError as error:
                last = _ffmpeg_says(error)
            if count > 300:
                break
    raise MediaError("undecodable", f"no picture could be decoded ({last})")


def orientation(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) as signs: shown x = a*x + c*y, shown y = b*x + d*y. Nonsense matrices count as upright."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return (1, 0, 0, 1)
    m = np.frombuffer(bytes(side), np.int32) / 65536.0
    a, b, c, d = (round(float(v)) if math.isfinite(v) else 0 for v in (m[0], m[1], m[3], m[4]))
    straight = abs(a) == 1 and abs(d) == 1 and b == c == 0
    turned = abs(b) == 1 and abs(c) == 1 and a == d == 0
    return (a, b, c, d) if straight or turned else (1, 0, 0, 1)
