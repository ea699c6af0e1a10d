"""The loader on a disk and on an object store: the same batches, and the same reaction to damage and loss."""

import logging
import subprocess
import sys
import threading
from itertools import islice

import pytest
import torch
from pyarrow import fs

from lingen.data.batch_plan import BatchPlan
from lingen.data.loader import MAX_AHEAD, LatentLoader
from lingen.data.shard_index import ShardIndex
from lingen.data.shards import DamagedSample

COUNTS = {"image_64x64": 5, "video_48x80_17f": 9, "video_64x64_17f": 3}
TAR = "latents/video_48x80_17f/000001.tar"


def batches(folder, rank=0, world_size=1, start=0, stop=12, cache=(), **options):
    index = ShardIndex.open(folder, *cache)
    plan = BatchPlan(index, seed=1, batch_size=8, image_ratio="1:3", text_dropout=0.3)
    return list(LatentLoader(index, plan, rank, world_size, start_step=start, stop_step=stop, **options))


def same(a, b):
    assert (a.step, a.bucket, a.keys, a.seeds, a.replaced) == (b.step, b.bucket, b.keys, b.seeds, b.replaced)
    assert torch.equal(a.latent_BCTHW, b.latent_BCTHW)
    for x, y in zip(a.text, b.text, strict=True):
        assert torch.equal(x[0], y[0])
        assert torch.equal(x[1], y[1])


def test_batches_hold_what_the_plan_says(make_shards):
    folder = make_shards(COUNTS)
    index = ShardIndex.open(folder)
    plan = BatchPlan(index, seed=1, batch_size=8, image_ratio="1:3", text_dropout=0.3)
    media = set()
    for batch in batches(folder):
        planned = plan[batch.step]
        media.add(batch.bucket.media)
        assert batch.keys == [s.key for s in planned.samples]
        assert batch.seeds == [s.seed for s in planned.samples]
        assert batch.latent_BCTHW.dtype == torch.float32
        assert batch.latent_BCTHW.shape == (8, *batch.bucket.latent_shape())
        for place, sample in enumerate(planned.samples):
            latent, text = index.buckets[batch.bucket.name].read(sample.row)
            assert torch.equal(batch.latent_BCTHW[place], latent.float())
            for (embedding_BLD, mask_BL), expected in zip(batch.text, text, strict=True):
                n = 0 if sample.drop_text else len(expected)
                assert mask_BL[place].tolist() == [True] * n + [False] * (mask_BL.shape[1] - n)
                assert torch.equal(embedding_BLD[place, :n], expected[:n].float())
                assert not embedding_BLD[place, n:].any()
    assert media == {"image", "video"}


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_ranks_together_are_the_global_batch(make_shards, world_size):
    folder = make_shards(COUNTS)
    whole = batches(folder)
    parts = [batches(folder, rank, world_size, threads=1 + rank % 3) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        assert {s.bucket for s in shares} == {batch.bucket}
        assert torch.equal(torch.cat([s.latent_BCTHW for s in shares]), batch.latent_BCTHW)
        for name in ("keys", "seeds", "places"):
            assert [x for s in shares for x in getattr(s, name)] == list(getattr(batch, name))
        for encoder, (embedding_BLD, mask_BL) in enumerate(batch.text):
            assert sum(int(s.text[encoder][1].sum()) for s in shares) == int(mask_BL.sum())
            total = sum(s.text[encoder][0].double().sum() for s in shares)
            assert torch.allclose(total, embedding_BLD.double().sum())


def test_resumed_at_any_step_is_never_stopped(make_shards):
    folder = make_shards(COUNTS)
    whole = batches(folder)
    for start in (1, 5, 11):
        for a, b in zip(batches(folder, start=start, read_ahead_mb=0, threads=3), whole[start:], strict=True):
            same(a, b)


def test_the_state_is_the_next_step(make_shards):
    index = ShardIndex.open(make_shards(COUNTS))
    plan = BatchPlan(index, seed=1, batch_size=8)
    loader = LatentLoader(index, plan, start_step=3)
    stream = iter(loader)
    assert loader.next_step == 3
    assert [next(stream).step for _ in range(4)] == [3, 4, 5, 6]
    assert loader.next_step == 7  # whatever was read ahead
    assert next(iter(LatentLoader(index, plan, start_step=10**9))).step == 10**9


@pytest.mark.parametrize(("budget", "in_flight"), [(0, 1), (2, 2), (2.5, 3), (1e6, MAX_AHEAD)])
def test_read_ahead_is_bounded_in_bytes(make_shards, monkeypatch, budget, in_flight):
    index = ShardIndex.open(make_shards({"image_64x64": 5}))
    batch_bytes = 2 * 16 * 8 * 8 * 4
    submitted, submit = [], LatentLoader._submit
    monkeypatch.setattr(LatentLoader, "_submit", lambda *args: submitted.append(args[-1]) or submit(*args))
    plan = BatchPlan(index, seed=1, batch_size=2)
    for batch in LatentLoader(index, plan, stop_step=20, read_ahead_mb=budget * batch_bytes / 1e6):
        assert batch.latent_BCTHW.nbytes == batch_bytes
        assert submitted == list(range(min(20, batch.step + 1 + in_flight)))


def test_a_loader_that_is_left_waits_for_no_read_and_begins_no_other(make_shards, monkeypatch):
    index = ShardIndex.open(make_shards(COUNTS))
    go, began, read = threading.Event(), [], LatentLoader._read

    def slow(self, batch, places, latent_BCTHW):
        began.append(batch.step)
        if batch.step > 0:
            go.wait(60)
        return read(self, batch, places, latent_BCTHW)

    monkeypatch.setattr(LatentLoader, "_read", slow)
    stream = iter(LatentLoader(index, BatchPlan(index, seed=1, batch_size=8), threads=1, stop_step=20))
    next(stream)
    late = threading.Timer(5, go.set)
    late.start()
    stream.close()
    assert not go.is_set(), "it waited"
    late.cancel()
    go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("latents"):
            thread.join(60)
    assert set(began) <= {0, 1}


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3), (2, 3)])
def test_every_thread_count_reads_each_place_once(make_shards, monkeypatch, rank, world_size):
    folder, parts, read = make_shards(COUNTS), [], LatentLoader._read
    monkeypatch.setattr(LatentLoader, "_read", lambda *args: parts.append(list(args[2])) or read(*args))
    for threads in (0, 1, 2, 3, 20):
        parts.clear()
        (batch,) = batches(folder, rank, world_size, stop=1, threads=threads)
        assert sorted(place for part in parts for place in part) == list(batch.places)
        assert len(parts) <= max(1, threads), "one part per thread"


def test_opening_an_index_imports_nothing_slow(make_shards):
    code = (
        "import sys, lingen.data.loader as l, lingen.data.batch_plan as p, lingen.data.shard_index as s\n"
        f"index = s.ShardIndex.open({str(make_shards(COUNTS))!r})\n"
        "next(iter(l.LatentLoader(index, p.BatchPlan(index, seed=1, batch_size=8), start_step=10**6)))\n"
        "print([m for m in ('pandas', 'pyarrow.dataset', 'pyarrow.compute') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_damaged_sample_is_reported_replaced_alike_everywhere_and_never_used(make_shards, caplog):
    folder = make_shards(COUNTS)
    bucket = ShardIndex.open(folder).buckets["video_48x80_17f"]
    clean = batches(folder)
    row = bucket.table.slice(4, 1).to_pylist()[0]
    path = folder / "latents/video_48x80_17f" / row["shard"]
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] - 1] ^= 0x40
    path.write_bytes(data)

    with caplog.at_level(logging.WARNING):
        whole = batches(folder)
    reports = [r.getMessage() for r in caplog.records]
    assert len(reports) == 1
    assert "latents/video_48x80_17f/000001.tar" in reports[0]
    assert row["key"] in reports[0]
    assert sum(row["key"] in b.keys for b in clean) > 1
    for before, after in zip(clean, whole, strict=True):
        assert row["key"] not in after.keys
        assert after.seeds == before.seeds
        assert (row["key"] in after.replaced) == (row["key"] in before.keys)
        untouched = [p for p, key in enumerate(before.keys) if key != row["key"]]
        assert torch.equal(before.latent_BCTHW[untouched], after.latent_BCTHW[untouched])
    for world_size in (2, 3):
        parts = [batches(folder, rank, world_size) for rank in range(world_size)]
        for step, batch in enumerate(whole):
            assert [k for part in parts for k in part[step].keys] == batch.keys


def test_a_bucket_damaged_throughout_stops_the_run(make_shards):
    folder = make_shards({"image_64x64": 2})
    path = folder / "latents/image_64x64/000000.tar"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(DamagedSample, match="image_64x64: 64 samples in a row are damaged"):
        batches(folder)


def test_a_shard_that_vanishes_while_training_is_named(make_shards):
    folder = make_shards(COUNTS)
    index = ShardIndex.open(folder)
    loader = LatentLoader(index, BatchPlan(index, seed=1, batch_size=8), read_ahead_mb=0)
    (folder / "text/encoder_1/video_48x80_17f/000000.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"text/encoder_1/video_48x80_17f/000000.tar is missing"):
        for _ in loader:
            pass
    with pytest.raises(FileNotFoundError, match=r"shard text/encoder_1/video_48x80_17f/000000.tar is missing"):
        LatentLoader(folder, BatchPlan(index, seed=1, batch_size=8))


@pytest.mark.parametrize(("rank", "world_size", "message"), [(2, 2, "rank"), (-1, 2, "rank"), (0, 9, "batch_size")])
def test_impossible_worker_counts_are_refused(make_shards, rank, world_size, message):
    index = ShardIndex.open(make_shards(COUNTS))
    with pytest.raises(ValueError, match=message):
        LatentLoader(index, BatchPlan(index, seed=1, batch_size=8), rank, world_size)


@pytest.fixture
def both(make_shards, s3_server):
    """(folder, URI) of the same shards."""
    folder = make_shards(COUNTS)
    fs.copy_files(str(folder), "clips/encoded", destination_filesystem=s3_server)
    return folder, "s3://clips/encoded"


def test_batches_of_an_object_store_are_those_of_a_disk_through_a_bounded_cache(both, tmp_path):
    folder, uri = both
    cache, limit = tmp_path / "cache", 40_000
    for start in (0, 10**6):
        stop = start + 10
        far = batches(uri, start=start, stop=stop, cache=(cache, limit / 1e9), threads=4)
        for a, b in zip(batches(folder, start=start, stop=stop), far, strict=True):
            same(a, b)
        kept = [p.stat().st_size for p in cache.rglob("*") if p.is_file()]
        assert limit / 2 < sum(kept) <= limit


def test_on_an_object_store_damage_is_replaced_alike_and_loss_is_named(both, s3_server, tmp_path, caplog):
    folder, uri = both
    row = ShardIndex.open(folder).buckets["video_48x80_17f"].table.to_pylist()[4]
    data = bytearray((folder / TAR).read_bytes())
    data[row["offset"] + 99] ^= 1
    (folder / TAR).write_bytes(data)
    with s3_server.open_output_stream(f"clips/encoded/{TAR}") as out:
        out.write(bytes(data))
    near = batches(folder)
    caplog.clear()
    far = batches(uri, cache=(tmp_path,))
    assert [row["key"] in r.getMessage() and TAR in r.getMessage() for r in caplog.records] == [True]
    assert any(row["key"] in batch.replaced for batch in far)
    for a, b in zip(near, far, strict=True):
        same(a, b)

    index = ShardIndex.open(uri)
    loader = iter(LatentLoader(index, BatchPlan(index, seed=1, batch_size=8), read_ahead_mb=0))
    next(loader)
    s3_server.delete_file(f"clips/encoded/{TAR}")
    with pytest.raises(FileNotFoundError, match=rf"{uri}: shard {TAR} is missing"):
        batches(uri)
    with pytest.raises(FileNotFoundError, match=rf"{uri}: {TAR} is missing"):
        list(islice(loader, 20))
