"""What an index of somebody else may say: each entry here is refused, by file and value, before anything is read."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lingen.data.index_checks import MOST_ROWS
from lingen.data.index_file import INDEX, read_index
from lingen.data.provenance import sample_key
from lingen.data.shard_index import ShardIndex

BUCKET = "video_48x80_17f"


@pytest.fixture
def folder(make_shards):
    """Nine videos in three shards, with text of two encoders."""
    return make_shards({"image_64x64": 5, BUCKET: 9})


def change(path, column=None, value=None, row=4, kind=None, form=None):
    """Write an index with another value in a row, another type of a column, or another format."""
    table = pq.read_table(path)
    if column is not None:
        values = table[column].to_pylist()
        if value is not None:
            values[row] = value[0]
        at = table.schema.get_field_index(column)
        table = table.set_column(at, column, pa.array(values, kind or table.schema.field(column).type))
    if form is not None:
        about = json.loads(table.schema.metadata[b"lingen"])
        changed = form(about) if callable(form) else json.dumps(about | form)
        table = table.replace_schema_metadata({} if changed is None else {"lingen": changed})
    pq.write_table(table, path)


LATENTS, TEXT = f"latents/{BUCKET}/{INDEX}", f"text/encoder_1/{BUCKET}/{INDEX}"


@pytest.mark.parametrize("index", [LATENTS, TEXT])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        *(
            ("shard", shard, "is not the plain name of a tar")
            for shard in ("/abs/x.tar", "../x.tar", "a/b.tar", "..", "", ".tar", "x.tar\n", "\x1b[2J.tar", "x.zip")
        ),
        *(
            ("key", key, "is not like those of an encoding")
            for key in ("/abs_w0000", "../../x_w0000", "a.b_w0000", "", "k", "a" * 84, "a\n_w0000", "é_w0000")
        ),
        ("offset", -1, "offset -1 is not within 0 and"),
        ("offset", 2**62, "offset 4611686018427387904 is not within"),
        ("size", 0, "size 0 is not within 1 and"),
        ("size", -(2**40), "size -1099511627776 is not within"),
        ("size", 2**40, "size 1099511627776 is not within"),
        ("shard", None, "a row has no shard"),
        ("key", None, "a row has no key"),
        ("offset", None, "a row has no offset"),
        ("checksum", None, "a row has no checksum"),
    ],
)
def test_an_entry_that_no_encoding_writes_is_refused(folder, index, column, value, message):
    change(folder / index, column, [value])
    with pytest.raises(ValueError, match=re.escape(f"{folder}/{index}: ")) as why:
        ShardIndex.open(folder)
    assert message in str(why.value)
    assert str(why.value).isprintable()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("metadata_offset", -1, "metadata_offset -1"),
        ("metadata_size", 2**40, "metadata_size 1099511627776"),
        ("clip_id", "a\x1b]0;x", 'clip_id "a\\u001b]0;x" is not like'),
        ("clip_id", "a" * 1025, "is not like those of an encoding"),
        ("seconds", float("nan"), "seconds nan is not within"),
        ("seconds", -1.0, "seconds -1.0 is not within"),
        ("shape", [16, 3, 6], "a shape has not four sides"),
        ("shape", [16, 3, 6, None], "a shape has not four sides"),
        ("shape", [16, 3, 6, -10], "shape -10 is not within"),
        ("license", None, "a row has no license"),
    ],
)
def test_facts_that_no_encoding_writes_are_refused(folder, column, value, message):
    change(folder / LATENTS, column, [value])
    with pytest.raises(ValueError, match=re.escape(f"{folder}/{LATENTS}: ")) as why:
        read_index(folder / LATENTS)
    assert message in str(why.value)


@pytest.mark.parametrize("row", range(9))
def test_the_wrong_entry_may_be_anywhere(folder, row):
    change(folder / LATENTS, "key", ["../x_w0000"], row=row)
    with pytest.raises(ValueError, match=re.escape('key "../x_w0000" is not')):
        ShardIndex.open(folder)


@pytest.mark.parametrize(
    "shape",
    [[16, 3, 6, 10_000], [2**20, 3, 6, 10], [16, 18, 6, 10], [16, 3, 6, 5], [16, 3, 6, 11], [12, 3, 6, 10], [16, 3, 6]],
)
def test_a_shape_must_fit_the_bucket_and_the_members(folder, shape):
    change(folder / LATENTS, "shape", [shape], row=0)
    with pytest.raises(ValueError, match=re.escape(f"{folder}/{LATENTS}: ")):
        ShardIndex.open(folder)


def test_a_member_is_as_large_as_its_shape_says(folder):
    change(folder / LATENTS, "size", [10**9], row=3)
    with pytest.raises(ValueError, match=r"members of \d+ to 1000000000 bytes hold no latents of shape"):
        ShardIndex.open(folder)


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [("offset", pa.float64(), "column offset holds double"), ("key", pa.binary(), "column key holds binary")],
)
def test_a_column_of_another_type_is_refused(folder, column, kind, message):
    if column == "key":
        values = [key.encode() for key in pq.read_table(folder / LATENTS)[column].to_pylist()]
        table = pq.read_table(folder / LATENTS)
        pq.write_table(table.set_column(0, column, pa.array(values, kind)), folder / LATENTS)
    else:
        change(folder / LATENTS, column, kind=kind)
    with pytest.raises(ValueError, match=message):
        ShardIndex.open(folder)


@pytest.mark.parametrize(
    ("index", "form", "message"),
    [
        (LATENTS, {"dtype": "float64"}, 'dtype is "float64"'),
        (LATENTS, {"dtype": []}, "dtype is []"),
        (LATENTS, {"scale": [0.0] * 16}, "scale is"),
        (LATENTS, {"shift": [float("inf")]}, "shift is"),
        (LATENTS, {"fps": "16"}, 'fps is "16"'),
        (LATENTS, {"resolution": -1}, "resolution is -1"),
        (LATENTS, {"bucket": "../x"}, 'bucket is "../x"'),
        (LATENTS, {"bucket": "image_64x64"}, "this is not the index of latents of video_48x80_17f"),
        (LATENTS, {"tae_digest": "\x1b[2J"}, "tae_digest is"),
        (LATENTS, {"more": 1}, "its metadata do not say how to read the tensors"),
        (LATENTS, lambda form: "[", "its metadata do not say how to read the tensors"),
        (LATENTS, lambda form: "[" * 100_000, "its metadata do not say how to read the tensors"),
        (LATENTS, lambda form: None, "its metadata do not say how to read the tensors"),
        (TEXT, {"name": "../../x"}, 'name is "../../x"'),
        (TEXT, {"name": "encoder_0"}, "this is the text of encoder_0, not of encoder_1"),
        (TEXT, {"dim": 2**40}, "dim is 1099511627776"),
        (TEXT, {"bucket": "image_64x64"}, "this is not the index of text of video_48x80_17f"),
    ],
)
def test_a_format_that_no_encoding_writes_is_refused(folder, index, form, message):
    change(folder / index, form=form)
    with pytest.raises(ValueError, match=re.escape(f"{folder}/{index}: ")) as why:
        ShardIndex.open(folder)
    assert message in str(why.value)


def test_a_file_that_is_no_index_is_refused(folder):
    for content, message in ((b"noise", "not readable as Parquet"), (b"", "not readable as Parquet")):
        (folder / LATENTS).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{folder}/{LATENTS}: {message}")):
            ShardIndex.open(folder)


def test_an_index_has_rows_but_not_without_end(folder, monkeypatch):
    table = pq.read_table(folder / LATENTS)
    pq.write_table(table.slice(0, 0), folder / LATENTS)
    with pytest.raises(ValueError, match=f"0 rows; an index has 1 to {MOST_ROWS:,}"):
        ShardIndex.open(folder)
    pq.write_table(table, folder / LATENTS)
    monkeypatch.setattr("lingen.data.index_file.MOST_ROWS", 8)
    with pytest.raises(ValueError, match="9 rows; an index has 1 to 8"):
        ShardIndex.open(folder)


def test_a_missing_column_is_named(folder):
    table = pq.read_table(folder / LATENTS)
    for column in ("offset", "shape"):
        pq.write_table(table.drop_columns([column]), folder / LATENTS)
        with pytest.raises(ValueError, match=f"column {column}|shape null"):
            ShardIndex.open(folder)


@pytest.mark.parametrize("tree", ["latents", "text"])
def test_a_folder_with_the_name_of_no_bucket_or_encoder_is_named(folder, tree):
    (folder / tree / "a b").mkdir()
    with pytest.raises(ValueError, match=re.escape(f"{folder}/{tree}: ")):
        ShardIndex.open(folder)


def test_every_key_that_we_make_is_read(make_shards, tmp_path):
    clips = ["a.b", "a/b", "../a-b", "a" * 300, "é", "0123abcd-0-17000"]
    folder = make_shards({"image_64x64": 6}, folder=tmp_path / "odd", clip_ids=clips)
    bucket = ShardIndex.open(folder).buckets["image_64x64"]
    assert bucket.keys(range(6)) == [sample_key(clip, 0) for clip in clips]
    assert bucket.column("clip_id").to_pylist() == clips
    assert all(bucket.metadata(row)["clip_id"] == clip for row, clip in enumerate(clips))
