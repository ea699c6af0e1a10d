"""The flow of encoding, with made-up frames and without Ray; tests/jobs/test_encode.py has whole jobs on real clips."""

import dataclasses
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.encode import job, latents, texts
from data_prep.encode.config import EncodeConfig
from data_prep.encode.error_table import ERROR_COLUMNS, read_errors
from data_prep.encode.job import encode
from data_prep.encode.latents import LatentWorker
from data_prep.media.errors import MediaError, OurBug
from lingen.data.buckets import Bucket
from lingen.data.shard_index import ShardIndex
from lingen.io.manifest import OutputFolder, read_manifest
from lingen.tae.pretrained import save_tae


@pytest.fixture
def config(make_clip, small_tae, tmp_path, without_ray):
    rows = [make_clip(f"{i:016x}-0-5000", 5.0) for i in range(2)]
    rows += [make_clip(f"{9:016x}-0-0", 0.0, media="image"), make_clip("bad", 5.0), make_clip("short", 0.5)]
    curated = OutputFolder.open(tmp_path / "curated", "curate", {}, {})
    pq.write_table(pa.Table.from_pylist(rows), curated.path / "clips.parquet")
    curated.publish({})
    save_tae(small_tae, tmp_path / "tae")
    paths = {"curated": curated.path, "tae": tmp_path / "tae", "output": tmp_path / "out"}
    return EncodeConfig(**paths, resolution=32, frames=(9,), text=("lingen-tiny",), shard_mb=0.012, canaries=1)


@pytest.fixture
def broken(monkeypatch):
    """Content hash -> why the file cannot be read; the others have frames of noise."""
    hashes = {"bad": MediaError("truncated", "cut off")}

    def read_segments(segments, num_cpus, timeout_s):
        for s in segments:
            if s.content_hash in hashes:
                yield s, hashes[s.content_hash]
            else:
                shape, noise = Bucket.parse(s.bucket), np.random.default_rng(zlib.crc32(s.key.encode()))
                yield s, noise.integers(0, 255, (shape.frames, shape.height, shape.width, 3), np.uint8)

    monkeypatch.setattr(latents, "read_segments", read_segments)
    return hashes


def files(folder):
    found = (path for tree in ("latents", "text") for path in (folder / tree).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_every_clip_becomes_samples_or_is_accounted_for(config, broken, small_tae):
    summary = encode(config)
    index = ShardIndex.open(config.output)
    index.check_files()
    assert {name: len(bucket) for name, bucket in index.buckets.items()} == {"image_32x48": 1, "video_32x48_9f": 8}
    assert index.format.tae_digest == small_tae.digest
    assert index.format.scale == small_tae.scale.tolist()
    assert summary.samples == 9
    assert summary.errors == {"truncated": 4}
    assert summary.unused == {"32p: shorter than 0.5625 s": 1}
    errors = pq.read_table(config.output / "errors.parquet").to_pylist()
    assert [(e["clip_id"], e["reason"], e["detail"]) for e in errors] == [("bad", "truncated", "cut off")] * 4
    assert read_manifest(config.output)["outputs"]["summary"]["leftover_hours"] == summary.leftover_hours
    assert not (config.output / "parts").exists()
    assert encode(config) == summary, "finished: read from the manifest"


def test_a_killed_run_resumes_with_the_missing_shards_and_gives_the_same_bytes(
    config, broken, without_ray, monkeypatch, tmp_path
):
    encode(dataclasses.replace(config, output=tmp_path / "undisturbed"))
    expected, tasks = files(tmp_path / "undisturbed"), len(without_ray)
    work, calls = LatentWorker.__call__, []

    def interrupted(worker, task):
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return work(worker, task)

    with monkeypatch.context() as patch:
        patch.setattr(LatentWorker, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encode(config)
    assert read_manifest(config.output) is None
    (config.output / "latents" / "video_32x48_9f" / ".000001.tar.abc").write_text("half")
    without_ray.clear()
    encode(config)
    assert len(without_ray) == tasks - 2, "two shards were finished"
    assert files(config.output) == expected


def test_clips_that_all_fail_are_refused_with_where_the_reasons_are(config, broken):
    rows = pq.read_table(config.curated / "clips.parquet").to_pylist()
    broken |= dict.fromkeys((row["content_hash"] for row in rows), MediaError("truncated", "cut off"))
    with pytest.raises(ValueError, match=r"--curated: none of 5 clips could be encoded; see .*errors.parquet"):
        encode(config)
    assert read_manifest(config.output) is None


UNFORESEEN = MediaError("internal_error", "TypeError: an orientation that is text (data_prep/media/probe.py:7)")


def test_what_nobody_expected_is_a_row_and_counted_apart(config, broken, capsys):
    broken["bad"] = UNFORESEEN
    summary = encode(config)
    assert summary.samples == 9
    assert summary.errors == {"internal_error": 4}
    assert (summary.numbers()["errors"], summary.numbers()["internal_errors"]) == (4, 4)
    errors = pq.read_table(config.output / "errors.parquet").to_pylist()
    assert {e["clip_id"] for e in errors} == {"bad"}
    assert all(
        e["detail"].startswith(f"{UNFORESEEN.detail}; replay: python -m data_prep.encode.replay") for e in errors
    )


def test_many_clips_that_raise_what_nobody_expected_stop_the_job_until_it_is_fixed(
    config, broken, without_ray, make_clip, tmp_path
):
    table = pa.Table.from_pylist([make_clip(f"{i:016x}-0-1000", 1.0) for i in range(30)])
    pq.write_table(table, config.curated / "clips.parquet")
    encode(dataclasses.replace(config, output=tmp_path / "undisturbed"))
    broken |= dict.fromkeys(table["content_hash"].to_pylist()[5:25], UNFORESEEN)
    with pytest.raises(OurBug, match=r"20 different files in a row raised what nobody expected: .* TypeError"):
        encode(config)
    assert read_manifest(config.output) is None
    broken.clear()
    without_ray.clear()
    assert not encode(config).errors, "the clips with internal errors are encoded again"
    assert files(config.output) == files(tmp_path / "undisturbed")
    assert '"number": 2,' in without_ray[0]["shard"], "those of two shards, before the first error, are not"


def test_a_run_killed_after_internal_errors_embeds_the_text_of_remade_shards_again(
    config, broken, monkeypatch, tmp_path
):
    encode(dataclasses.replace(config, output=tmp_path / "undisturbed"))
    broken[f"{0:016x}-0-5000"] = UNFORESEEN

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(config)
    del broken[f"{0:016x}-0-5000"]
    encode(config)
    assert files(config.output) == files(tmp_path / "undisturbed")


def test_a_caption_that_cannot_be_embedded_is_in_the_errors_too(config, broken, monkeypatch):
    row = dict.fromkeys(ERROR_COLUMNS, "") | {"clip_id": "x", "reason": "internal_error"}
    written = texts.write_text
    monkeypatch.setattr(job, "write_text", lambda *args: [row] if written(*args) == [] else None)
    summary = encode(config)
    assert summary.errors == {"truncated": 4, "internal_error": 1}
    assert read_errors(config.output)[-1] == row


def test_only_half_written_shards_are_removed(tmp_path):
    folder = tmp_path / "latents" / "image_64x64"
    folder.mkdir(parents=True)
    for name in ("000000.tar", ".000001.tar.0a1b2c3d", ".mine.tar.gz"):
        (folder / name).touch()
    job._remove_partial_files(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [".mine.tar.gz", "000000.tar"]
