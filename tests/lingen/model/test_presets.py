"""Presets: sizes as their names say, and LinGen and DiT of a pair are comparable."""

import pytest

from lingen.model.denoiser import Denoiser
from lingen.model.flops import parameter_count
from lingen.model.presets import PRESETS, preset


def test_presets_have_the_sizes_of_their_names():
    sizes = {name: parameter_count(config) for name, config in PRESETS.items()}
    assert sizes["lingen_4b"] == pytest.approx(4.0e9, rel=0.03)
    for name, target in {"100m": 1e8, "500m": 5e8, "1b": 1e9, "4b": 4e9}.items():
        assert sizes[f"lingen_{name}"] == pytest.approx(target, rel=0.06)
        assert sizes[f"dit_{name}"] == pytest.approx(sizes[f"lingen_{name}"], rel=0.06)
    with pytest.raises(ValueError, match="choose one of tiny"):
        preset("large")


def test_tiny_is_small():
    assert 1e6 < sum(p.numel() for p in Denoiser(PRESETS["tiny"]).parameters()) < 2e6


def test_a_pair_differs_in_mixer_and_ffn_alone():
    pairs = [(name, "dit_" + name.removeprefix("lingen_")) for name in PRESETS if not name.startswith("dit_")]
    assert len(PRESETS) == 2 * len(pairs)
    for lingen, dit in pairs:
        ours, baseline = PRESETS[lingen].to_dict(), PRESETS[dit].to_dict()
        assert {name for name in ours if ours[name] != baseline[name]} == {"mixer", "ffn_ratio"}
