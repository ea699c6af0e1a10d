"""T5 encoders: bytes in, models from a folder, a missing package."""

import sys

import pytest
import torch

from lingen.text.encoders import TextEncoderConfig, build_text_encoder


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


def test_t5_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="--text: family=t5 needs the transformers package"):
        build_text_encoder(TextEncoderConfig(family="t5", model="lingen-byt5-tiny"))
