import numpy as np
import pytest
import torch

from data_prep.encode import latents
from data_prep.encode.latents import LatentSettings, LatentWorker
from data_prep.encode.layout import ShardLayout
from data_prep.encode.parts import part_path, read_part
from data_prep.media.errors import IN_A_ROW, MediaError
from lingen.data.buckets import Bucket
from lingen.data.shards import LATENT, METADATA, read_shard, unpack_latent, unpack_metadata
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

    def read_segments(segments, num_cpus, timeout_s):
        for s in segments:
            yield s, found.get(s.key, MediaError("file_missing", "gone"))

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
    found = read_shard(tmp_path / "latents" / shard.bucket / shard.name)
    return {(key, kind): data for key, kind, data in found}


@pytest.mark.parametrize("is_long", [False, True], ids=["in batches", "in pieces"])
def test_a_shard_holds_the_latents_of_its_frames(
    worker, shard, frames, tally, small_tae, tmp_path, monkeypatch, is_long
):
    monkeypatch.setattr(latents, "is_long", lambda bucket: is_long)
    monkeypatch.setattr(latents, "PIECE", 6)
    assert worker({"shard": shard.to_json()}) == {"samples": 3, "errors": 0, "stop": ""}
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
    assert worker({"shard": shard.to_json()}) == {"samples": 2, "errors": 1, "stop": ""}
    assert tally.counted == 3
    part = read_part(tmp_path, "latents", shard.bucket, shard.name)
    (error,) = part["errors"]
    assert (error["key"], error["reason"], error["detail"]) == (lost.key, "file_missing", "gone")
    assert lost.key not in {key for key, _ in members(tmp_path, shard)}


def test_a_shard_of_errors_alone_leaves_a_part_but_no_tar(worker, shard, frames, tmp_path):
    frames.clear()
    assert worker({"shard": shard.to_json()}) == {"samples": 0, "errors": 3, "stop": ""}
    assert not (tmp_path / "latents").exists()
    part = read_part(tmp_path, "latents", shard.bucket, shard.name)
    assert (part["rows"], len(part["errors"])) == ([], 3)


@pytest.fixture
def fails(worker, frames, monkeypatch):
    """fails(key, error): the TAE raises the error for batches with this segment. Returns the sizes of all batches."""
    encode, sizes = LatentWorker._encode, []

    def make(key, error):
        deadly = frames[key]

        def failing(worker, pieces):
            pieces = list(pieces)
            video_BNHW3 = np.concatenate(pieces, axis=1)
            sizes.append(len(video_BNHW3))
            if any((video_NHW3 == deadly).all() for video_NHW3 in video_BNHW3):
                raise error
            return encode(worker, pieces)

        monkeypatch.setattr(LatentWorker, "_encode", failing)
        return sizes

    return make


@pytest.mark.parametrize("is_long", [False, True], ids=["in batches", "in pieces"])
def test_what_the_tae_raises_is_a_row_of_its_segment_alone(
    worker, shard, frames, fails, tally, tmp_path, monkeypatch, is_long
):
    monkeypatch.setattr(latents, "is_long", lambda bucket: is_long)
    lost = shard.segments[1]
    sizes = fails(lost.key, RuntimeError("CUDA error"))
    assert worker({"shard": shard.to_json()}) == {"samples": 2, "errors": 1, "stop": ""}
    assert sizes == ([1, 1, 1] if is_long else [2, 1, 1, 1])
    assert tally.counted == 3
    (error,) = read_part(tmp_path, "latents", shard.bucket, shard.name)["errors"]
    assert (error["key"], error["reason"]) == (lost.key, "internal_error")
    assert error["detail"].startswith("RuntimeError: CUDA error (tests/data_prep/encode/test_latents.py:")
    assert f"--tae {tmp_path / 'tae'}" in error["detail"]
    assert {key for key, _ in members(tmp_path, shard)} == {s.key for s in shard.segments} - {lost.key}


def test_a_latent_that_cannot_be_stored_or_checked_is_not_in_the_tar(worker, shard, frames, tmp_path, monkeypatch):
    pack, psnr, calls = latents.pack_latent, LatentWorker._canary_psnr, []

    def packed(latent, dtype):
        calls.append("pack")
        return pack(latent * float("inf") if len(calls) == 1 else latent, dtype)

    def checked(worker, data, frames_NHW3):
        calls.append("check")
        if calls.count("check") == 1:
            raise ZeroDivisionError("no frames")
        return psnr(worker, data, frames_NHW3)

    monkeypatch.setattr(latents, "pack_latent", packed)
    monkeypatch.setattr(LatentWorker, "_canary_psnr", checked)
    assert worker({"shard": shard.to_json()}) == {"samples": 1, "errors": 2, "stop": ""}
    errors = read_part(tmp_path, "latents", shard.bucket, shard.name)["errors"]
    assert [e["reason"] for e in errors] == ["not_finite", "internal_error"]
    assert "choose bfloat16 or float32 for --dtype" in errors[0]["detail"]
    assert {key for key, _ in members(tmp_path, shard)} == {shard.segments[2].key}


@pytest.mark.parametrize("is_long", [False, True], ids=["in batches", "in pieces"])
def test_a_segment_with_which_the_worker_dies_again_and_again_is_a_row(
    worker, shard, frames, fails, tmp_path, monkeypatch, is_long
):
    """KeyboardInterrupt stands for the death; Ray runs the same shard again."""
    monkeypatch.setattr(latents, "is_long", lambda bucket: is_long)
    lost = shard.segments[1]
    sizes = fails(lost.key, KeyboardInterrupt())
    for death in range(latents.DEATHS + 1):
        sizes.clear()
        with pytest.raises(KeyboardInterrupt):
            worker({"shard": shard.to_json()})
        assert sizes == ([1, 1] if is_long or death == latents.DEATHS else [2]), "the same batches at first"
        assert not list((tmp_path / "latents").rglob("*.tar"))
    assert worker({"shard": shard.to_json()}) == {"samples": 2, "errors": 1, "stop": ""}
    (error,) = read_part(tmp_path, "latents", shard.bucket, shard.name)["errors"]
    assert (error["key"], error["reason"]) == (lost.key, "internal_error")
    assert error["detail"].startswith("the encoding process died 4 times with this segment in hand")
    assert not list((tmp_path / "parts").rglob("*.in_hand"))


def test_many_different_clips_in_a_row_say_stop_and_leave_the_shard_to_be_made_again(
    worker, make_clip, cut, tmp_path, monkeypatch
):
    """Five segments of each clip: they count once. Clips that fail for another reason, or not at all, end the row."""
    rows = [make_clip(f"{i:016x}-0-5000", 5.0, width=720) for i in range(2 * IN_A_ROW)]
    segments = cut(*rows, resolution=32, frames=[16]).segments[BUCKET]
    rest = {i: MediaError("internal_error", "KeyError: 0 (probe.py:7)") for i in range(2 * IN_A_ROW)}
    rest[4] = MediaError("truncated", "cut off")
    rest[9] = np.zeros((16, 32, 32, 3), np.uint8)
    asked = []

    def read_segments(segments, num_cpus, timeout_s):
        for s in segments:
            asked.append(int(s.content_hash[:16], 16))
            yield s, rest[asked[-1]]

    monkeypatch.setattr(latents, "read_segments", read_segments)
    halves = [segments[:100], segments[100:]]  # the row goes on from shard to shard
    shards = [ShardLayout(bucket=BUCKET.name, number=i, segments=tuple(half)) for i, half in enumerate(halves)]
    assert worker({"shard": shards[0].to_json()}) == {"samples": 5, "errors": 95, "stop": ""}
    result = worker({"shard": shards[1].to_json()})
    assert (result["samples"], max(asked)) == (0, 9 + IN_A_ROW)
    assert result["stop"].startswith("20 different files in a row raised what nobody expected: this is a bug of ours")
    assert "KeyError: 0 (probe.py:7); replay: python -m data_prep.encode.replay frames" in result["stop"]
    assert part_path(tmp_path, "latents", BUCKET.name, shards[0].name).is_file()
    assert not part_path(tmp_path, "latents", BUCKET.name, shards[1].name).exists()
    assert len(list((tmp_path / "latents").rglob("*"))) == 2
