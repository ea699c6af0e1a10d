"""What a stage exports, and which models may be trained further on which shards."""

import dataclasses

import pytest
import torch
from safetensors.torch import save

from lingen.data.shard_index import ShardIndex
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.text.encoders import TextEncoderConfig
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.export import check_same_latents, describe, export_stage
from lingen.train.ranks import whole
from lingen.train.sharding import shard

TINY = DenoiserConfig(
    width=32, depth=1, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8,), position_sizes=(2, 4, 4)
)


@pytest.fixture
def index(make_shards):
    return ShardIndex.open(make_shards({"image_64x64": 5, "video_64x64_16f": 2, "video_64x64_32f": 3}))


def test_a_model_is_described_by_its_longest_videos(index):
    about = describe("t2v", "tiny", index, [TextEncoderConfig(), TextEncoderConfig()], ("a dog", "the sea"))
    assert (about["bucket"], about["frames"], about["stage"], about["preset"]) == ("video_64x64_32f", 32, "t2v", "tiny")
    assert about["latent_shape"] == list(index.buckets["video_64x64_32f"].latent_shape)
    assert about["prompts"] == ["a dog", "the sea"]
    assert about["text"][0] == dataclasses.asdict(TextEncoderConfig())
    check_same_latents(about, index, "before")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tae_digest": "another"}, r"--init: before was trained on latents of TAE another, these .* TAE"),
        (
            {"text_digests": ["x"]},
            r"--init: before was trained with text encoders .*encoder_1; see jobs/retext",
        ),
    ],
)
def test_a_model_of_other_latents_or_texts_is_refused(index, changes, named):
    about = describe("t2v", "tiny", index, [TextEncoderConfig(), TextEncoderConfig()], ["x"]) | changes
    with pytest.raises(ValueError, match=named):
        check_same_latents(about, index, "before")


@pytest.fixture
def stage(process_group):
    """(model, ema) of a stage whose averages differ from its weights."""
    torch.manual_seed(0)
    model = Denoiser(TINY)
    ema = EMA(model, 0.9)
    for average in ema.weights.values():
        average.add_(1.0)
    shard(model, FitConfig())
    return model, ema


def test_an_export_is_what_safetensors_itself_would_write(stage, tmp_path):
    model, ema = stage
    raw = {name: whole(p.detach()).contiguous() for name, p in model.named_parameters()}
    averaged = {name: tensor.contiguous() for name, tensor in ema.weights.items()}
    (tmp_path / "tae").mkdir()
    export_stage(tmp_path / "model", model, ema, {}, tmp_path / "tae")
    for name, weights in (("raw", raw), ("ema", averaged)):
        assert (tmp_path / "model" / f"{name}.safetensors").read_bytes() == save(weights)


def test_a_full_disk_keeps_no_rank_waiting(stage, tmp_path, monkeypatch):
    """The others gather every tensor with rank 0; so must it, though it has nowhere to write them."""
    model, ema = stage
    gathered = []
    monkeypatch.setattr("lingen.train.export.whole", lambda tensor: gathered.append(tensor) or whole(tensor))

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("lingen.model.pretrained.write_atomic", full)
    with pytest.raises(OSError, match="no space left"):
        export_stage(tmp_path / "model", model, ema, {}, tmp_path)
    assert len(gathered) == 2 * len(ema.weights)
