"""Generation: sizes as requested or as trained, and errors that name the flag. test_main.py in train/ runs it whole."""

from pathlib import Path

import pytest

from lingen.generate.pipeline import GenerateConfig, _size

ABOUT = {"bucket": "video_48x80_17f", "fps": 16, "resolution": 64}


def config(**settings):
    return GenerateConfig(checkpoint=Path("run"), **({"output": Path("a.mp4")} | settings))


def test_sizes_as_trained_or_as_requested():
    assert _size(config(), ABOUT) == (17, 48, 80)
    assert _size(config(seconds=2.5), ABOUT) == (40, 48, 80)
    assert _size(config(seconds=0.001), ABOUT)[0] == 1
    assert _size(config(output=Path("a.png"), seconds=2), ABOUT) == (1, 48, 80)
    assert _size(config(aspect_ratio="1:1"), ABOUT) == (17, 64, 64)
    frames, height, width = _size(config(resolution=128), ABOUT)
    assert (frames, width / height) == (17, pytest.approx(80 / 48, rel=0.1))
    assert height * width == pytest.approx(128**2, rel=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "  "),
        ("output", Path("a.gif")),
        ("seconds", 0.0),
        ("seconds", float("nan")),
        ("weights", "best"),
        ("resolution", 100),
    ],
)
def test_bad_settings_name_the_flag(field, value):
    with pytest.raises(ValueError, match=f"^--{field}: "):
        config(**{field: value})
