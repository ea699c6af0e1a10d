"""jobs/encode.py on real clips: right frames, right text, survives kill -9, refuses bad settings before it starts."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import torch

from data_prep.encode import latents, segment_frames
from data_prep.encode.job import encode, latent_settings
from data_prep.encode.latents import LatentWorker
from data_prep.encode.layout import lay_out
from data_prep.encode.parts import read_part
from data_prep.encode.pool import EncodeWorkers
from data_prep.encode.segments import read_clips
from data_prep.media.errors import MediaError
from data_prep.media.frames import read_frames
from data_prep.media.probe import probe
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import LATENT, read_shard, unpack_latent
from lingen.tae.config import TAEConfig
from lingen.tae.pretrained import load_tae
from lingen.tae.tae import TAE
from lingen.text.encoders import TextEncoderConfig, build_text_encoder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TEXT = TextEncoderConfig(model="lingen-tiny")
TAE_SHAPE = TAE(TAEConfig(channels=(8, 8, 16, 16), blocks=1, decoder_blocks=1)).latent_shape  # what encode_inputs has
FLAGS = ["--resolution", "32", "--frames", "17", "--shard-mb", "0.03", "--text", "lingen-tiny"]


# First, so that the module's Ray is running when `encoded` needs one: it would start another just for itself.
def test_more_than_the_cluster_has_is_refused(encode_inputs, tmp_path, ray_cluster, encode_config):
    with pytest.raises(ValueError, match=r"--workers\.gpus: one worker needs 3 GPU"):
        encode(encode_config(tmp_path / "out", workers=EncodeWorkers(gpus=3)))


def test_every_latent_is_of_the_frames_at_its_times(encode_inputs, encoded):
    tae = load_tae(encode_inputs / "tae")
    index = ShardIndex.open(encoded[0])
    index.check_files()
    media = set()
    for bucket in index.buckets.values():
        media.add(bucket.bucket.media)
        size = (bucket.bucket.height, bucket.bucket.width)
        for row in range(0, len(bucket), 3):
            about = bucket.metadata(row)
            times = [about["start_s"] + i / 16 for i in range(bucket.bucket.frames)]
            frames_NHW3 = torch.from_numpy(read_frames(about["uri"], times, size=size))
            latent = tae.encode(frames_NHW3.permute(3, 0, 1, 2)[None].float() / 127.5 - 1)[0]
            assert torch.allclose(bucket.read(row)[0].float(), latent, atol=2e-3 * float(latent.abs().max()))
    assert media == {"image", "video"}


def test_every_text_is_of_its_own_caption(encoded):
    encoder = build_text_encoder(TEXT)
    index = ShardIndex.open(encoded[0])
    assert index.text_digests == [encoder.digest]
    for bucket in index.buckets.values():
        about = [bucket.metadata(row) for row in range(len(bucket))]
        for row, expected in enumerate(encoder.encode([a["caption"] for a in about])):
            (embedding,) = bucket.read(row)[1]
            assert embedding.shape == expected.shape
            assert torch.allclose(embedding.float(), expected, atol=1e-2)


def test_the_index_has_tae_licence_and_canaries(encode_inputs, encoded):
    index = ShardIndex.open(encoded[0])
    tae = load_tae(encode_inputs / "tae")
    assert index.format.tae_digest == tae.digest
    assert index.format.scale == tae.scale.tolist()
    for bucket in index.buckets.values():
        table = bucket.table.to_pylist()
        assert all(r["license"] and r["source"] and r["clip_id"] for r in table)
        for shard in {r["shard"] for r in table}:
            psnr = [r["canary_psnr"] for r in table if r["shard"] == shard]
            assert sum(p is not None for p in psnr) == min(2, len(psnr))
            assert all(0 < p < 60 for p in psnr if p is not None)


def test_what_cannot_be_read_is_a_row_and_the_job_goes_on(encode_inputs, encoded):
    output, summary = encoded
    rows = pq.read_table(output / "errors.parquet").to_pylist()
    with pytest.raises(MediaError) as why:
        probe(encode_inputs / "cut.mp4")
    assert {(r["clip_id"], r["reason"]) for r in rows} == {
        ("ffff000000000000-0-3000", "file_missing"),
        ("ffff000000000001-0-3000", why.value.reason),
        ("ffff000000000002-0-3000", "content_changed"),
    }
    assert sum(summary.errors.values()) == len(rows)
    index = ShardIndex.open(output)
    assert summary.samples == len(index) > 10
    assert summary.numbers()["samples"] == len(index)
    assert not (output / "parts").exists()


def test_canaries_are_the_psnr_of_what_is_in_the_tar(encode_inputs, encoded):
    tae, checked = load_tae(encode_inputs / "tae"), 0
    for bucket in ShardIndex.open(encoded[0]).buckets.values():
        for row, psnr in enumerate(bucket.table["canary_psnr"].to_pylist()):
            if psnr is not None:
                about, frames = bucket.metadata(row), bucket.bucket.frames
                times = [about["start_s"] + i / 16 for i in range(frames)]
                size = (bucket.bucket.height, bucket.bucket.width)
                expected = torch.from_numpy(read_frames(about["uri"], times, size=size)).permute(3, 0, 1, 2) / 255
                decoded = (tae.decode(bucket.read(row)[0][None].float(), frames=frames)[0].clamp(-1, 1) + 1) / 2
                assert psnr == pytest.approx(-10 * torch.log10((decoded - expected).square().mean()).item(), abs=0.02)
                checked += 1
    assert checked > 5


def test_a_finished_folder_is_left_alone(encode_inputs, encoded, encode_config):
    before = {p: p.stat().st_mtime_ns for p in encoded[0].rglob("*")}
    assert encode(encode_config(encoded[0])) == encoded[1]
    assert {p: p.stat().st_mtime_ns for p in encoded[0].rglob("*")} == before
    with pytest.raises(ValueError, match=r"other settings \(max_windows_per_clip: 4 there, 2 now\)"):
        encode(encode_config(encoded[0], max_windows_per_clip=2))


def _start(encode_inputs, output):
    command = [sys.executable, str(ROOT / "jobs/encode.py"), "--curated", str(encode_inputs / "curated")]
    command += ["--output", str(output), "--tae", str(encode_inputs / "tae"), *FLAGS]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(process, condition, seconds=400):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, [p.cmdline() for p in psutil.Process(process.pid).children(recursive=True)]
        time.sleep(0.02)
    return found


def test_killed_driver_then_killed_worker_give_the_same_bytes(encode_inputs, encoded, tmp_path):
    output = tmp_path / "out"
    first = _start(encode_inputs, output)
    done = _wait_for(first, lambda: list(output.glob("parts/latents/*/*.json")))
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    for process in family:  # Ray's processes follow their driver, but some only after seconds of further work
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    first.communicate()
    assert not (output / "manifest.json").exists()
    early = {p: p.stat().st_mtime_ns for part in done for p in [_tar(output, part)] if p.exists()}

    second = _start(encode_inputs, output)
    worker = _wait_for(second, lambda: _encoding_worker(second.pid))
    _wait_for(second, lambda: len(list(output.glob("parts/latents/*/*.json"))) > len(done))
    if worker.is_running():
        os.kill(worker.pid, signal.SIGKILL)
    text, _ = second.communicate(timeout=200)
    assert second.returncode == 0, text
    assert {p: p.stat().st_mtime_ns for p in early} == early  # finished shards were not made again

    expected = _shards_and_indexes(encoded[0])
    assert _shards_and_indexes(output) == expected
    assert any(name.suffix == ".tar" for name in expected)
    for name in expected:
        assert (output / name).read_bytes() == (encoded[0] / name).read_bytes(), name


def _shards_and_indexes(folder):
    found = (path for top in ("latents", "text") for path in (folder / top).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder) for path in found)


def _tar(output, part):
    return output / "latents" / part.parent.name / f"{part.stem}.tar"


def _encoding_worker(pid):
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "LatentWorker" in " ".join(process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curated": "absent"}, "--curated: .*absent has no manifest.json"),
        ({"tae": "absent"}, "--tae"),
        ({"resolution": 100}, "resolution: 100"),
        ({"frames": (100_000,), "images": False}, "no clip of .* yields a sample"),
        ({"aspect_ratios": ("wide",)}, "aspect ratio 'wide'"),
        ({"stages": ("t2v_1m",)}, "--stages: 't2v_1m' is unknown"),
        ({"text": ("nothing",)}, "--text: 'nothing'"),
        ({"shard_mb": 0}, "--shard-mb"),
    ],
)
def test_bad_configuration_is_refused_before_anything_starts(encode_inputs, tmp_path, change, message, encode_config):
    running = ray.is_initialized()
    change = {k: encode_inputs / v if v == "absent" else v for k, v in change.items()}
    with pytest.raises(ValueError, match=message):
        encode(encode_config(tmp_path / "out", **change))
    assert ray.is_initialized() == running
    assert not (tmp_path / "out").exists()


def test_bad_configuration_is_one_line_and_exit_2(encode_inputs, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "jobs/encode.py",
            "--curated",
            tmp_path,
            "--output",
            tmp_path / "o",
            "--tae",
            encode_inputs / "tae",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: --curated:")


class NoTally:
    class add:
        @staticmethod
        def remote(n):
            pass


def test_long_segments_give_the_same_samples_piece_by_piece(
    encode_inputs, encoded, encode_config, ray_cluster, tmp_path, monkeypatch
):
    """Encoded together and whole, and read and encoded piece by piece because they are large."""
    monkeypatch.setattr(segment_frames, "GROUP_BYTES", 1)
    monkeypatch.setattr(latents, "PIECE", 5)
    config = encode_config(tmp_path / "out")
    clips = read_clips(encode_inputs / "curated" / "clips.parquet")[3:]
    layout = lay_out(config, clips, TAE_SHAPE)
    shards = [s for bucket in layout.buckets for s in bucket.shards if s.bucket.startswith("video")]
    settings = dataclasses.replace(latent_settings(config), tae=str(encode_inputs / "tae"))
    worker = LatentWorker(settings, NoTally)
    rows, errors = {}, []
    for shard in shards:
        worker({"shard": shard.to_json()})
        part = read_part(config.output, "latents", shard.bucket, shard.name)
        rows |= {row["key"]: row for row in part["rows"]}
        errors += part["errors"]
        if part["rows"]:
            for key, kind, data in read_shard(config.output / "latents" / shard.bucket / shard.name):
                rows[key][kind] = data
    assert {e["clip_id"].partition("-")[0][-1] for e in errors} == {"0", "1", "2"}, "the three unusable ones"
    assert {"file_missing", "content_changed"} < {e["reason"] for e in errors}
    checked = 0
    for bucket in ShardIndex.open(encoded[0]).buckets.values():
        for i, known in enumerate(bucket.table.to_pylist()):
            if known["key"] in rows:
                row = rows[known["key"]]
                latent = unpack_latent(row[LATENT])
                # Short segments may be read by decord, which scales differently; never another frame.
                assert torch.allclose(latent.float(), bucket.read(i)[0].float(), atol=0.35), known["key"]
                checked += 1
    assert checked == len(rows) > 5
    worker.settings = dataclasses.replace(worker.settings, decode_timeout_s=1e-3)
    late = worker({"shard": shards[0].to_json()})
    assert late["samples"] == 0


def _page(name):
    return (ROOT / name).read_text()


def test_the_readers_in_the_documentation_work(encoded, capsys):
    folder, summary = encoded
    bucket = max((b for b in summary.buckets if b.name.startswith("video")), key=lambda b: b.samples)
    (webdataset_lines,) = re.findall(r"```python\n(import json\nimport web.*?)```", _page("README.md"), flags=re.S)
    (training_lines,) = re.findall(r"```python\n(.*?)```", _page("docs/shards.md"), flags=re.S)
    assert len([line for line in webdataset_lines.splitlines() if line]) == 10
    for there, here in {
        "out/latents/": f"{folder}/",
        "video_48x80_16f": bucket.name,
        "000000}": f"{bucket.shards - 1:06d}}}",
    }.items():
        assert there in webdataset_lines
        webdataset_lines = webdataset_lines.replace(there, here)
    exec(webdataset_lines, {})
    exec(training_lines.replace("FOLDER", str(folder)), {})
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == bucket.samples + 2
    keys = ShardIndex.open(folder).buckets[bucket.name].keys(range(bucket.samples))
    assert [line.split()[0] for line in lines[:-2]] == keys
    assert lines[0].endswith("CC-BY-4.0")
    assert lines[-2].startswith("1000000 video_")
