"""Answers as a file, so that a contact sheet can be drawn of models that were asked in different processes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.demo.detector import Seen
from data_prep.demo.following import Answer
from data_prep.demo.scenes import Combination
from data_prep.demo.sheet import shown_frames
from lingen.io.manifest import write_atomic

ABOUT = "about"


def save_answers(path: Path, answers: Mapping[str, Sequence[Answer]]) -> None:
    """Write each model's answers, with the frames that a contact sheet shows (.npz)."""
    about = {name: [(a.asked, a.held_out, a.seen) for a in some] for name, some in answers.items()}
    arrays = {ABOUT: np.array(json.dumps(about))}
    for name, some in answers.items():
        arrays |= {f"{name}/{i}": a.frames_NHW3[shown_frames(len(a.frames_NHW3))] for i, a in enumerate(some)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # mypy takes them for allow_pickle
    write_atomic(path, file.getvalue())


def load_answers(path: Path) -> dict[str, list[Answer]]:
    """Each model's answers, with the frames that were kept."""
    with np.load(path) as arrays:
        about = json.loads(str(arrays[ABOUT]))
        return {
            name: [
                Answer(Combination(*asked), held_out, Seen(*seen), arrays[f"{name}/{i}"])
                for i, (asked, held_out, seen) in enumerate(some)
            ]
            for name, some in about.items()
        }
