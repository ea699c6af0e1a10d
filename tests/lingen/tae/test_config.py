import dataclasses

import pytest

from lingen.tae.config import TAE_PRESETS, TAEConfig


def test_presets_compress_as_in_the_paper():
    for config in TAE_PRESETS.values():
        assert (config.temporal_factor, config.spatial_factor, config.latent_channels) == (8, 8, 16)


def test_levels_and_patch_set_the_compression():
    config = TAEConfig(channels=(4, 4, 8), time_levels=1, patch=(2, 4, 4))
    assert (config.temporal_factor, config.spatial_factor) == (4, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (8,)}, "channels: need at least two levels"),
        ({"time_levels": 4}, "time_levels: must be 0 to 3, got 4"),
        ({"attention_heads": 3}, "attention_heads: 3 does not divide 512 channels"),
        ({"attention_reach": -1}, "attention_reach: must not be negative"),
    ],
)
def test_impossible_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TAEConfig(), **change)
