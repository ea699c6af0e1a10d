"""The start of a stage: random weights or an earlier stage's, position tables that grow by geometry, no rank with more
than its part of the model."""

import dataclasses
import json
import os

import pytest
import torch

from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.positions import stretched
from lingen.model.pretrained import export_model
from lingen.train.config import FitConfig
from lingen.train.hand_over import build_model, grown, position_scale
from lingen.train.ranks import whole

TINY = DenoiserConfig(
    width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6), position_sizes=(2, 4, 4)
)
CPU = torch.device("cpu")


def whole_weights(model, ema):
    raw = {name: whole(p.detach()) for name, p in model.named_parameters()}
    return raw, {name: whole(p) for name, p in ema.weights.items()}


def test_position_tables_grow_to_the_largest_latents_and_never_shrink(make_shards):
    shards = ShardIndex.open(make_shards({"image_64x64": 1, "video_64x96_32f": 1}))
    _, T, H, W = shards.buckets["video_64x96_32f"].latent_shape
    grid = TINY.token_grid((T, H, W))
    assert grown(dataclasses.replace(TINY, position_sizes=(1, 1, 1)), shards).position_sizes == grid
    assert grown(dataclasses.replace(TINY, position_sizes=(99, 1, 1)), shards).position_sizes == (99, *grid[1:])
    assert grown(dataclasses.replace(TINY, position_sizes=(5, 5, 5)), shards, 2.0).position_sizes == (5, 10, 10)


def test_the_scale_of_positions_is_the_ratio_of_resolutions(make_shards):
    shards = ShardIndex.open(make_shards({"video_64x96_32f": 1}))
    resolution = shards.buckets["video_64x96_32f"].format.resolution
    assert position_scale({"resolution": resolution // 2}, shards) == 2
    assert position_scale({"resolution": resolution}, shards) == position_scale({}, shards) == 1


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
    folder, raw, averaged = before
    larger = dataclasses.replace(TINY, position_sizes=(4, 8, 8))
    names = [f"positions.tables.{axis}" for axis in range(3)]
    for found, old in zip(whole_weights(*build_model(FitConfig(), larger, folder, CPU, 2.0)), (raw, averaged)):
        for name, table in zip(names, stretched([old[name] for name in names], (4, 8, 8), 2.0)):
            torch.testing.assert_close(found[name], table, rtol=0, atol=0)
        for name in old.keys() - set(names):
            torch.testing.assert_close(found[name], old[name], rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"width": 64}, {"depth": 2}], ids=str)
def test_weights_of_another_architecture_are_refused(process_group, before, changes):
    with pytest.raises(ValueError, match=r"^--init: the weights in .*model are of another architecture: "):
        build_model(FitConfig(), dataclasses.replace(TINY, **changes), before[0], CPU)


def test_random_weights_are_those_of_the_seed(process_group):
    def weights(seed):
        return whole_weights(*build_model(FitConfig(seed=seed), TINY, None, CPU))[0]

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(3)
    assert all(torch.equal(first[name], p) for name, p in Denoiser(TINY).named_parameters())


def test_the_last_steps_are_averaged_evenly(process_group):
    _, ema = build_model(FitConfig(steps=100, average_last=25), TINY, None, CPU)
    assert ema.uniform_after == 75
    assert build_model(FitConfig(steps=100), TINY, None, CPU)[1].uniform_after is None


SCRIPT = """
import json, os, sys
from pathlib import Path
import torch, torch.distributed as dist
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.pretrained import read_weights
from lingen.train.config import FitConfig
from lingen.train.export import export_stage
from lingen.train.hand_over import build_model
from lingen.train.ranks import local

folder, group = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo")
config = DenoiserConfig(width=96, depth=12, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6),
                        position_sizes=(4, 4, 4))
own = lambda weights: sum(local(w).untyped_storage().nbytes() for w in weights)
cpu, fit = torch.device("cpu"), FitConfig(shard_group=group, seed=2)
torch.manual_seed(2)
witness = Denoiser(config)
layer = own(witness.layers[0].parameters())
expected = {n: p.detach() for n, p in witness.named_parameters()}
figures = {}

def follow(name, action):
    with LiveBytes() as live:
        result = action()
    figures[name] = {"most": live.most, "now": live.now}
    return result

model, ema = follow("random weights", lambda: build_model(fit, config, None, cpu))
figures["kept"], figures["layer"] = own([*model.parameters(), *ema.weights.values()]), layer
with torch.no_grad():
    for tensor in ema.weights.values():
        local(tensor).add_(1.0)
if dist.get_rank() == 0:
    (folder / "tae").mkdir()
follow("export", lambda: export_stage(folder / "model", model, ema, {}, folder / "tae"))
dist.barrier()
model, ema = follow("hand-over", lambda: build_model(fit, config, folder / "model", cpu))
for name, p in expected.items():
    assert torch.equal(model.get_parameter(name).full_tensor(), p), name
    assert torch.equal(ema.weights[name].full_tensor(), p + 1), name
worst = [None] * dist.get_world_size()
dist.all_gather_object(worst, figures)
if dist.get_rank() == 0:
    print(json.dumps(worst))
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("group", [0, 2])
def test_no_rank_ever_holds_more_than_its_part_and_one_layer(run_ranks, live_bytes, tmp_path, group):
    """At start, at the hand-over and in the export; the weights are the same on any number of ranks."""
    out, _ = run_ranks(live_bytes + SCRIPT, 4, tmp_path, group)
    for rank in json.loads(out):
        kept, layer = rank["kept"], rank["layer"]
        assert kept > 3 * layer, "or one layer would hide a copy of the rank's part"
        for start in ("random weights", "hand-over"):
            assert kept <= rank[start]["most"] <= 1.1 * (kept + layer), (start, rank)
        assert rank["export"]["most"] <= 1.1 * (kept + layer), rank
    weights = {path.name: os.path.getsize(path) for path in (tmp_path / "model").glob("*.safetensors")}
    assert weights.keys() == {"raw.safetensors", "ema.safetensors"}
