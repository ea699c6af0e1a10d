"""The demo's own footage, made at run time from photographs in installed packages: nothing is downloaded.

Real photographs, real camera moves over them (pan, tilt, zoom, roll, easing in and out) and cut-outs of other
photographs that move through the scene; plus clips that curation must drop (still, dark, unlicensed, non-commercial,
broken, missing), so that the demo shows both sides of every gate.

H, W: sides of a picture.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.demo.scenes import FPS as SCENE_FPS
from data_prep.demo.scenes import SIDE, Scene, draw_scenes, draw_stills, render
from lingen.io.manifest import write_atomic
from lingen.io.video import write_mp4

FPS = 24.0


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photograph in an installed package, with the attribution that its licence requires."""

    package: str
    path: str
    subject: str
    license: str
    attribution: str

    def read(self) -> np.ndarray:
        """Decode it: uint8 RGB (H, W, 3)."""
        from PIL import Image

        with files(self.package).joinpath(self.path).open("rb") as f:
            return np.asarray(Image.open(f).convert("RGB"))

    @property
    def source(self) -> str:
        """Where it comes from, for the manifest."""
        return f"{self.package}:{self.path}"


PHOTOS = (
    Photo("sklearn.datasets", "images/china.jpg", "a Chinese temple with curved roofs", "CC-BY-2.0", "danielbuechele"),
    Photo("sklearn.datasets", "images/flower.jpg", "an orange flower among leaves", "CC-BY-2.0", "vultilion"),
    Photo("skimage", "data/astronaut.png", "a smiling astronaut in an orange suit", "CC-PDDC", "NASA"),
    Photo("skimage", "data/chelsea.png", "a ginger tabby cat", "CC0-1.0", "Stefan van der Walt"),
    Photo("skimage", "data/coffee.png", "a cup of coffee on a wooden table", "CC0-1.0", "Rachel Michetti"),
    Photo("skimage", "data/rocket.jpg", "a rocket on its launch pad at dusk", "CC0-1.0", "SpaceX"),
    Photo("skimage", "data/motorcycle_left.png", "a red motorcycle in a garage", "CC0-1.0", "Middlebury Stereo"),
    Photo("skimage", "data/retina.jpg", "the retina of a human eye", "CC0-1.0", "Mikael Haggstrom"),
    Photo("skimage", "data/coins.png", "rows of old coins", "CC-PDDC", "Brooklyn Museum"),
    Photo("skimage", "data/camera.png", "a man behind a camera on a tripod", "CC0-1.0", "Lav Varshney"),
    Photo("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "a naval officer in uniform", "CC-PDDC", "US Navy"),
)
CUTOUTS = (1, 2, 3, 4)  # photographs whose middle is cut out: flower, astronaut, cat, coffee


@dataclasses.dataclass(frozen=True)
class Move:
    """A camera move between two poses (x, y, zoom, roll): x and y as fractions of the free room, zoom from 1 (the
    widest view), roll in degrees."""

    words: str
    """For the caption."""
    start: tuple[float, float, float, float]
    end: tuple[float, float, float, float]


class Cutout(NamedTuple):
    """A moving object."""

    pixels: np.ndarray
    """uint8 (H, W, 3), H = W."""
    alpha: np.ndarray
    """(H, W, 1) in [0, 1]."""
    path: tuple[float, float, float, float]
    """Start and end of its centre, as fractions of the frame: x0, y0, x1, y1."""


MOVES = (
    Move("the camera pans to the right", (0.0, 0.5, 1.5, 0), (1.0, 0.5, 1.5, 0)),
    Move("the camera pans to the left", (1.0, 0.4, 1.6, 0), (0.0, 0.6, 1.6, 0)),
    Move("the camera moves closer", (0.5, 0.5, 1.0, 0), (0.5, 0.5, 2.2, 0)),
    Move("the camera moves away", (0.4, 0.5, 2.4, 0), (0.5, 0.5, 1.0, 0)),
    Move("the camera tilts up", (0.5, 1.0, 1.6, 0), (0.5, 0.0, 1.6, 0)),
    Move("the camera tilts down", (0.4, 0.0, 1.5, 0), (0.6, 1.0, 1.5, 0)),
    Move("the camera rolls while moving closer", (0.5, 0.5, 1.5, -10), (0.5, 0.5, 2.0, 12)),
)
FIXED = Move("fixed camera", (0.5, 0.5, 1.2, 0), (0.5, 0.5, 1.2, 0))
PATHS = (  # of the moving object: words for the caption, and Cutout.path
    ("moves from left to right", (-0.15, 0.55, 1.15, 0.45)),
    ("moves from right to left", (1.15, 0.4, -0.15, 0.6)),
    ("falls from the top", (0.35, -0.2, 0.6, 1.2)),
    ("rises from below", (0.65, 1.2, 0.4, -0.2)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoClipsConfig:
    """Make small clips (moving shapes, camera moves) with a manifest, including some that curation must drop."""

    output: Path
    """Folder for the clips."""
    scenes: int = 1100
    """Videos of moving shapes."""
    stills: int = 90
    """Pictures of shapes."""
    videos: int = 8
    """Camera moves over photographs."""
    seed: int = 0
    """Seed of scenes, lengths and noise."""


def make_demo_clips(folder: str | Path, seed: int = 0, videos: int = 8, scenes: int = 1100, stills: int = 90) -> Path:
    """Write the clips and their manifest.csv, unless the manifest, which is written last, exists.

    Args:
        folder: to write to.
        seed: of the scenes, of lengths and noise.
        videos: number of camera moves; photographs and the clips that must be dropped come on top.
        scenes, stills: numbers of videos and pictures of moving shapes.
    Returns:
        The manifest's path.
    """
    folder = Path(folder)
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    photos = [photo.read() for photo in PHOTOS]
    rows = _scenes(folder, scenes, stills, seed)
    rows += [_good_video(folder, i, photos, rng) for i in range(videos)]
    rows += [_photo(folder, i, photo, pixels) for i, (photo, pixels) in enumerate(zip(PHOTOS, photos))]
    rows += _bad_videos(folder, photos, rng)
    write_atomic(manifest, _csv(rows))
    return manifest


def _scenes(folder: Path, videos: int, stills: int, seed: int) -> list[dict[str, str]]:
    """Write videos and pictures of moving shapes, on all cores."""
    from PIL import Image

    (folder / "scenes").mkdir(exist_ok=True)

    def video(i: int, scene: Scene) -> dict[str, str]:
        name = f"scenes/{i:04d}.mp4"
        write_mp4(folder / name, render(scene), SCENE_FPS)
        return _row(name, "video", scene.caption, "CC0-1.0", f"demo:scene {scene.seed}", "LinGen demo")

    def still(i: int, scene: Scene) -> dict[str, str]:
        name = f"scenes/{i:04d}.jpg"
        Image.fromarray(render(scene)[0]).save(folder / name, quality=92)
        return _row(name, "image", scene.caption, "CC0-1.0", f"demo:still {scene.seed}", "LinGen demo")

    with ThreadPoolExecutor() as pool:
        return [
            *pool.map(video, range(videos), draw_scenes(videos, seed)),
            *pool.map(still, range(stills), draw_stills(stills, seed)),
        ]


def _good_video(folder: Path, i: int, photos: list[np.ndarray], rng: np.random.Generator) -> dict[str, str]:
    which = i % len(PHOTOS)
    move = MOVES[(i + i // len(PHOTOS)) % len(MOVES)]
    height = width = SIDE  # square like the scenes: one shape of batches
    seconds = float(rng.uniform(4.1, 4.9))  # the longest stage takes 4 s
    caption = PHOTOS[which].subject
    attribution, license_id = PHOTOS[which].attribution, PHOTOS[which].license
    cutout = None
    if i % 3 == 2:  # every third clip has a moving object, half of these a fixed camera
        other = CUTOUTS[i // 3 % len(CUTOUTS)]
        other = other if other != which else CUTOUTS[(i // 3 + 1) % len(CUTOUTS)]
        words, path = PATHS[i // 3 % len(PATHS)]
        cutout = _cut_out(photos[other], round(height * 0.55), path)
        caption = f"{PHOTOS[other].subject} {words} in front of {caption}"
        attribution = f"{attribution}; {PHOTOS[other].attribution}"
        if PHOTOS[other].license != license_id:
            license_id = f"{license_id} AND {PHOTOS[other].license}"
        move = FIXED if i % 2 else move
    frames = _film(photos[which], move, height, width, round(seconds * FPS), cutout)
    name = f"{i:02d}_{Path(PHOTOS[which].path).stem}.mp4"
    write_mp4(folder / "videos" / name, frames, FPS)
    caption = f"{caption[0].upper()}{caption[1:]}, {move.words}."
    return _row(f"videos/{name}", "video", caption, license_id, PHOTOS[which].source, attribution)


def _photo(folder: Path, i: int, photo: Photo, pixels: np.ndarray) -> dict[str, str]:
    from PIL import Image

    path = folder / "photos" / f"{i:02d}_{Path(photo.path).stem}.jpg"
    path.parent.mkdir(exist_ok=True)
    side = min(pixels.shape[:2])
    top, left = ((n - side) // 2 for n in pixels.shape[:2])
    Image.fromarray(pixels[top : top + side, left : left + side]).save(path, quality=92)
    caption = f"{photo.subject[0].upper()}{photo.subject[1:]}, a photograph."
    return _row(f"photos/{path.name}", "image", caption, photo.license, photo.source, photo.attribution)


def _bad_videos(folder: Path, photos: list[np.ndarray], rng: np.random.Generator) -> list[dict[str, str]]:
    height = width = SIDE
    still = _film(photos[0], FIXED, height, width, round(3 * FPS))
    moving = _film(photos[4], MOVES[0], height, width, round(3 * FPS))
    dark = (moving * 0.04).astype(np.uint8)
    bad = folder / "bad"
    rows = []
    for name, frames, caption, license_id in (
        ("still", still, "A Chinese temple, nothing moves.", "CC-BY-2.0"),
        ("dark", dark, "A cup of coffee in an almost black room.", "CC0-1.0"),
        ("unlicensed", moving[::-1], "A cup of coffee, the camera pans to the left.", ""),
        ("noncommercial", moving[:, :, ::-1], "A mirrored cup of coffee, the camera pans.", "CC-BY-NC-4.0"),
    ):
        write_mp4(bad / f"{name}.mp4", frames, FPS)
        rows.append(_row(f"bad/{name}.mp4", "video", caption, license_id, f"demo:{name}", "demo"))
    whole = (bad / "still.mp4").read_bytes()
    (bad / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (bad / "noise.mp4").write_bytes(rng.bytes(20_000))
    for name in ("truncated", "noise", "missing"):  # the last one exists only in the manifest
        rows.append(_row(f"bad/{name}.mp4", "video", f"A {name} file.", "CC0-1.0", f"demo:{name}", "demo"))
    return rows


def _film(
    photo: np.ndarray, move: Move, height: int, width: int, frames: int, cutout: Cutout | None = None
) -> np.ndarray:
    """Film a photograph: one affine warp a frame, with the camera easing in and out; uint8 (frames, H, W, 3)."""
    import cv2

    photo_h, photo_w = photo.shape[:2]
    fill = max(height / photo_h, width / photo_w)  # scale at which the photograph just covers the frame
    out = np.empty((frames, height, width, 3), np.uint8)
    for t in range(frames):
        at = t / max(frames - 1, 1)
        ease = 0.5 - 0.5 * math.cos(math.pi * at)
        x, y, zoom, roll = (a + (b - a) * ease for a, b in zip(move.start, move.end))
        scale = fill * zoom * (1.25 if roll or move.start[3] else 1.0)  # a rolling camera must not see past the edge
        half_w, half_h = width / 2 / scale, height / 2 / scale
        cx = half_w + x * max(photo_w - 2 * half_w, 0)
        cy = half_h + y * max(photo_h - 2 * half_h, 0)
        matrix = cv2.getRotationMatrix2D((cx, cy), roll, scale)
        matrix[:, 2] += (width / 2 - cx, height / 2 - cy)
        flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        out[t] = cv2.warpAffine(photo, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        if cutout is not None:
            x0, y0, x1, y1 = cutout.path
            _paste(out[t], cutout, (x0 + (x1 - x0) * at) * width, (y0 + (y1 - y0) * at) * height)
    return out


def _cut_out(photo: np.ndarray, size: int, path: tuple[float, float, float, float]) -> Cutout:
    """Cut a soft disc of `size` pixels out of the middle of a photograph."""
    import cv2

    side = min(photo.shape[:2])
    top, left = (photo.shape[0] - side) // 2, (photo.shape[1] - side) // 2
    pixels = cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    yy, xx = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    alpha = np.clip((0.95 - np.hypot(xx, yy)) / 0.12, 0, 1)[..., None]
    return Cutout(pixels, alpha, path)


def _paste(frame: np.ndarray, cutout: Cutout, cx: float, cy: float) -> None:
    """Blend a cut-out into the frame, in place, clipped at its edges."""
    size = cutout.pixels.shape[0]
    left, top = round(cx - size / 2), round(cy - size / 2)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + size, frame.shape[1]), min(top + size, frame.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    below = frame[y0:y1, x0:x1]
    pixels, alpha = cutout.pixels[part], cutout.alpha[part]
    frame[y0:y1, x0:x1] = (pixels * alpha + below * (1 - alpha)).round().astype(np.uint8)


def _row(uri: str, media_type: str, caption: str, license_id: str, source: str, attribution: str) -> dict[str, str]:
    return {
        "uri": uri,
        "media_type": media_type,
        "caption": caption,
        "license": license_id,
        "source": source,
        "attribution": attribution,
    }


def _csv(rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
