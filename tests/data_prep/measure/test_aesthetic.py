"""A small tower and head of random weights: the way through the model must be exact, whatever the weights."""

import io
import json

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data_prep.curate.estimate import estimate
from data_prep.measure import aesthetic
from data_prep.measure.aesthetic import SCHEMA, AestheticConfig, AestheticLookup, Scorer, load_head, score
from data_prep.measure.examine import STILL_SCHEMA, ExamineConfig
from data_prep.measure.run import DecodeConfig
from data_prep.measure.store import Snapshot, Store

D = 16


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An open_clip local-dir model."""
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": D,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="module")
def head_file(tmp_path_factory):
    """A head with layer names like LAION's, some of which would sort wrongly as text."""
    torch.manual_seed(1)
    sizes = {"layers.0": (D, 8), "layers.2": (8, 4), "layers.10": (4, 1)}
    state = {}
    for name, (a, b) in sizes.items():
        layer = torch.nn.Linear(a, b)
        state |= {f"{name}.weight": layer.weight.detach().clone(), f"{name}.bias": layer.bias.detach().clone()}
    path = tmp_path_factory.mktemp("head") / "head.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def jpegs(clips):
    out = []
    for name in ("scikit-image_astronaut.png", "test_data_parrot.jpg", "scikit-image_coins.png"):
        data = io.BytesIO()
        Image.open(clips / "photos" / name).convert("RGB").resize((64, 48)).save(data, "JPEG")
        out.append(data.getvalue())
    return out


def config_of(model_folder, head_file, **kwargs):
    return AestheticConfig(model=f"local-dir:{model_folder}", head=head_file, batch_size=2, **kwargs)


def test_scores_equal_the_model_called_by_hand(model_folder, head_file, jpegs, tmp_path):
    stills = {
        "key": ["a", "b", "skip"],
        "still_s": [[0.0, 2.0], [0.0], [0.0]],
        "jpeg": [jpegs[:2], jpegs[2:], jpegs[:1]],
    }
    scorer = Scorer(config_of(model_folder, head_file), pa.array(["a", "b"]))
    store = Store(tmp_path, "s", SCHEMA)
    store.add(scorer(pa.table(stills, schema=STILL_SCHEMA)))
    store.flush()
    assert {row["key"] for row in store.rows()} == {"a", "b"}
    found = AestheticLookup(Snapshot(store))({"a", "b", "unknown"})
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{model_folder}")
    state = torch.load(head_file, weights_only=True)
    with torch.inference_mode():
        pixels = torch.stack([preprocess(Image.open(io.BytesIO(j)).convert("RGB")) for j in jpegs])
        embedding = torch.nn.functional.normalize(model.eval().encode_image(pixels), dim=-1)
        x = embedding
        for i in (0, 2, 10):
            x = x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
    assert set(found) == {"a", "b"}
    assert found["a"][0] + found["b"][0] == pytest.approx(x[:, 0].tolist(), abs=1e-4)
    assert np.abs(np.concatenate([found["a"][1], found["b"][1]]) - embedding.numpy()).max() < 2e-3


def test_a_still_that_an_earlier_version_stored_empty_does_not_end_the_job(model_folder, head_file, jpegs):
    scorer = Scorer(config_of(model_folder, head_file), pa.array(["a"]))
    stills = pa.table({"key": ["a"], "still_s": [[0.0, 2.0]], "jpeg": [[b"", jpegs[0]]]}, schema=STILL_SCHEMA)
    (row,) = scorer(stills).to_pylist()
    assert len(row["aesthetic"]) == len(row["embedding"]) == 2
    assert row["aesthetic"][1] == pytest.approx(scorer.head(scorer.embed(jpegs[:1]))[0], abs=1e-4)


@pytest.mark.slow
def test_what_is_scored_is_not_scored_again_and_revisions_do_not_mix(
    model_folder, head_file, jpegs, tmp_path, monkeypatch
):
    stills = Store(tmp_path, "stills-x", STILL_SCHEMA)
    for key in "abcdefghi":
        stills.add(pa.table({"key": [key], "still_s": [[0.0]], "jpeg": [jpegs[:1]]}))
        stills.flush()
    config = config_of(model_folder, head_file)
    with pytest.raises(ValueError, match="--refilter"):
        score(pa.chunked_array([["a"]]), stills, tmp_path, config, allow_new=False)
    first = next(iter(score(pa.chunked_array([["a"]]), stills, tmp_path, config).rows()))
    # It would raise if there were anything to score.
    again = score(pa.chunked_array([["a"]]), stills, tmp_path, config, allow_new=False)
    assert next(iter(again.rows())) == first
    without = AestheticConfig(model=f"local-dir:{model_folder}")
    assert without.revision != config.revision
    assert next(iter(score(pa.chunked_array([["a"]]), stills, tmp_path, without).rows()))["aesthetic"] == []
    monkeypatch.setattr(aesthetic, "quiet_ray", stills.compact)  # another job folds just before Ray reads
    keys = pa.chunked_array([["a", "b", "i", "has no still"]])
    assert {row["key"] for row in score(keys, stills, tmp_path, config).rows()} == {"a", "b", "i"}
    assert len(stills.parts()) == 1


def test_the_estimate_counts_the_model_too(model_folder, head_file, clips):
    photo = str(clips / "photos" / "scikit-image_astronaut.png")
    found = estimate([photo], 1, ExamineConfig(), DecodeConfig(), 2, config_of(model_folder, head_file, workers=4))
    model_s = found.seconds["aesthetic"]
    assert model_s > 0
    assert found.hours * 3600 == pytest.approx((sum(found.seconds.values()) - model_s) / 2 + model_s / 4)


def test_bad_settings_name_their_flag(head_file, tmp_path):
    with pytest.raises(ValueError, match=r"--aesthetic\.head"):
        AestheticConfig(head=head_file)
    with pytest.raises(ValueError, match=r"--aesthetic\.weights: nowhere\.pt is not a file"):
        AestheticConfig(weights="nowhere.pt")
    torch.save({"x.weight": torch.zeros(3, 4), "x.bias": torch.zeros(3)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"--aesthetic\.head"):
        load_head(tmp_path / "bad.pth")


def test_a_head_that_carries_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"x.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"--aesthetic\.head: .*evil\.pth names io\.open, .* refused$"):
        load_head(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()
