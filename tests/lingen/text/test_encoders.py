"""Text encoders on the command line, and several of them side by side."""

import pytest
import torch

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.text.encoders import TextEncoderConfig, build_text_encoder, parse_text_encoders
from lingen.text.padding import pad_text


def test_specs_are_parsed():
    assert parse_text_encoders(["lingen-tiny"]) == {"lingen-tiny": TextEncoderConfig(model="lingen-tiny")}
    specs = "ul2=/w/ul2=x,family=t5,max_tokens=99 google/byt5.small,family=t5 A,pretrained=b=c"
    found = parse_text_encoders(specs.split())
    assert list(found) == ["A", "byt5-small", "ul2"]
    assert found["ul2"] == TextEncoderConfig(model="/w/ul2=x", family="t5", max_tokens=99)
    assert found["byt5-small"] == TextEncoderConfig(model="google/byt5.small", family="t5")
    assert found["A"] == TextEncoderConfig(model="A", pretrained="b=c")


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "at least one encoder"),
        ([""], "is not like clip="),
        (["a="], "is not like clip="),
        (["../a=b"], "is not like clip="),
        (["a", "a,seed=1"], "two encoders are called a; write NAME=MODEL"),
        (["a,weights=b"], "'weights=b' in 'a,weights=b' is not an option; use pretrained=..."),
        (["a,seed=one"], "needs a whole number"),
        (["a,family=bert"], "family=bert .* use open_clip or t5"),
    ],
)
def test_bad_specs_are_refused(specs, message):
    with pytest.raises(ValueError, match=f"^--text: .*{message}"):
        parse_text_encoders(specs)


def test_two_encoders_feed_one_denoiser():
    pytest.importorskip("open_clip")
    encoders = [build_text_encoder(TextEncoderConfig(model="lingen-tiny", seed=seed)) for seed in (0, 1)]
    config = DenoiserConfig(width=32, depth=1, heads=2, ssm_head_dim=16, mamba2_state=8, text_dims=(128, 128))
    text = [pad_text(e.encode(["a dog", "the sea at night"])) for e in encoders]
    assert Denoiser(config)(torch.randn(2, 16, 1, 4, 4), torch.rand(2), text).shape == (2, 16, 1, 4, 4)
