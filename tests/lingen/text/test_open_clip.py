"""open_clip's text towers: all tokens, honest names, one-line errors."""

import logging

import pytest
import torch

from lingen.text import open_clip as towers
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def encoder():
    return build_text_encoder(TextEncoderConfig(model="lingen-tiny"))


def test_all_tokens_up_to_the_end_token(encoder):
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


def test_meant_random_weights_are_said_once_and_in_our_words(caplog, monkeypatch):
    monkeypatch.delenv(towers.RANDOM_WEIGHTS_SAID, raising=False)
    towers._say_random_weights.cache_clear()
    with caplog.at_level(logging.INFO):
        for seed in (0, 1):
            build_text_encoder(TextEncoderConfig(model="lingen-tiny", seed=seed))
    said = [r.getMessage() for r in caplog.records if "weights" in r.getMessage()]
    assert [text.partition(":")[0] for text in said] == ["text tower lingen-tiny has random weights, on purpose"]
    assert not logging.getLogger().filters


def test_a_workflow_that_has_said_it_is_not_told_again(caplog, monkeypatch):
    monkeypatch.setenv(towers.RANDOM_WEIGHTS_SAID, "1")
    towers._say_random_weights.cache_clear()
    with caplog.at_level(logging.INFO, "lingen"):
        build_text_encoder(TextEncoderConfig(model="lingen-tiny"))
    assert "weights" not in caplog.text
    towers._say_random_weights.cache_clear()


def test_open_clips_other_warnings_are_shown(caplog):
    """And that warning itself wherever random weights are not built on purpose."""
    import open_clip

    with towers._random_weights_meant():
        logging.warning("something else about the model")
        logging.warning("No pretrained weights loaded for model 'lingen-tiny'.")
    assert caplog.messages == ["something else about the model"]
    open_clip.create_model("lingen-tiny", force_custom_text=True)
    assert "No pretrained weights loaded" in caplog.text


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
        (TextEncoderConfig(model="ViT-B-16-SigLIP"), "does not use CLIP's tokenizer"),
    ],
)
def test_bad_models_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_text_encoder(config)


def test_weights_that_carry_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "owned"), "w")

    torch.save({"text.token_embedding.weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(
        ValueError, match=r"^--text: pretrained=.*evil\.pt names io\.open, so it may run code: .* refused$"
    ):
        build_text_encoder(TextEncoderConfig(pretrained=str(tmp_path / "evil.pt")))
    assert not (tmp_path / "owned").exists()
