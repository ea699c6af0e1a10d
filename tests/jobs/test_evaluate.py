import dataclasses
import json

import pytest

from data_prep.demo.evaluation import EvaluateConfig, read_scored
from jobs.evaluate import run
from lingen.generate.sampler import SamplerConfig
from lingen.io.manifest import foreign_in, read_manifest


@pytest.mark.slow
def test_every_model_is_scored_once_and_the_sheet_drawn(random_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    out = tmp_path / "out"
    sampler = SamplerConfig(steps=1, guidance=1.0)
    config = EvaluateConfig(checkpoints=(random_model,), output=out, prompts=6, rows=3, sampler=sampler)
    run(config)
    scores = json.loads((out / "evaluation.json").read_text())["stages"]["stage"]
    assert [scores[group]["prompts"] for group in ("trained", "held_out")] == [4, 2]
    printed = capsys.readouterr().out
    assert "prompts followed: color " in printed
    assert "(guessing: 17%)" in printed
    assert set(read_manifest(out)["outputs"]) == {"answers.npz", "evaluation.json", "sheet.png"}
    assert list(foreign_in(out, "evaluate")) == []
    before = (out / "sheet.png").stat().st_mtime_ns
    run(config)
    assert (out / "sheet.png").stat().st_mtime_ns == before


@pytest.mark.slow
def test_what_was_scored_elsewhere_is_not_asked_again_and_gives_the_same_files(random_model, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    sampler = SamplerConfig(steps=1, guidance=1.0)
    config = EvaluateConfig(checkpoints=(random_model,), output=tmp_path / "first", prompts=6, rows=3, sampler=sampler)
    run(config)
    monkeypatch.setattr("data_prep.demo.evaluation.ask", None)
    again = dataclasses.replace(config, output=tmp_path / "again", scored=(config.output,))
    run(again)
    for name in ("evaluation.json", "sheet.png", "answers.npz"):
        assert (again.output / name).read_bytes() == (config.output / name).read_bytes()
    with pytest.raises(ValueError, match=r"^--scored: .*/first has prompts 6, not 7; score it again"):
        run(dataclasses.replace(again, output=tmp_path / "x", prompts=7))
    with pytest.raises(ValueError, match=r"^--scored: .*/first scored other weights of stage; score them again"):
        read_scored(again, {"stage": "other"})
    (config.output / "answers.npz").unlink()
    with pytest.raises(ValueError, match=r"^--scored: .*/first has no answers.npz; score its models again"):
        run(dataclasses.replace(again, output=tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--checkpoints", {"checkpoints": ()}),
        ("--prompts", {"prompts": 2}),
        ("--rows", {"rows": 49}),
        ("--threads", {"threads": 0}),
    ],
)
def test_bad_settings_name_the_flag(flag, settings, tmp_path):
    with pytest.raises(ValueError, match=f"^{flag}: "):
        EvaluateConfig(**{"checkpoints": (tmp_path,), "output": tmp_path / "out"} | settings)


def test_a_folder_without_a_model_is_named_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"^--checkpoints: .*/x contains no exported model"):
        run(EvaluateConfig(checkpoints=(tmp_path / "x",), output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
