import numpy as np
import pytest
import torch

from data_prep.encode import latents
from data_prep.encode.latents import LatentSettings, LatentWorker
from data_prep.encode.layout import ShardLayout
from data_prep.encode.parts import read_part
from data_prep.encode.segment_frames import error_row
from data_prep.media.errors import MediaError
from lingen.data.buckets import Bucket
from lingen.data.shards import LATENT, METADATA, list_shard, unpack_latent, unpack_metadata
from lingen.tae.pretrained import save_tae
from lingen.tae.tiling import TilingConfig

BUCKET = Bucket("video", 32, 32, 16)


@pytest.fixture
def shard(make_clip, cut):
    """Three segments of 1 s."""
    layout = cut(make_clip(seconds=3.0, width=720), resolution=32, frames=[16])
    return ShardLayout(bucket=BUCKET.name, number=0, segments=tuple(layout.segments[BUCKET]))


@pytest.fixture
def frames(shard, monkeypatch):
    """Key -> frames of the segments that can be read: instead of files, whole or in pieces."""
    rng = np.random.default_rng(0)
    found = {s.key: rng.integers(0, 255, (16, 32, 32, 3), np.uint8) for s in shard.segments}

    def read_segments(segments, errors, num_cpus, timeout_s):
        for s in segments:
            if s.key not in found:
                errors.append(error_row(s, MediaError("file_missing", "gone")))
            yield s, found.get(s.key)

    def read_in_pieces(segment, length, num_cpus, timeout_s):
        if segment.key not in found:
            raise MediaError("file_missing", "gone")
        yield from np.split(found[segment.key], range(length, 16, length))

    monkeypatch.setattr(latents, "read_segments", read_segments)
    monkeypatch.setattr(latents, "read_in_pieces", read_in_pieces)
    return found


@pytest.fixture
def worker(small_tae, tally, tmp_path):
    save_tae(small_tae, tmp_path / "tae")
    settings = LatentSettings(
        output=str(tmp_path),
        tae=str(tmp_path / "tae"),
        dtype="float32",
        batch_frames=32,
        tiling=TilingConfig(),
        canaries=2,
        decode_cpus=0.5,
        decode_timeout_s=1.0,
        device="cpu",
        threads=torch.get_num_threads(),
    )
    return LatentWorker(settings, tally)


def members(tmp_path, shard):
    found = list_shard(tmp_path / "latents" / shard.bucket / shard.name)
    return {(key, kind): data for key, kind, data in found}


@pytest.mark.parametrize("is_long", [False, True], ids=["in batches", "in pieces"])
def test_a_shard_holds_the_latents_of_its_frames(
    worker, shard, frames, tally, small_tae, tmp_path, monkeypatch, is_long
):
    monkeypatch.setattr(latents, "is_long", lambda bucket: is_long)
    monkeypatch.setattr(latents, "PIECE", 6)
    assert worker({"shard": shard.to_json()}) == {"samples": 3, "errors": 0}
    assert tally.counted == 3
    found = members(tmp_path, shard)
    rows = read_part(tmp_path, "latents", shard.bucket, shard.name)["rows"]
    assert [row["key"] for row in rows] == [s.key for s in shard.segments]
    for row, segment in zip(rows, shard.segments):
        video = torch.from_numpy(frames[segment.key]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        latent = unpack_latent(found[segment.key, LATENT])
        assert torch.allclose(latent, small_tae.encode(video)[0], atol=1e-4)
        assert row["shape"] == list(latent.shape)
        assert (row["clip_id"], row["seconds"]) == (segment.provenance.clip_id, 1.0)
        about = unpack_metadata(found[segment.key, METADATA])
        assert (about["tae_digest"], about["start_s"]) == (small_tae.digest, segment.start_s)
    assert [row["canary_psnr"] is None for row in rows] == [False, False, True]
    key = rows[0]["key"]
    compared = frames[key][:6] if is_long else frames[key]
    decoded = small_tae.decode(unpack_latent(found[key, LATENT])[None], frames=len(compared))[0]
    error = (decoded.clamp(-1, 1) + 1) / 2 - torch.from_numpy(compared).permute(3, 0, 1, 2) / 255
    assert rows[0]["canary_psnr"] == pytest.approx(-10 * torch.log10(error.square().mean()).item(), abs=0.01)


@pytest.mark.parametrize("is_long", [False, True], ids=["in batches", "in pieces"])
def test_segments_that_cannot_be_read_are_error_rows(worker, shard, frames, tally, tmp_path, monkeypatch, is_long):
    monkeypatch.setattr(latents, "is_long", lambda bucket: is_long)
    lost = shard.segments[1]
    del frames[lost.key]
    assert worker({"shard": shard.to_json()}) == {"samples": 2, "errors": 1}
    assert tally.counted == 3
    part = read_part(tmp_path, "latents", shard.bucket, shard.name)
    (error,) = part["errors"]
    assert (error["key"], error["reason"], error["detail"]) == (lost.key, "file_missing", "gone")
    assert lost.key not in {key for key, _ in members(tmp_path, shard)}


def test_a_shard_of_errors_alone_leaves_a_part_but_no_tar(worker, shard, frames, tmp_path):
    frames.clear()
    assert worker({"shard": shard.to_json()}) == {"samples": 0, "errors": 3}
    assert not (tmp_path / "latents").exists()
    part = read_part(tmp_path, "latents", shard.bucket, shard.name)
    assert (part["rows"], len(part["errors"])) == ([], 3)
