import pytest

from lingen.data.index_file import (
    INDEX,
    LatentFormat,
    TextFormat,
    first_value,
    number_column,
    read_index,
    samples_digest,
    write_index,
)
from lingen.data.shards import LATENT, METADATA, read_shard

COUNTS = {"image_64x64": 5, "video_48x80_17f": 9}
LOCATION = {"shard": "000000.tar", "offset": 2**40, "size": 2**30, "checksum": 2**32 - 1}
LATENTS = LatentFormat(
    bucket="image_64x64", resolution=64, fps=0.0, dtype="float16", tae_digest="abc", scale=[1.0, 2.0], shift=[0.5, 0.0]
)
FACTS = {"metadata_offset": 512, "metadata_size": 3, "metadata_checksum": 7, "clip_id": "c", "license": "CC0-1.0"}
FACTS |= {"source": "s", "seconds": 0.0, "shape": [16, 1, 8, 8], "canary_psnr": None}
TEXT = TextFormat(bucket="image_64x64", dtype="bfloat16", name="clip", model="ViT", digest="0", dim=8)


@pytest.mark.parametrize(("form", "row"), [(LATENTS, LOCATION | FACTS), (TEXT, LOCATION | {"length": 5})])
def test_an_index_reads_back_as_written(tmp_path, form, row):
    rows = [row | {"key": f"k{i}_w0000"} for i in range(3)]
    write_index(tmp_path / INDEX, rows, form)
    data = (tmp_path / INDEX).read_bytes()
    for source in (tmp_path / INDEX, data):
        table, found = read_index(source)
        assert found == form
        assert table.to_pylist() == rows
    table, _ = read_index(data, ["key", "checksum"])
    assert table.column_names == ["key", "checksum"]
    assert number_column(table, "checksum").tolist() == [2**32 - 1] * 3
    assert first_value(data, "key") == "k0_w0000"
    assert first_value(data, "absent") is None


def test_the_index_says_where_every_byte_is(make_shards):
    folder = make_shards(COUNTS)
    table, form = read_index(folder / "latents/video_48x80_17f/index.parquet")
    assert form.tae_digest == "0123456789abcdef"
    for row in table.to_pylist():
        data = (folder / "latents/video_48x80_17f" / row["shard"]).read_bytes()
        members = {f"{k}.{e}": d for k, e, d in read_shard(folder / "latents/video_48x80_17f" / row["shard"])}
        assert data[row["offset"] :][: row["size"]] == members[f"{row['key']}.{LATENT}"]
        assert data[row["metadata_offset"] :][: row["metadata_size"]] == members[f"{row['key']}.{METADATA}"]


def test_the_samples_digest_is_of_the_indexes_alone():
    one = {"latents/a/index.parquet": "1", "text/t/a/index.parquet": "2", "errors.json": "x", "tae/tae.json": "y"}
    assert samples_digest({"outputs": one}) == samples_digest({"outputs": one | {"errors.json": "other"}})
    assert samples_digest({"outputs": one}) != samples_digest({"outputs": one | {"text/t/a/index.parquet": "3"}})
