"""A contact sheet of answers: each prompt with frames of the generated video, and of a true clip that fits it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_prep.demo.following import Answer
from data_prep.demo.scenes import render, scene_of

FRAMES = 5
SIDE = 80
TEXT = 210
HEAD = 26
GAP = 12
INK, FAINT, GOOD, BAD = (20, 20, 20), (110, 110, 110), (20, 120, 50), (190, 30, 30)


def draw_sheet(answers: Sequence[Answer], title: str) -> Image.Image:
    """Draw one row per answer, in order: the prompt and what was followed, the model's frames, a true clip's."""
    width = TEXT + 2 * FRAMES * SIDE + GAP
    sheet = Image.new("RGB", (width, 2 * HEAD + len(answers) * (SIDE + 4)), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(11)
    draw.text((6, 6), title, INK, font)
    for x, words in (
        (6, "prompt"),
        (TEXT, "the model's video, first to last frame"),
        (TEXT + FRAMES * SIDE + GAP, "a real clip"),
    ):
        draw.text((x, HEAD + 6), words, FAINT, small)
    for i, answer in enumerate(answers):
        y = 2 * HEAD + i * (SIDE + 4)
        draw.text((6, y + 8), answer.asked.prompt, INK, font)
        if answer.held_out:
            draw.text((6, y + 26), "never trained on", FAINT, small)
        left = 6.0
        for name, right in answer.right.items():
            draw.text((left, y + 46), name, GOOD if right else BAD, small)
            draw.text((left, y + 58), "followed" if right else "not", GOOD if right else BAD, small)
            left += 62
        _strip(sheet, answer.frames_NHW3, TEXT, y)
        _strip(sheet, render(scene_of(answer.asked, seed=i)), TEXT + FRAMES * SIDE + GAP, y)
    return sheet


def _strip(sheet: Image.Image, frames_NHW3: np.ndarray, x: int, y: int) -> None:
    for i, which in enumerate(np.linspace(0, len(frames_NHW3) - 1, FRAMES).round().astype(int)):
        picture = Image.fromarray(frames_NHW3[which])
        sheet.paste(picture.resize((SIDE, round(SIDE * picture.height / picture.width))), (x + i * SIDE, y))
