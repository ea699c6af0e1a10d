"""Opening untrusted video containers with FFmpeg: one file and nothing it refers to, or a named reason why not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataKind
from av.video.stream import VideoStream

from data_prep.media.errors import MediaError

# Demuxers that read exactly the file they are given. Playlists and scripts (hls, dash, concat, ...) could pull in other
# files or addresses, so they are not opened, whatever the file's name.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,h264,hevc,obu,ivf,mpegvideo,m4v,mxf,gif,wtv,dv,"
    "nut,rm,wav,mp3,aac,flac"
)
MOV = re.compile(rb"\0.{3}(ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL)
EBML = re.compile(rb"\x1aE\xdf\xa3(\x01\0{6}.|[\x80-\xff]).{0,64}?\x42\x82.(webm|matroska)", re.DOTALL)
ENCRYPTION_BOXES = (b"encv", b"pssh", b"cenc", b"cbcs")

# PyAV's own callback needs the GIL and deadlocks with frame threads (PyAV#1849); FFmpeg's writes to stderr: quiet it.
av.logging.restore_default_callback()
av.logging.set_libav_level(av.logging.PANIC)


def _unknown_side_data(kinds: type[SideDataKind], value: object) -> SideDataKind:
    """A member for a kind of side data that FFmpeg has and PyAV does not list: the views of a spatial video, EXIF.

    Without it one such entry makes all side data of a frame unreadable, the display matrix too.
    """
    member: Any = object.__new__(kinds)
    member._name_, member._value_ = f"UNKNOWN_{value}", value
    return cast(SideDataKind, member)


SideDataKind._missing_ = classmethod(_unknown_side_data)  # type: ignore[assignment, method-assign]


def open_video(path: str) -> InputContainer:
    """Open a container strictly as this one file.

    Raises:
        MediaError: encrypted, truncated, damaged_container, unknown_format.
    """
    try:
        return av.open(
            "file:" + os.path.abspath(path),
            options={"protocol_whitelist": "file", "format_whitelist": DEMUXERS},
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _refusal(path, error) from None


def is_plainly(container: str, head: bytes) -> bool:
    """Whether the first bytes of a file (128 will do) leave no FFmpeg a choice of demuxers.

    Other files are opened by their names or by what follows; an older FFmpeg may take them for something else, such as
    a playlist of other files.
    """
    if container == "mov":
        return MOV.match(head) is not None
    doctype = EBML.match(head) if container == "matroska" else None
    return doctype is not None and doctype.end() - doctype.end(1) <= doctype[1][-1] & 0x7F  # within the header


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first real video stream that can be decoded, or None; FFmpeg lists the cover art of audio files as one too.

    Raises:
        MediaError: unsupported_codec where FFmpeg has no decoder for any of them.
    """
    real = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    usable = [s for s in real if s.codec_context is not None]
    if real and not usable:
        raise MediaError("unsupported_codec", "FFmpeg has no decoder for the pictures")
    return usable[0] if usable else None


def demux(
    container: InputContainer, stream: VideoStream, on_break: Callable[[av.FFmpegError], object] = lambda error: None
) -> Iterator[Packet]:
    """The packets of a stream, and an empty one at its end or where the container cannot be followed any further; then
    on_break is called before."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        on_break(error)
        flush = Packet()
        flush.stream = stream
        yield flush


def ffmpeg_message(error: Exception) -> str:
    """FFmpeg's own words for an error."""
    return str(getattr(error, "strerror", None) or error)


def _refusal(path: str, error: Exception) -> MediaError:
    """FFmpeg reports 'invalid data' for all of these; the bytes tell more."""
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
        return MediaError("damaged_container", f"boxes cannot be followed: {ffmpeg_message(error)}")
    if head[:3] == b"FLV" or (head[:4] in (b"RIFF", b"OggS", b"\x1aE\xdf\xa3") and size < 1024):
        return MediaError("truncated", f"only a header: {size} bytes")
    segment = Path(path).suffix.lower() in (".ts", ".m4s", ".aes")  # HLS encrypts whole segments
    if segment and size % 16 == 0 and _entropy(head) > 7.99:
        return MediaError("encrypted", "no container signature and the bytes are as random as a cipher's")
    return MediaError("unknown_format", ffmpeg_message(error))


def _tail(path: str, size: int = 1 << 20) -> bytes:
    with open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - size))
        return f.read()


def _entropy(data: bytes) -> float:
    """Bits per byte."""
    p = np.bincount(np.frombuffer(data, np.uint8), minlength=256) / max(1, len(data))
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())
