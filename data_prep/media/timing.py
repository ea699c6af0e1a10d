"""When each frame of a video is shown, from its packets: headers lie, and nothing needs to be decoded for it."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from data_prep.media.container import demux, open_video, video_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What one pass over the packets of a video stream tells."""

    packets: int
    """Packets with data."""
    damaged: bool
    """Whether a packet was corrupt or the file broke off."""
    decode_times: bool
    """Whether frames are timed by dts, the tick at which they leave the decoder."""
    times_s: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    """Seconds of every shown frame, ascending from 0; one 0 when packets carry no times."""
    keyframes_s: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(1))
    """Seconds of the key frames among them."""
    last_s: float = 0.0
    """How long the last frame stays; 0 when the file does not tell."""
    first_pts: int | None = None
    """Of the first shown frame, in stream ticks (a dts with decode_times); None when packets carry no times."""


class _DecoderDelay(NamedTuple):
    first_dts: int
    """The dts at which the first frame leaves the decoder."""
    held_back: int
    """How many more frames it then holds back for reordering."""


def read_timing(path: str, container: InputContainer, stream: VideoStream) -> Timing:
    """Demux all of `stream`, of the open `container` of the file at `path`.

    AVI counts chunks in the order of decoding. Where B-frames reorder them, FFmpeg's pts are guesses (H.264's and
    padded Xvid's run backwards); a player shows one frame per chunk, in the order in which the decoder emits them. Such
    frames are timed by dts: those held back come one tick apart at the end.
    """
    reordered_avi = container.format.name == "avi" and stream.codec_context.has_b_frames
    delay = _decoder_delay(path) if reordered_avi else None
    shown: dict[int, int] = {}  # pts, or dts with a delay: duration in ticks
    keys: list[int] = []
    breaks: list[av.FFmpegError] = []
    packets, damaged = 0, False
    for packet in demux(container, stream, breaks.append):
        if not packet.size:
            continue
        packets += 1
        damaged |= packet.is_corrupt
        if delay is not None:
            if packet.dts is not None and packet.dts >= delay.first_dts:
                shown[packet.dts] = packet.duration or 0
            continue
        if packet.pts is None or packet.is_discard:  # discarded: outside the edit list
            continue
        shown[packet.pts] = packet.duration or 0  # keyed: VP8's hidden frames share the time of a shown one
        if packet.is_keyframe:
            keys.append(packet.pts)
    damaged |= bool(breaks)
    assert stream.time_base is not None
    if not shown:
        return Timing(packets=packets, damaged=damaged, decode_times=delay is not None)
    if delay is not None:
        end = max(shown)
        shown.update({end + 1 + i: 1 for i in range(delay.held_back)})
        keys = [delay.first_dts]
    tick_s = float(stream.time_base)
    pts = np.array(sorted(shown), np.int64)
    return Timing(
        packets=packets,
        damaged=damaged,
        decode_times=delay is not None,
        times_s=(pts - pts[0]) * tick_s,
        keyframes_s=(np.array(sorted(keys), np.int64) - pts[0]) * tick_s,
        last_s=shown[int(pts[-1])] * tick_s,
        first_pts=int(pts[0]),
    )


def header_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The duration that the header claims for the pictures, 0 when it claims none."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska only knows the whole file's, which the sound may set.
    return (container.duration or 0) / 1e6 if not container.streams.audio else 0.0


def _decoder_delay(path: str) -> _DecoderDelay | None:
    with open_video(path) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.thread_type = "SLICE"  # frame threads hold back more
        for packet in demux(container, stream):
            try:
                if frames := packet.decode():
                    first = frames[0].dts
                    if first is None:
                        return None
                    return _DecoderDelay(first, len(frames) - 1 + len(stream.codec_context.decode(None)))
            except av.FFmpegError:
                continue
    return None
