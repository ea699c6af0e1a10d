"""The model's benchmark scripts run, and say the same as the committed results where the machine does not matter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_adjacency_reproduces_the_committed_result(tmp_path):
    done = run("adjacency.py", "--output", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    fresh = json.loads((tmp_path / "a.json").read_text())
    assert fresh == json.loads((BENCHMARKS / "results" / "adjacency.json").read_text())
    assert fresh["axis_neighbours"]["rms"] == [352.33, 342.0, 1.0, 1.0]


def test_bare_decoding_does_not_mind_metadata_that_is_no_text(clips, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from curation_decode import bare

    source, path = clips / "videos" / "learning-area_frog.mp4", tmp_path / "a.mp4"
    path.write_bytes(source.read_bytes().replace(b"Apple Video Media", b"\xff\xfe" + b"Video\xe9" * 2 + b"..."))
    assert path.read_bytes() != source.read_bytes()
    assert bare(str(path), 1)["frames"] == bare(str(source), 1)["frames"] > 0


def test_the_gpu_script_runs_at_toy_size_and_refuses_without_a_gpu(tmp_path):
    output = tmp_path / "gpu.json"
    done = run(
        "gpu_latency.py",
        *("--device", "cpu", "--models", "tiny", "dit_tiny", "--latent", 2, 4, 4, "--no-compile", "--steps", 1),
        *("--output", output),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert {row["model"] for row in result["latency"]} == {"tiny", "dit_tiny"}
    assert len(result["variants"]) == 8
    assert not [row for section in ("latency", "variants", "self_tests") for row in result[section] if "error" in row]
    import torch

    if not torch.cuda.is_available():
        refused = run("gpu_latency.py", "--output", output)
        assert refused.returncode == 1
        assert "no CUDA device here" in refused.stderr


@pytest.mark.parametrize("model", ["lingen", "dit"])
def test_scaling_measures_one_point(model):
    done = run("scaling.py", "--one", model, 1, "forward")
    assert done.returncode == 0, done.stderr
    point = json.loads(done.stdout)
    assert point["cpu_seconds"] > 0
    assert point["peak_mib"] > 0


def test_the_parts_of_a_training_step_add_up(tmp_path):
    done = run("step_split.py", "--steps", 2, "--warmup", 1, "--output", tmp_path / "split.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "split.json").read_text())
    split = result["percent_of_step"]
    assert sum(split.values()) == pytest.approx(100, abs=0.1)
    assert {"data", "forward", "backward", "optimizer", "report", "checkpoint"} <= split.keys()
    assert split["backward"] > split["data"] > 0
    assert (result["steps"], result["percent_not_model"] < 100) == (2, True)
