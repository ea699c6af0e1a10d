"""The TAE's settings: what cannot be is named."""

from pathlib import Path

import pytest

from lingen.train.tae.config import TAEFitConfig


@pytest.mark.parametrize(
    "bad",
    [
        {"preset": "huge"},
        {"crop": 30},
        {"steps": 0},
        {"adversarial_weight": -1.0},
        {"perceptual": Path("nowhere.pth")},
    ],
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"fit.{next(iter(bad))}"):
        TAEFitConfig(**bad)
