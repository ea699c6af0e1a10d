"""Procedural scenes that a small model learns in minutes: a coloured shape moves over a plain or textured ground.

Their combinations of colour, shape and direction can be read off the frames again (data_prep/demo/detector.py), so that
what a model learnt is measured rather than believed. Every sixth combination is held out: no clip shows it.

H, W: sides of a picture; N frames.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FPS = 16.0
SIDE = 176
"""height and width in pixels"""

COLORS = {  # 60 degrees of hue apart
    "red": (225, 40, 40),
    "yellow": (225, 215, 40),
    "green": (40, 205, 60),
    "cyan": (40, 210, 220),
    "blue": (50, 70, 230),
    "purple": (215, 50, 215),
}
SHAPES = {"ball": "disc", "bar": "post", "triangle": "wedge"}
"""shape -> another word for it. They differ in large features: the demo's TAE hardly keeps the corners of a square"""
BAR_WIDTH = 0.5
"""of its height"""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""direction -> how it changes x and y"""
_TO = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
_VERBS = ("slides", "goes")

VARIETY = 0.2
"""share of captions in other words"""
GROUNDS = {"plain": 0.04, "tiled": 0.32, "dotted": 0.32, "checked": 0.32}
"""ground -> its share. Curation drops most plain ones: on these nothing shows that the camera stands still"""
LENGTHS = (1.25, 2.25, 4.25)
"""seconds; each is a little more than a stage of the demo takes"""
SPEED = (0.3, 0.38)
"""of a shape, least and most, in sides a second: the same in clips of all lengths, or short windows of long clips would
hardly move"""


class Combination(NamedTuple):
    """What a prompt asks for."""

    color: str
    shape: str
    direction: str

    @property
    def prompt(self) -> str:
        """In the captions' usual words."""
        return f"a {self.color} {self.shape} moves {_TO[self.direction]}"


COMBINATIONS = tuple(Combination(*words) for words in itertools.product(COLORS, SHAPES, DIRECTIONS))


def _held_out() -> tuple[Combination, ...]:
    """Two directions of one shape of each colour, spread so that every word and every pair of words stays trained."""
    shapes, directions = list(SHAPES), list(DIRECTIONS)
    return tuple(
        Combination(color, shapes[i % 3], directions[(i // 3 + turn) % 4])
        for i, color in enumerate(COLORS)
        for turn in (0, 2)
    )


HELD_OUT = _held_out()
TRAINED = tuple(c for c in COMBINATIONS if c not in HELD_OUT)


@dataclasses.dataclass(frozen=True)
class Mover:
    """A shape on its way."""

    combination: Combination
    radius: float
    """as a fraction of the side, like all lengths here"""
    start: tuple[float, float]
    """its centre at first, (x, y)"""
    speed: float
    """sides a second"""
    shade: float = 1.0
    """factor of its colour"""

    def at(self, seconds: float) -> tuple[float, float]:
        """Its centre (x, y). Once it has left the picture, it comes in again on the other side."""
        span = 1 + 2 * self.radius
        moved = (a + d * self.speed * seconds for a, d in zip(self.start, DIRECTIONS[self.combination.direction]))
        x, y = ((a + self.radius) % span - self.radius for a in moved)
        return x, y


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip before it is drawn."""

    movers: tuple[Mover, ...]
    ground: str
    seconds: float
    caption: str
    seed: int
    """of the ground's texture"""


def draw_scenes(count: int, seed: int, two_objects: float = 0.03) -> list[Scene]:
    """Scenes of trained combinations, in equal parts; three quarters of the shortest length, an eighth of each other.

    Args:
        count: number of scenes.
        seed: of everything random in them.
        two_objects: share of scenes with a second shape, which is in the caption, too.
    """
    rng = np.random.default_rng(seed)
    lengths = (LENGTHS[0],) * 3 + (LENGTHS[1],) + (LENGTHS[0],) * 3 + (LENGTHS[2],)
    return [_scene(c, lengths[i % 8], rng, two_objects) for i, c in enumerate(in_rounds(TRAINED, count, rng))]


def in_rounds(of: Sequence[Combination], count: int, rng: np.random.Generator) -> list[Combination]:
    """`count` combinations in random order; each comes once before one comes twice."""
    rounds = [rng.permutation(len(of)) for _ in range(-(-count // len(of)))]
    return [of[i] for i in np.concatenate(rounds)[:count]]


def draw_stills(count: int, seed: int) -> list[Scene]:
    """Scenes of one frame, for pictures: every colour and shape, in equal parts."""
    rng = np.random.default_rng((seed, 1))
    pairs = list(itertools.product(COLORS, SHAPES))
    return [_still(*pairs[i % len(pairs)], rng) for i in range(count)]


def _still(color: str, shape: str, rng: np.random.Generator) -> Scene:
    scene = _scene(Combination(color, shape, "left"), LENGTHS[0], rng)
    (mover,) = scene.movers
    center = (float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7)))
    mover = dataclasses.replace(mover, start=center)
    caption = f"a {color} {shape}"
    return dataclasses.replace(scene, movers=(mover,), seconds=1 / FPS, caption=caption)


def _scene(combination: Combination, seconds: float, rng: np.random.Generator, two_objects: float = 0.0) -> Scene:
    movers = [_mover(combination, rng)]
    ground = str(rng.choice(list(GROUNDS), p=list(GROUNDS.values())))
    if rng.random() < two_objects:
        others = [c for c in TRAINED if c.color != combination.color and c.direction == combination.direction]
        movers = [_mover(c, rng, lane) for c, lane in ((combination, -1), (others[rng.integers(len(others))], 1))]
    caption = " and ".join(_phrase(mover.combination, rng) for mover in movers)
    return Scene(tuple(movers), ground, seconds, caption, int(rng.integers(1 << 31)))


def scene_of(combination: Combination, seed: int, seconds: float = LENGTHS[0]) -> Scene:
    """One scene of this combination."""
    return _scene(combination, seconds, np.random.default_rng(seed))


def _mover(combination: Combination, rng: np.random.Generator, lane: int = 0) -> Mover:
    """A shape whose first second leads through the middle, or beside it in a lane of its own (-1 or 1)."""
    speed = rng.uniform(*SPEED)
    dx, dy = DIRECTIONS[combination.direction]
    x, y = 0.5 + rng.uniform(-0.06, 0.06, 2) * (abs(dy) or 0.2, abs(dx) or 0.2) - np.array((dx, dy)) * speed * 0.6
    if lane:
        x, y = (x + 0.22 * lane, y) if dx == 0 else (x, y + 0.22 * lane)
    radius = rng.uniform(0.13, 0.16) if lane else rng.uniform(0.2, 0.25)
    return Mover(combination, radius, (float(x), float(y)), speed, rng.uniform(0.95, 1.05))


def _phrase(combination: Combination, rng: np.random.Generator) -> str:
    """The prompt, or sometimes the same in other words."""
    if rng.random() >= VARIETY:
        return combination.prompt
    return f"a {combination.color} {SHAPES[combination.shape]} {rng.choice(_VERBS)} {_TO[combination.direction]}"


def render(scene: Scene, side: int = SIDE) -> np.ndarray:
    """Draw a scene: uint8 RGB (N, H, W, 3), N = seconds * FPS."""
    count = round(scene.seconds * FPS)
    ground = _ground(scene.ground, side, np.random.default_rng(scene.seed))
    frames = np.repeat(ground[None], count, axis=0)
    for i, frame in enumerate(frames):
        for mover in scene.movers:
            x, y = mover.at(i / FPS)
            _draw(frame, mover, x * side, y * side)
    return frames


def _draw(frame: np.ndarray, mover: Mover, x: float, y: float) -> None:
    """Draw a shape with smooth edges around (x, y) in pixels, in place. Each is 2 radii high, a bar slimmer."""
    import cv2

    r = mover.radius * frame.shape[0]
    color = tuple(float(min(c * mover.shade, 255)) for c in COLORS[mover.combination.color])
    if mover.combination.shape == "ball":
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        corners = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    elif mover.combination.shape == "bar":
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (BAR_WIDTH, 1)
    else:
        corners = np.array([(0, -1), (1, 1), (-1, 1)], float)
    points = np.round((corners * r + (x, y)) * 16).astype(np.int32)
    cv2.fillPoly(frame, [points], color, lineType=cv2.LINE_AA, shift=4)


def _ground(kind: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """A ground of little colour, so that only shapes are colourful: uint8 (H, W, 3).

    Only light and tint are random. Tiles and dots always lie in the same places: their edges show curation that the
    camera stands still, and a small model need not learn many pictures.
    """
    yy, xx = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(108, 128) + 24 * (np.cos(angle) * (xx - 0.5) + np.sin(angle) * (yy - 0.5))
    if kind == "tiled":
        light = np.where((xx % 0.25 < 0.02) | (yy % 0.25 < 0.02), light - 35, light)
    elif kind == "dotted":
        light = np.where(np.hypot(xx % 0.25 - 0.125, yy % 0.25 - 0.125) < 0.045, light + 45, light)
    elif kind == "checked":
        light = np.where((xx % 0.5 < 0.25) ^ (yy % 0.5 < 0.25), light - 14, light + 14)
    tint = 1 + rng.uniform(-0.03, 0.03, 3)
    return (light[..., None] * tint).clip(0, 255).astype(np.uint8)
