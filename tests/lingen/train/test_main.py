"""lingen.train: the same training without Ray, under torchrun and alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import lingen
from lingen.data.synthetic import write_random_encoding
from lingen.generate.pipeline import GenerateConfig, generate
from lingen.generate.sampler import SamplerConfig
from lingen.train.__main__ import _with_values, main
from lingen.train.checkpoint import checkpoints
from lingen.train.config import FitConfig
from lingen.train.observers.guard import GuardConfig

SETTINGS = ["steps=40", "batch_size=2", "log_every=1", "checkpoint_every=30", "warmup=2", "validate_every=0"]


def curve(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "every step once"
    return [line["loss"] for line in lines]


@pytest.mark.slow
def test_torchrun_saves_on_sigterm_and_one_process_continues(tmp_path):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 9})
    flags = ["--shards", str(shards), "--output", str(tmp_path / "run"), *SETTINGS]
    torchrun = Path(sys.executable).with_name("torchrun")
    launched = subprocess.Popen(
        [torchrun, "--nproc-per-node", "2", "--standalone", "-m", "lingen.train", *flags],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        time.sleep(0.02)
        assert launched.poll() is None, launched.stdout.read()
    launched.send_signal(signal.SIGTERM)
    output = launched.communicate(timeout=120)[0]
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    done = int(saved.name.removeprefix("step_"))
    assert 2 <= done < 40, output
    assert len(curve(tmp_path / "run")) == done
    with open(metrics, "a") as f:
        f.write('{"step": 4')  # as a kill in the middle of a line leaves it

    assert main(flags) == 0
    assert main(["--shards", str(shards), "--output", str(tmp_path / "whole"), *SETTINGS]) == 0
    assert curve(tmp_path / "run") == pytest.approx(curve(tmp_path / "whole"), rel=1e-5)
    assert lingen.load(tmp_path / "run").config.width == 128
    made = generate(
        GenerateConfig(checkpoint=tmp_path / "run", output=tmp_path / "a.png", sampler=SamplerConfig(steps=2))
    )
    assert (made.frames, made.height, made.width, made.path.is_file()) == (1, 64, 64, True)


@pytest.mark.slow
def test_a_stop_file_ends_with_75(tmp_path):
    shards, output = write_random_encoding(tmp_path / "shards", {"image_64x64": 9}), tmp_path / "run"

    def stop_after_a_step():
        while not (output / "metrics.jsonl").exists():
            time.sleep(0.02)
        (output / "stop").touch()

    threading.Thread(target=stop_after_a_step).start()
    assert main(["--shards", str(shards), "--output", str(output), *SETTINGS, "steps=2000"]) == 75
    assert checkpoints(output / "checkpoints")


def test_a_place_that_cannot_be_written_and_a_folder_named_stop_are_one_line(tmp_path, capsys):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 2})
    (tmp_path / "file").touch()
    assert main(["--shards", str(shards), "--output", str(tmp_path / "file" / "run"), "steps=1"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output: {tmp_path / 'file'}")
    (tmp_path / "run" / "stop").mkdir(parents=True)
    assert main(["--shards", str(shards), "--output", str(tmp_path / "run"), "steps=1"]) == 2
    assert f"{tmp_path / 'run' / 'stop'} is a folder" in capsys.readouterr().err


def test_a_persons_model_in_the_output_is_not_written_over(tmp_path, capsys):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 2})
    mine = tmp_path / "run" / "model" / "config.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    assert main(["--shards", str(shards), "--output", str(tmp_path / "run"), "steps=1", "batch_size=1"]) == 2
    assert "/run/model is of no run in this folder" in capsys.readouterr().err
    assert mine.read_text() == "{}"


@pytest.mark.parametrize(("field", "other"), [("tae_digest", "another"), ("text_digests", ["another"])])
def test_a_start_from_other_latents_is_refused(field, other, tmp_path, capsys):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 2})
    flags = ["--shards", str(shards), "--output"]
    settings = ["steps=1", "batch_size=1", "validate_every=0", "held_out=0"]
    assert main([*flags, str(tmp_path / "before"), *settings]) == 0
    again = [*flags, str(tmp_path / "after"), "--init", str(tmp_path / "before"), *settings]
    assert main(again) == 0, "the same latents are accepted"
    config = tmp_path / "before" / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {field: other}))
    assert main(again) == 2
    assert capsys.readouterr().err.startswith(f"error: --init: {tmp_path / 'before' / 'model'} was trained")


@pytest.mark.parametrize(
    "bad", ["stepz=3", "steps", "steps=three", "guard.nothing=1", "guard=1", "steps.x=1", "compile=maybe"]
)
def test_bad_settings_are_one_line(bad, tmp_path, capsys):
    shards = write_random_encoding(tmp_path / "shards", {"image_64x64": 2})
    assert main(["--shards", str(shards), "--output", str(tmp_path / "run"), bad]) == 2
    assert capsys.readouterr().err.startswith(f"error: {bad}: ")


def test_settings_are_read_as_the_types_of_their_fields():
    settings = ["steps=3", "lr=1e-3", "compile=true", "image_ratio=0", "guard.max_skips=5"]
    expected = FitConfig(steps=3, lr=1e-3, compile=True, image_ratio="0", guard=GuardConfig(max_skips=5))
    assert _with_values(FitConfig(), settings) == expected
