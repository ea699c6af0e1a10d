"""The image:video mixture: which bucket each step draws from, in exact proportions and in closed form.

A mixture is a binary tree of even splits. At each node the two sides share the steps in a whole-number ratio, and after
s steps the left side had floor((s * left + total/2) / total): exact in the long run, never off by more than half a
batch. The root splits images from videos (1:100 by default, LinGen's supplement); the nodes below share by number of
samples, so that every sample of a medium is seen equally often.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction

WEIGHTINGS = ("samples", "equal")


@dataclasses.dataclass(frozen=True)
class SingleBucket:
    """A mixture of one bucket alone."""

    name: str

    def bucket(self, step: int) -> tuple[str, int]:
        """The bucket of a step, and how many batches that bucket had before."""
        return self.name, step

    def shares(self) -> dict[str, Fraction]:
        """Bucket name -> its share of all steps."""
        return {self.name: Fraction(1)}


@dataclasses.dataclass(frozen=True)
class EvenSplit:
    """Two mixtures that share the steps in a whole-number ratio, as evenly as whole steps can."""

    left: Mixture
    left_weight: int
    right: Mixture
    right_weight: int

    def bucket(self, step: int) -> tuple[str, int]:
        """The bucket of a step, and how many batches that bucket had before."""
        before = self._left_of(step)
        if self._left_of(step + 1) > before:
            return self.left.bucket(before)
        return self.right.bucket(step - before)

    def shares(self) -> dict[str, Fraction]:
        """Bucket name -> its share of all steps."""
        share = Fraction(self.left_weight, self.left_weight + self.right_weight)
        left = {name: s * share for name, s in self.left.shares().items()}
        return left | {name: s * (1 - share) for name, s in self.right.shares().items()}

    def _left_of(self, steps: int) -> int:
        """How many of the first `steps` steps go left."""
        total = self.left_weight + self.right_weight
        return (2 * steps * self.left_weight + total) // (2 * total)


Mixture = SingleBucket | EvenSplit


def build_mixture(sizes: Mapping[str, int], image_ratio: Fraction, weighting: str, folder: str) -> Mixture:
    """Build the mixture of some buckets.

    Args:
        sizes: bucket name -> number of samples, none of them 0.
        image_ratio: images per video in samples; 0 leaves images out. It does not apply to images alone.
        weighting: how the buckets of one medium share its batches: "samples" (in proportion to their number of
            samples) or "equal".
        folder: where the buckets come from, for error messages.

    Raises:
        ValueError: there is no bucket or no such weighting, or image buckets are missing for the ratio.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: {weighting!r} is unknown; use {' or '.join(WEIGHTINGS)}")
    if not sizes:
        raise ValueError(f"{folder}: all buckets are empty; encode more clips")
    weights = {name: size if weighting == "samples" else 1 for name, size in sorted(sizes.items())}
    images = {name: w for name, w in weights.items() if name.startswith("image_")}
    videos = {name: w for name, w in weights.items() if not name.startswith("image_")}
    if not videos:
        return _balanced(images)
    if image_ratio == 0:
        return _balanced(videos)
    if not images:
        raise ValueError(
            f"image_ratio: {folder} has no image buckets for {image_ratio}; encode images, or set image_ratio 0"
        )
    return EvenSplit(_balanced(images), image_ratio.numerator, _balanced(videos), image_ratio.denominator)


def parse_ratio(value: str | float | Fraction) -> Fraction:
    """Read a ratio of images to videos exactly: "1:100", "1/100" or 0.01.

    Raises:
        ValueError: the value is negative or not a ratio.
    """
    try:
        if isinstance(value, str) and ":" in value:
            left, right = value.split(":")
            ratio = Fraction(left) / Fraction(right)
        else:
            ratio = Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"image_ratio: {value!r} is not a ratio; write 1:100, or 0 for no images") from None
    if ratio < 0:
        raise ValueError(f"image_ratio: {value!r} is negative; write 1:100, or 0 for no images")
    return ratio


def _balanced(weights: Mapping[str, int]) -> Mixture:
    """A balanced tree over buckets."""
    names = list(weights)
    if len(names) == 1:
        return SingleBucket(names[0])
    left, right = ({n: weights[n] for n in half} for half in (names[: len(names) // 2], names[len(names) // 2 :]))
    return EvenSplit(_balanced(left), sum(left.values()), _balanced(right), sum(right.values()))
