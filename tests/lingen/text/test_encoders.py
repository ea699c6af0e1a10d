"""Text encoders: all tokens, honest names, stable digests, one-line errors."""

import sys

import pytest
import torch

from lingen.text.encoders import TextEncoderConfig, build_text_encoder, parse_text_encoders

pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def encoder():
    return build_text_encoder(TextEncoderConfig(model="lingen-tiny"))


def test_all_tokens_up_to_the_end_mark(encoder):
    out = encoder.encode(["a dog runs", "", "word " * 200])
    assert [tuple(e.shape) for e in out] == [(5, 128), (2, 128), (77, 128)]
    assert all(e.dtype == torch.float32 and e.isfinite().all() for e in out)
    assert encoder.dim == 128


def test_the_batch_does_not_change_an_embedding(encoder):
    together = encoder.encode(["a dog runs", "a longer caption about the sea"])
    torch.testing.assert_close(encoder.encode(["a dog runs"])[0], together[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0][1:4], together[1][1:4], atol=1e-2)


def test_random_weights_are_named_and_depend_on_the_seed(encoder):
    assert encoder.name == "open_clip/lingen-tiny, random weights, seed 0"
    state = torch.get_rng_state()
    again = build_text_encoder(TextEncoderConfig(model="lingen-tiny"))
    other = build_text_encoder(TextEncoderConfig(model="lingen-tiny", seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert again.digest == encoder.digest
    assert other.digest != encoder.digest


def test_weights_from_a_file(encoder, tmp_path):
    import open_clip

    torch.manual_seed(5)
    model = open_clip.create_model("lingen-tiny", force_custom_text=True)
    path = tmp_path / "clip.pt"
    torch.save(model.state_dict(), path)
    loaded = build_text_encoder(TextEncoderConfig(model="lingen-tiny", pretrained=str(path)))
    assert str(path) in loaded.name
    assert loaded.digest != encoder.digest
    assert torch.equal(loaded._tower.token_embedding.weight, model.text.token_embedding.weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextEncoderConfig(model="nope"), "--text: 'nope' is unknown"),
        (TextEncoderConfig(pretrained="missing.pt"), "--text: pretrained=missing.pt is neither a file nor a tag"),
        (TextEncoderConfig(model="ViT-B-16-SigLIP"), "does not read CLIP's tokens"),
    ],
)
def test_bad_configurations(config, message):
    with pytest.raises(ValueError, match=message):
        build_text_encoder(config)


def test_encoders_are_written_as_words():
    assert parse_text_encoders(["lingen-tiny"]) == {"lingen-tiny": TextEncoderConfig(model="lingen-tiny")}
    words = "ul2=/w/ul2=x,family=t5,max_tokens=99 google/byt5.small,family=t5 A,pretrained=b=c"
    found = parse_text_encoders(words.split())
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
        (["a,weights=b"], "'weights=b' in 'a,weights=b' is no option; use pretrained=..."),
        (["a,seed=one"], "wants a whole number"),
        (["a,family=bert"], "family=bert .* use open_clip or t5"),
    ],
)
def test_words_that_name_no_encoder(specs, message):
    with pytest.raises(ValueError, match=f"^--text: .*{message}"):
        parse_text_encoders(specs)


def test_t5_by_bytes():
    pytest.importorskip("transformers", reason="the extra t5 is not installed")
    config = TextEncoderConfig(family="t5", model="lingen-byt5-tiny", max_tokens=9)
    encoder = build_text_encoder(config)
    out = encoder.encode(["a dog", "", "more than nine bytes"])
    assert [tuple(e.shape) for e in out] == [(6, 64), (1, 64), (9, 64)]
    torch.testing.assert_close(encoder.encode(["a dog"])[0], out[0], atol=1e-5, rtol=1e-5)
    assert encoder.name == "t5/lingen-byt5-tiny, random weights, seed 0"
    assert build_text_encoder(config).digest == encoder.digest
    assert build_text_encoder(TextEncoderConfig(family="t5", model="lingen-byt5-tiny", seed=1)).digest != encoder.digest


def test_t5_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra t5 is not installed")
    first = build_text_encoder(TextEncoderConfig(family="t5", model="lingen-byt5-tiny"))
    first._model.save_pretrained(tmp_path)
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    again = build_text_encoder(TextEncoderConfig(family="t5", model=str(tmp_path)))
    assert torch.equal(again.encode(["a dog"])[0], first.encode(["a dog"])[0])
    assert str(tmp_path) in again.name
    with pytest.raises(ValueError, match="cannot be loaded as a T5 encoder"):
        build_text_encoder(TextEncoderConfig(family="t5", model=str(tmp_path / "nothing")))


def test_two_encoders_feed_one_denoiser(encoder):
    from lingen.model.denoiser import Denoiser, DenoiserConfig
    from lingen.text.padding import pad_text

    second = build_text_encoder(TextEncoderConfig(model="lingen-tiny", seed=1))
    config = DenoiserConfig(width=32, depth=1, heads=2, ssm_head_dim=16, mamba2_state=8, text_dims=(128, 128))
    text = [pad_text(e.encode(["a dog", "the sea at night"])) for e in (encoder, second)]
    assert Denoiser(config)(torch.randn(2, 16, 1, 4, 4), torch.rand(2), text).shape == (2, 16, 1, 4, 4)


def test_t5_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="--text: family=t5 needs the transformers package"):
        build_text_encoder(TextEncoderConfig(family="t5", model="lingen-byt5-tiny"))
