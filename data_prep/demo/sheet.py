"""A contact sheet of answers: each prompt with frames of the generated videos, and of a real clip that fits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.demo.following import Answer
from data_prep.demo.scenes import render, scene_of

FRAMES = 5
SIDE = 80
ROW = SIDE + 22
TEXT = 225
HEAD = 30
GAP = 12
INK, FAINT, GOOD, BAD = (20, 20, 20), (110, 110, 110), (20, 120, 50), (190, 30, 30)


def draw_sheet(answers: Mapping[str, Sequence[Answer]]) -> Image.Image:
    """Draw one row per prompt: what each model made of it and what of that was followed, and a real clip.

    Args:
        answers: name of a model -> its answers to the same prompts, in the same order.
    """
    strip = FRAMES * SIDE + GAP
    rows = list(zip(*answers.values()))
    sheet = Image.new("RGB", (TEXT + (len(answers) + 1) * strip, HEAD + len(rows) * ROW), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(11)
    for i, title in enumerate(["prompt", *answers, "a real clip"]):
        draw.text((TEXT + (i - 1) * strip if i else 6, 6), title, INK, font)
    for i, row in enumerate(rows):
        y = HEAD + i * ROW
        draw.text((6, y + 8), row[0].asked.prompt, INK, font)
        if row[0].held_out:
            draw.text((6, y + 28), "never trained on", FAINT, small)
        for j, answer in enumerate(row):
            _strip(sheet, answer.frames_NHW3, TEXT + j * strip, y)
            for k, (name, right) in enumerate(answer.right.items()):
                mark = f"{name} followed" if right else f"{name} not"
                draw.text((TEXT + j * strip + k * 110, y + SIDE + 2), mark, GOOD if right else BAD, small)
        _strip(sheet, render(scene_of(row[0].asked, seed=i)), TEXT + len(row) * strip, y)
    return sheet


def shown_frames(count: int) -> np.ndarray:
    """Which of so many frames are shown: some, evenly, with the first and the last."""
    return np.linspace(0, count - 1, FRAMES).round().astype(int)


def _strip(sheet: Image.Image, frames_NHW3: np.ndarray, x: int, y: int) -> None:
    for i, which in enumerate(shown_frames(len(frames_NHW3))):
        picture = Image.fromarray(frames_NHW3[which])
        sheet.paste(picture.resize((SIDE, round(SIDE * picture.height / picture.width))), (x + i * SIDE, y))
