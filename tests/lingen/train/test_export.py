"""What a stage exports, and which models may be trained further on which shards."""

import dataclasses

import pytest
import torch

from lingen.data.shard_index import ShardIndex
from lingen.text.encoders import TextEncoderConfig
from lingen.train.ema import EMA
from lingen.train.export import check_same_latents, describe, whole_weights


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


def test_raw_and_averaged_weights_are_told_apart():
    model = torch.nn.Linear(2, 1)
    ema = EMA(model, 0.9)
    torch.nn.init.constant_(model.weight, 5.0)
    raw, averaged = whole_weights(model, ema)
    assert raw.keys() == averaged.keys() == {"weight", "bias"}
    assert raw["weight"].eq(5).all()
    assert not averaged["weight"].eq(5).any()
