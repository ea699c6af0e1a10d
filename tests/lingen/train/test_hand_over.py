"""The hand-over from one stage to the next: raw and averaged weights, position tables that grow and never shrink."""

import dataclasses

import pytest
import torch

from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import export_model
from lingen.train.config import FitConfig
from lingen.train.export import whole_weights
from lingen.train.hand_over import build_model, grown

TINY = DenoiserConfig(
    width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6), position_sizes=(2, 4, 4)
)
CPU = torch.device("cpu")


def test_position_tables_grow_to_the_largest_latents_and_never_shrink(make_shards):
    shards = ShardIndex.open(make_shards({"image_64x64": 1, "video_64x96_32f": 1}))
    _, T, H, W = shards.buckets["video_64x96_32f"].latent_shape
    grid = TINY.token_grid((T, H, W))
    assert grown(dataclasses.replace(TINY, position_sizes=(1, 1, 1)), shards).position_sizes == grid
    assert grown(dataclasses.replace(TINY, position_sizes=(99, 1, 1)), shards).position_sizes == (99, *grid[1:])


@pytest.fixture
def before(tmp_path):
    """(folder, raw, averaged) of an exported model."""
    torch.manual_seed(1)
    raw, averaged = Denoiser(TINY).state_dict(), Denoiser(TINY).state_dict()
    for weights in (raw, averaged):
        for tensor in weights.values():
            tensor.add_(torch.randn_like(tensor))
    (tmp_path / "tae").mkdir()
    return export_model(tmp_path / "model", raw, averaged, TINY, {}, tmp_path / "tae"), raw, averaged


def test_a_stage_starts_from_raw_and_averaged_weights_each_from_its_own(process_group, before):
    folder, raw, averaged = before
    model, ema = build_model(FitConfig(), TINY, folder, CPU)
    found_raw, found_averaged = whole_weights(model, ema)
    for name in raw:
        torch.testing.assert_close(found_raw[name], raw[name], rtol=0, atol=0)
        torch.testing.assert_close(found_averaged[name], averaged[name], rtol=0, atol=0)


def test_position_tables_are_stretched_and_all_else_is_handed_over_as_it_is(process_group, before):
    folder, raw, _ = before
    larger = dataclasses.replace(TINY, position_sizes=(4, 8, 4))
    found, _ = whole_weights(*build_model(FitConfig(), larger, folder, CPU))
    changed = {name for name in raw if found[name].shape != raw[name].shape}
    assert changed
    assert all("positions" in name for name in changed)
    for name in raw.keys() - changed:
        torch.testing.assert_close(found[name], raw[name], rtol=0, atol=0)


def test_random_weights_are_those_of_the_seed(process_group):
    def weights(seed):
        return whole_weights(*build_model(FitConfig(seed=seed), TINY, None, CPU))[0]

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_last_steps_are_averaged_evenly(process_group):
    _, ema = build_model(FitConfig(steps=100, average_last=25), TINY, None, CPU)
    assert ema.uniform_after == 75
    assert build_model(FitConfig(steps=100), TINY, None, CPU)[1].uniform_after is None
