"""Real clips all the way to a generated video, by the commands that users type, at tiny size."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lingen
from lingen.io.manifest import foreign_in, read_claim

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VIDEOS = ["sam2_02_cups.mp4", "media_bear-vp9.webm", "bgslibrary_video02.avi", "learning-area_rabbit320.mp4"]
PHOTOS = ["scikit-image_chelsea.png", "test_data_owl.jpg", "interactive-examples_ice-cream.jpg"]
MIDDLES = [f"{kind}/t{i}" for kind in ("loss", "val") for i in (1, 2)]  # the docs name the first and the last
ODD = ["streamio-ffmpeg_broken.mp4", "moviepy_result.webm"]


@pytest.fixture(scope="module", autouse=True)
def one_cluster(ray_cluster):
    """Like the workflow's jobs: each would start Ray itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_cluster.items():
            patch.setenv(name, value)
        yield


def start(job, *flags):
    """A job with relative paths, as users type them: its workers run in other folders."""
    flags = [os.path.relpath(f, ROOT) if isinstance(f, Path) else str(f) for f in flags]
    command = [sys.executable, f"jobs/{job}.py", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(job, *flags):
    process = start(job, *flags)
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="module")
def curated(out, clips):
    with open(clips / "manifest.csv", newline="") as f:
        wanted = [r for r in csv.DictReader(f) if Path(r["uri"]).name in VIDEOS + PHOTOS]
    assert len(wanted) == len(VIDEOS + PHOTOS)
    rows = [r | {"uri": str(clips / r["uri"])} for r in wanted]
    rows += [rows[0] | {"uri": str(clips / "odd" / name), "media_type": "video"} for name in ODD]
    with open(out / "manifest.csv", "w", newline="") as f:
        writer = csv.DictWriter(f, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run("curate", "--input", out / "manifest.csv", "--output", out / "curated", "--filter.min-scene-motion", 0)
    return out / "curated"


@pytest.fixture(scope="module")
def tae(out, curated):
    run(
        *("train_tae", "--curated", curated, "--output", out / "tae", "--pixels.resolution", 64, "--pixels.frames", 16),
        *("--pixels.windows-per-clip", 2, "--fit.preset", "tae_tiny", "--fit.steps", 6, "--fit.batch-size", 2),
        *("--fit.crop", 32, "--fit.frames", 8, "--fit.log-every", 2, "--fit.validate-every", 3),
        *("--fit.checkpoint-every", 3, "--fit.lr", 1e-4, "--fit.warmup", 2, "--fit.ema-decay", 0.5),
    )
    return out / "tae"


@pytest.fixture(scope="module")
def latents(out, curated, tae):
    run(
        *("encode", "--curated", curated, "--tae", tae, "--output", out / "latents", "--resolution", 64),
        *("--frames", 16, "--text", "lingen-tiny", "--max-windows-per-clip", 2),
    )
    return out / "latents"


def small_fit(steps, **kw):
    fit = {"steps": steps, "batch-size": 2, "log-every": 1, "checkpoint-every": 2, "warmup": 1} | kw
    return [x for k, v in fit.items() for x in (f"--fit.{k}", v)]


@pytest.fixture(scope="module")
def image_stage(out, latents):
    run(
        *("train", "--stage", "demo_t2i_64p", "--shards", latents, "--output", out / "t2i", "--sampler.steps", 2),
        *small_fit(4),
    )
    return out / "t2i"


def test_curation_accounts_for_every_input(curated):
    pq = pytest.importorskip("pyarrow.parquet")
    summary = json.loads((curated / "summary.json").read_text())
    assert summary["inputs"] == len(VIDEOS + PHOTOS + ODD)
    assert summary["errors"] == len(ODD)
    assert summary["clips"] == summary["kept"] + summary["dropped"] + summary["errors"]
    kept = pq.read_table(curated / "clips.parquet").to_pylist()
    assert {c["media_type"] for c in kept} == {"image", "video"}
    assert all(c["license"] and c["source"] for c in kept)


def test_the_tae_reconstructs_sources_it_did_not_see(tae):
    held_out = json.loads((tae / "manifest.json").read_text())["outputs"]["held_out"]
    assert held_out["gain_over_mean_colour"] > 3


def test_the_encoded_folder_is_plain_webdataset(latents):
    wds = pytest.importorskip("webdataset")
    shards = sorted(map(str, (latents / "latents").glob("video_*/*.tar")))
    sample = next(iter(wds.WebDataset(shards, shardshuffle=False)))
    metadata = json.loads(next(v for k, v in sample.items() if k.endswith("json")))
    assert metadata["license"]
    assert any(k.endswith("safetensors") for k in sample)


def test_training_ends_in_a_video(out, latents, image_stage):
    av = pytest.importorskip("av")
    command = [
        *("train", "--stage", "demo_t2v_64p_1s", "--shards", latents, "--output", out / "t2v", "--init", image_stage),
        *("--sampler.steps", 2, *small_fit(20, **{"image-ratio": "1:3"})),
    ]
    refused = start(*command[:2], "demo_t2v_96p_2s", *command[3:])
    assert "it has" in refused.communicate(timeout=120)[0], "what the shards have instead"
    assert refused.returncode == 2
    run(*command)
    lines = [json.loads(line) for line in (out / "t2v" / "tracking" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line["metrics"]] == list(range(1, 21)), "every step once"
    logged = set().union(*(line["metrics"] for line in lines))
    described = (ROOT / "docs" / "training.md").read_text()
    assert len(logged) <= 40
    assert not [name for name in logged if f"`{name}`" not in described and name not in MIDDLES]
    assert lines[-1]["metrics"]["loss"] < lines[1]["metrics"]["loss"] * 1.5
    run("train", *command[1:])  # finished: nothing to do

    run(*("generate", "--checkpoint", out / "t2v", "--prompt", "cups", "--output", out / "v.mp4", "--sampler.steps", 3))
    with av.open(str(out / "v.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16
    assert lingen.load(out / "t2v").config.position_sizes[0] >= 2


def test_every_file_that_the_jobs_write_is_declared(out, image_stage):
    """Else --overwrite would move each folder aside, and make clean refuse it."""
    claims = {path: claim["job"] for path in out.iterdir() if (claim := read_claim(path))}
    assert {"curate", "train_tae", "encode", "train"} == set(claims.values())
    assert {path.name: list(foreign_in(path, job)) for path, job in claims.items()} == {p.name: [] for p in claims}


def test_a_checkpoint_of_other_latents_is_refused_by_name(out, latents, image_stage, tmp_path):
    config = json.loads((image_stage / "model" / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for name, change in (("tae_digest", "feedfeedfeedfeed"), ("model", config["model"] | {"width": 64})):
        (other / "config.json").write_text(json.dumps(config | {name: change}))
        (other / "ema.safetensors").write_bytes(b"")
        refused = start(
            *("train", "--stage", "demo_t2i_64p", "--shards", latents, "--output", tmp_path / "x", "--init", other)
        )
        message = refused.communicate(timeout=120)[0]
        assert refused.returncode == 2, message
        assert "--init:" in message
        assert not (tmp_path / "x").exists(), "refused before any work"
