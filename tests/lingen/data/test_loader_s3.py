"""The loader on an object store: the same batches as from a disk, and the same answers to damage and loss."""

from itertools import islice

import pytest
import torch
from pyarrow import fs

from lingen.data.batch_plan import BatchPlan
from lingen.data.loader import LatentLoader
from lingen.data.shard_index import ShardIndex

COUNTS = {"image_64x64": 5, "video_48x80_17f": 9}
TAR = "latents/video_48x80_17f/000001.tar"


@pytest.fixture
def both(make_shards, s3_server):
    """(folder, URI) of the same shards."""
    folder = make_shards(COUNTS)
    fs.copy_files(str(folder), "clips/encoded", destination_filesystem=s3_server)
    return folder, "s3://clips/encoded"


def batches(folder, *cache, start=0, count=10, **options):
    index = ShardIndex.open(folder, *cache)
    plan = BatchPlan(index, seed=1, batch_size=6, image_ratio="1:3")
    return list(LatentLoader(index, plan, start_step=start, stop_step=start + count, **options))


def same(here, there):
    for a, b in zip(here, there, strict=True):
        assert (a.step, a.keys, a.seeds, a.replaced) == (b.step, b.keys, b.seeds, b.replaced)
        assert torch.equal(a.latent_BCTHW, b.latent_BCTHW)
        assert all(torch.equal(x[0], y[0]) for x, y in zip(a.text, b.text, strict=True))


def test_batches_are_those_of_a_disk_through_a_bounded_cache(both, tmp_path):
    folder, uri = both
    cache, limit = tmp_path / "cache", 40_000
    for start in (0, 10**6):
        same(batches(folder, start=start), batches(uri, cache, limit / 1e9, start=start, threads=4))
        kept = [p.stat().st_size for p in cache.rglob("*") if p.is_file()]
        assert limit / 2 < sum(kept) <= limit


def test_damage_is_reported_and_replaced_alike_and_loss_is_named(both, s3_server, tmp_path, caplog):
    folder, uri = both
    row = ShardIndex.open(folder).buckets["video_48x80_17f"].table.to_pylist()[4]
    data = bytearray((folder / TAR).read_bytes())
    data[row["offset"] + 99] ^= 1
    (folder / TAR).write_bytes(data)
    with s3_server.open_output_stream(f"clips/encoded/{TAR}") as out:
        out.write(bytes(data))
    here = batches(folder)
    caplog.clear()
    there = batches(uri, tmp_path)
    assert [row["key"] in r.getMessage() and TAR in r.getMessage() for r in caplog.records] == [True]
    assert any(row["key"] in batch.replaced for batch in there)
    same(here, there)

    index = ShardIndex.open(uri)
    loader = iter(LatentLoader(index, BatchPlan(index, seed=1, batch_size=6), read_ahead_mb=0))
    next(loader)
    s3_server.delete_file(f"clips/encoded/{TAR}")
    with pytest.raises(FileNotFoundError, match=rf"{uri}: shard {TAR} is missing"):
        batches(uri)
    with pytest.raises(FileNotFoundError, match=rf"{uri}: {TAR} is missing"):
        list(islice(loader, 20))
