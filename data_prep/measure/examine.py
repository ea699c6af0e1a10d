"""One pass over a file: probe it, decode it once at most, and take every measurement from the frames on the way.

The results are small (numbers at a few samples per second, and small JPEG stills), so that shots, spans, thresholds and
models can change later without decoding again.

H, W: a picture's sides as shown; h, w: the sides of the small grey frame, as stored.
"""

from __future__ import annotations

import dataclasses
import os
import time
from contextlib import closing

import av
import cv2
import numpy as np
import pyarrow as pa

from data_prep.measure import cuts, motion, technical, text_area
from data_prep.measure.dissolves import DissolveFinder
from data_prep.measure.exact_cuts import exact
from data_prep.media.errors import MediaError
from data_prep.media.frames import decode, picture, read_image, turn
from data_prep.media.planes import grey, planes
from data_prep.media.probe import Probe, probe

VERSION = 8
"""Raise when a measurement changes its meaning: the files of stored rows are then measured again."""
MOST_STILLS = 2000
MOST_SIDE = 65500
"""Pixels of a JPEG's longer side."""
PROBED = (  # fields of Probe that are kept as columns
    *("media_type", "container", "codec", "width", "height", "fps", "duration_s", "frame_count", "rotation"),
    *("variable_rate", "hdr", "has_audio"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExamineConfig:
    sample_fps: float = 4.0
    """Samples per second for black and frozen pictures; motion is measured between every second pair of them."""
    still_every_s: float = 2.0
    """Seconds between the small pictures that are kept for technical quality, aesthetics and the report."""
    max_duration_s: float = 4 * 3600.0
    """Longer videos are refused as too_long."""

    def __post_init__(self) -> None:
        for field in ("sample_fps", "still_every_s", "max_duration_s"):
            if getattr(self, field) <= 0:
                raise ValueError(f"--examine.{field.replace('_', '-')}: must be above 0")


STAGES = ("probe", "decode", "shots", "motion", "stills")
"""Parts of an examination whose time is recorded."""
_floats = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("reason", pa.string()),  # "" when examined, else why not
        ("detail", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float32()),  # the examination's time, and of it:
        *((f"{stage}_s", pa.float32()) for stage in STAGES),
        ("bytes", pa.int64()),
        ("media_type", pa.string()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float32()),
        ("duration_s", pa.float64()),
        ("frame_count", pa.int64()),
        ("rotation", pa.int32()),
        ("variable_rate", pa.bool_()),
        ("hdr", pa.string()),
        ("has_audio", pa.bool_()),
        ("damaged", pa.float32()),  # share of frames lost to, or decoded with, errors
        ("bars", _floats),  # shares of the picture that are black bars: top, bottom, left, right
        ("cut_s", pa.list_(pa.float64())),  # candidates
        ("cut_change", _floats),
        ("cut_histogram", _floats),
        ("cut_ratio", _floats),
        ("dissolve_s", pa.list_(pa.float64())),
        ("dissolve_end_s", pa.list_(pa.float64())),
        ("dissolve_misfit", _floats),
        ("sample_s", pa.list_(pa.float64())),
        ("sample_luma", _floats),  # mean, 0..255
        ("sample_spread", _floats),  # 95th minus 5th percentile of luma
        ("sample_diff", _floats),  # mean absolute change from the sample before
        ("motion", _floats),
        ("camera_motion", _floats),
        ("object_motion", _floats),
        ("moving_area", _floats),
        ("camera_x", _floats),
        ("camera_y", _floats),
        ("still_s", pa.list_(pa.float64())),
        ("sharpness", _floats),
        ("contrast", _floats),
        ("colourfulness", _floats),
        ("exposure", _floats),
        ("brightness", _floats),
        ("technical", _floats),
        ("text_area", _floats),
        ("phash", pa.list_(pa.uint64())),
    ]
)
STILL_SCHEMA = pa.schema([("key", pa.string()), ("still_s", pa.list_(pa.float64())), ("jpeg", pa.list_(pa.binary()))])


def examine(path: str, config: ExamineConfig, threads: int = 1) -> tuple[dict, list[bytes]]:
    """Examine one local file.

    Args:
        path: a video or photograph.
        config: what to measure.
        threads: for decoding, 0 for all cores.
    Returns:
        Its row (the columns of SCHEMA except key and attempts), and its stills as JPEG, one for each still_s.
    Raises:
        MediaError: what `probe` raises, undecodable, too_long.
    """
    started = time.perf_counter()
    known = probe(path)
    probed = time.perf_counter()
    if known.duration_s > config.max_duration_s:
        raise MediaError("too_long", f"{known.duration_s:.0f} s, over {config.max_duration_s:.0f} s")
    signals = _Signals(known, config)
    if known.media_type == "image":
        large = read_image(path, _size(known, text_area.SHORT_SIDE))
        height, width = _size(known, technical.SHORT_SIDE)
        small = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
        signals.still(0.0, small, cv2.cvtColor(large, cv2.COLOR_RGB2GRAY))
        signals.frames = 1
    else:
        with closing(decode(path, known, threads=threads, on_damage=signals.damage, skip=True)) as frames:
            for seconds, frame in frames:
                signals.frame(seconds, frame)
    if not signals.still_s:
        raise MediaError("undecodable", "no frame could be decoded")
    clock = time.perf_counter()
    found = exact(path, known, signals.cuts.candidates(), threads)
    signals.spent["shots"] += time.perf_counter() - clock
    ended = time.perf_counter()
    spent = {**signals.spent, "probe": probed - started}
    spent["decode"] = ended - started - sum(spent.values())
    row = {
        "reason": "",
        "detail": "",
        "seconds": ended - started,
        **{f"{stage}_s": spent[stage] for stage in STAGES},
        "bytes": os.path.getsize(path),
        **{name: getattr(known, name) for name in PROBED},
        **signals.row(found),
    }
    return row, signals.jpegs


class _Signals:
    """Measurements gathered frame by frame."""

    def __init__(self, known: Probe, config: ExamineConfig):
        self.known, self.config = known, config
        turned = known.orientation[0] == 0
        self.grey_size = motion.small_size(*((known.width, known.height) if turned else (known.height, known.width)))
        self.still_step = max(config.still_every_s, known.duration_s / MOST_STILLS)
        self.frames = self.corrupt = 0
        self.spent = dict.fromkeys(("shots", "motion", "stills"), 0.0)
        self.cuts, self.dissolves = cuts.CutFinder(), DissolveFinder()
        self.change = 0.0
        self.before_grey: np.ndarray | None = None
        self.next_sample_s, self.next_still_s = 0.0, min(self.still_step / 2, known.duration_s / 2)
        self.samples: dict[str, list[float]] = {name: [] for name in SCHEMA.names if name.startswith("sample_")}
        self.motions: list[motion.Motion] = []
        self.still_s: list[float] = []
        self.technicals: list[technical.Technical] = []
        self.text_areas: list[float] = []
        self.phashes: list[int] = []
        self.jpegs: list[bytes] = []
        self.brightest: np.ndarray | None = None

    def frame(self, seconds: float, frame: av.VideoFrame) -> None:
        """Take everything from one frame of a video."""
        self.frames += 1
        self.corrupt += frame.is_corrupt
        clock = time.perf_counter()
        parts = planes(frame)
        change = self.cuts.add(seconds, parts)
        self.dissolves.add(seconds, self.cuts.samples)
        clock = self._spend("shots", clock)
        if seconds >= self.next_sample_s - 1e-3:
            self.next_sample_s = max(self.next_sample_s, seconds - 0.5 / self.config.sample_fps)
            self.next_sample_s += 1 / self.config.sample_fps
            self._sample(seconds, grey(frame, parts[0], self.grey_size))
            clock = self._spend("motion", clock)
        # A shot's first still comes soon after its cut, so that short shots have one too.
        if change > max(3 * cuts.FLOOR, 2.5 * self.change):
            self.next_still_s = min(self.next_still_s, seconds + 0.3)
        self.change = change
        if seconds >= self.next_still_s - 1e-3:
            self.next_still_s = seconds + self.still_step
            rgb = picture(frame, self.known, _size(self.known, technical.SHORT_SIDE), scaler="AREA")
            height, width = _size(self.known, text_area.SHORT_SIDE)
            stored = (height, width) if self.known.orientation[0] else (width, height)
            self.still(seconds, rgb, turn(grey(frame, parts[0], stored), self.known.orientation))
            self._spend("stills", clock)

    def _spend(self, stage: str, since: float) -> float:
        """Record a stage's time; returns now."""
        now = time.perf_counter()
        self.spent[stage] += now - since
        return now

    def damage(self) -> None:
        """Count a packet that could not be decoded."""
        self.corrupt += 1

    def _sample(self, seconds: float, small: np.ndarray) -> None:
        levels = np.cumsum(np.bincount(small[::2, ::2].ravel(), minlength=256))
        low, high = np.searchsorted(levels, (0.05 * levels[-1], 0.95 * levels[-1]))
        diff, moved = 0.0, motion.UNKNOWN
        if self.before_grey is not None:
            diff = float(cv2.absdiff(small, self.before_grey).mean())
            # Optical flow is expensive: only for every second pair of neighbours, from the first pair on, so that short
            # clips have one too.
            if len(self.motions) % 2:
                apart_s = seconds - self.samples["sample_s"][-1]
                moved = motion.motion_between(self.before_grey, small, apart_s) if diff > 0 else motion.NONE
        self.before_grey = small
        self.motions.append(moved)
        for name, value in zip(self.samples, (seconds, float(small.mean()), float(high - low), diff), strict=True):
            self.samples[name].append(value)
        self.brightest = small if self.brightest is None else np.maximum(self.brightest, small)

    def still(self, seconds: float, rgb: np.ndarray, large: np.ndarray) -> None:
        """Take a still: `rgb`, upright (H, W, 3), is kept as JPEG; `large`, grey (H, W), is searched for lettering."""
        self.still_s.append(seconds)
        phash = perceptual_hash(rgb)
        # The same picture as before has the same lettering, and the search is expensive.
        same = bool(self.phashes) and (phash ^ self.phashes[-1]).bit_count() <= 2
        area = self.text_areas[-1] if same else text_area.text_area(np.ascontiguousarray(large))
        self.text_areas.append(area)
        self.technicals.append(technical.technical_quality(rgb))
        self.phashes.append(phash)
        self.jpegs.append(encode_jpeg(rgb))

    def row(self, found: list[cuts.Candidate]) -> dict:
        """The columns that come from pixels."""
        dissolves = self.dissolves.found()
        fields = {
            "motion": "total",
            "camera_motion": "camera",
            "object_motion": "object",
            "moving_area": "moving",
            "camera_x": "camera_x",
            "camera_y": "camera_y",
        }
        names = ("sharpness", "contrast", "colourfulness", "exposure", "brightness")
        return {
            "damaged": min(1.0, self.corrupt / max(1, self.frames, self.known.frame_count)),
            "bars": black_bars(self.brightest, self.known.orientation) if self.brightest is not None else [0.0] * 4,
            "cut_s": [c.seconds for c in found],
            "cut_change": [c.change for c in found],
            "cut_histogram": [c.histogram for c in found],
            "cut_ratio": [c.ratio for c in found],
            "dissolve_s": [d.start_s for d in dissolves],
            "dissolve_end_s": [d.end_s for d in dissolves],
            "dissolve_misfit": [d.misfit for d in dissolves],
            **self.samples,
            **{column: [getattr(m, name) for m in self.motions] for column, name in fields.items()},
            "still_s": self.still_s,
            **{name: [getattr(t, name) for t in self.technicals] for name in names},
            "technical": [t.score for t in self.technicals],
            "text_area": self.text_areas,
            "phash": self.phashes,
        }


def _size(known: Probe, short_side: int) -> tuple[int, int]:
    """(height, width) as shown, scaled down where the short side is longer than this."""
    scale = min(1.0, short_side / min(known.height, known.width))
    return max(1, round(known.height * scale)), max(1, round(known.width * scale))


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """A still, uint8 (H, W, 3), as JPEG; a strip that is too long for the format is shrunk."""
    height, width = rgb.shape[:2]
    if max(height, width) > MOST_SIDE:
        scale = MOST_SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok, "OpenCV wrote no JPEG"
    return data.tobytes()


def perceptual_hash(rgb: np.ndarray) -> int:
    """64 bits of uint8 RGB (H, W, 3): signs of the low DCT frequencies about their median (Zauner 2010)."""
    small = cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def black_bars(brightest: np.ndarray, orientation: tuple[int, int, int, int], level: int = 20) -> list[float]:
    """Find black bars.

    Args:
        brightest: uint8 (h, w), each pixel's maximum over time, as stored.
        orientation: as in Probe.
        level: luma up to which a pixel is black.
    Returns:
        Shares of the shown picture (top, bottom, left, right) that are bars.
    """
    shown = turn(brightest, orientation)
    lit_rows = np.percentile(shown, 98, axis=1) > level
    lit_columns = np.percentile(shown, 98, axis=0) > level
    if not lit_rows.any() or not lit_columns.any():
        return [0.0, 0.0, 0.0, 0.0]  # all black: that is exposure, not bars
    h, w = shown.shape
    return [
        float(np.argmax(lit_rows) / h),
        float(np.argmax(lit_rows[::-1]) / h),
        float(np.argmax(lit_columns) / w),
        float(np.argmax(lit_columns[::-1]) / w),
    ]


def main() -> None:
    """`python -m data_prep.measure.examine URI`: examine one file in this process, without Ray or a time limit.

    Replays a clip that was set aside; prints its row as JSON.
    """
    import json
    import sys

    from data_prep.media.fetch import local_copy

    try:
        with local_copy(sys.argv[1]) as path:
            row, stills = examine(path, ExamineConfig())
    except MediaError as error:
        sys.exit(f"{error.reason}: {error.detail}")
    print(json.dumps(row | {"stills": len(stills)}, indent=1, default=float))


if __name__ == "__main__":
    main()
