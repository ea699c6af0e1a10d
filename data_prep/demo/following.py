"""How well a model follows prompts: what its videos show, told by the detector, against what was asked for.

A third of the prompts are combinations of colour, shape and direction that no clip of the demo shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.demo.detector import Seen, see
from data_prep.demo.scenes import COLORS, DIRECTIONS, HELD_OUT, SHAPES, TRAINED, Combination, in_rounds
from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig
from lingen.tae.frames import decoded_frames

CHANCE = {"color": 1 / len(COLORS), "motion": 1 / len(DIRECTIONS), "shape": 1 / len(SHAPES)}
"""what guessing would score"""
BATCH = 8


class Answer(NamedTuple):
    """A prompt, and the video that a model made for it."""

    asked: Combination
    held_out: bool
    seen: Seen
    frames_NHW3: np.ndarray

    @property
    def right(self) -> dict[str, bool]:
        """Which of color, motion and shape are as asked."""
        return {
            "color": self.seen.color == self.asked.color,
            "motion": self.seen.direction == self.asked.direction,
            "shape": self.seen.shape == self.asked.shape,
        }


@dataclasses.dataclass(frozen=True)
class Score:
    """Shares of prompts that were followed in each respect, and in all three."""

    color: float
    motion: float
    shape: float
    all: float
    prompts: int

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Score:
        """The shares among some answers."""
        right = [answer.right for answer in answers]
        shares = {name: sum(r[name] for r in right) / len(right) for name in CHANCE}
        return cls(**shares, all=sum(all(r.values()) for r in right) / len(right), prompts=len(right))


def choose(count: int, seed: int = 0) -> list[Combination]:
    """Combinations to ask for: two thirds trained ones, one third held out; each once before one comes twice."""
    rng = np.random.default_rng(seed)
    return [*in_rounds(TRAINED, count - count // 3, rng), *in_rounds(HELD_OUT, count // 3, rng)]


def by_group(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The answers to trained combinations, and those to held-out ones."""
    return {name: [a for a in answers if a.held_out == held] for name, held in (("trained", False), ("held_out", True))}


def ask(
    generator: Generator,
    combinations: Sequence[Combination],
    size: tuple[int, int, int],
    sampler: SamplerConfig,
    seed: int = 0,
    on_video: Callable[[], None] = lambda: None,
) -> Iterator[Answer]:
    """Generate a video for every combination's prompt, and look at it.

    Args:
        generator: the model.
        combinations: what to ask for.
        size: (frames, height, width).
        sampler: steps and guidance.
        seed: of the noise; every video has its own.
        on_video: called after each.
    """
    for first in range(0, len(combinations), BATCH):
        part = combinations[first : first + BATCH]
        seeds = [seed * 100_003 + first + i for i in range(len(part))]
        latents = generator.latents([c.prompt for c in part], seeds, size, sampler)
        for combination, latent in zip(part, latents):
            frames = np.concatenate(list(decoded_frames(generator.tae, latent, size[0])))
            yield Answer(combination, combination in HELD_OUT, see(frames), frames)
            on_video()
