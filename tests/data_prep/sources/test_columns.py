import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.sources.columns import near_names, parse_columns
from data_prep.sources.manifest import SourceConfig, digest_source, read_source

ROW = {"path": "a.mp4", "my text": "Words.", "licence": "MIT", "caption_model": "x"}


def read(path, columns=(), **kwargs):
    (row,) = read_source(
        str(path), SourceConfig(), need_caption=True, columns=parse_columns(columns), **kwargs
    ).to_pylist()
    return row


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def manifest(request, tmp_path):
    path = tmp_path / f"m.{request.param}"
    if request.param == "csv":
        path.write_text(",".join(ROW) + "\n" + ",".join(ROW.values()) + "\n")
    elif request.param == "jsonl":
        path.write_text(json.dumps(ROW) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([ROW]), path)
    return path


def test_columns_are_mapped_whatever_the_format(manifest):
    row = read(manifest, ["uri=path", "caption=my text", "license=licence"])
    assert (row["uri"], row["caption"], row["license"]) == (str(manifest.parent / "a.mp4"), "Words.", "MIT")


def test_a_mapping_wins_over_a_column_of_our_name(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("uri,caption,text,license\na.mp4,old,new,MIT\n")
    assert read(path, ["caption=text"])["caption"] == "new"
    assert read(path)["caption"] == "old"


def test_everything_that_is_missing_is_said_at_once_with_what_maps_it(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("path,text\na.mp4,Words.\n")
    with pytest.raises(ValueError, match="no column") as why:
        read(path)
    assert str(why.value) == (
        f"--input: {path} has no column 'uri' (did you mean 'path'?), no column 'license', no column 'caption' "
        "(did you mean 'text'?); it has: path, text; give --columns uri=path caption=text and "
        "--license.assume CC-BY-4.0 (or what applies to all clips)"
    )


def test_a_caption_is_asked_for_only_where_one_is_needed(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("uri,license\na.mp4,MIT\n")
    with pytest.raises(ValueError, match=r"no column .caption.; it has: license, uri; give --caption\.missing keep"):
        read(path)
    assert read_source(str(path), SourceConfig()).num_rows == 1


def test_a_mapped_column_must_be_there(manifest):
    with pytest.raises(ValueError, match=r"--columns caption=txt: .* has no column 'txt'; it has: .*my text"):
        read(manifest, ["caption=txt"])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["text"], "is not OURS=YOURS"),
        (["text=caption"], "OURS is one of uri"),
        (["caption="], "is not OURS=YOURS"),
        (["caption=a", "caption=b"], "caption is mapped twice"),
    ],
)
def test_mappings_that_mean_nothing_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        parse_columns(pairs)


@pytest.mark.parametrize(
    ("columns", "near"),
    [
        (["file_name", "Title"], {"uri": "file_name", "caption": "Title"}),
        (["URL", "description", "Licence"], {"uri": "URL", "caption": "description", "license": "Licence"}),
        (["uri", "captoin", "license"], {"caption": "captoin"}),
        (["URI", "Caption"], {"uri": "URI", "caption": "Caption"}),
        (["uri", "caption", "text", "license", "id"], {}),
        (["uri", "caption", "license", "author"], {"attribution": "author"}),
    ],
)
def test_near_names(columns, near):
    assert near_names(columns, {}) == near


def test_columns_that_are_probably_meant_are_named_in_the_log(tmp_path, caplog):
    path = tmp_path / "m.csv"
    path.write_text("uri,caption,licence\na.mp4,Words.,MIT\n")
    read(path, need_license=False)
    assert "not used: 'licence'; to use: --columns license=licence" in caplog.text


def test_folders_have_no_columns(tmp_path):
    (tmp_path / "a.mp4").touch()
    for where in (tmp_path, tmp_path / "*.mp4"):
        with pytest.raises(ValueError, match=r"--columns: .* is no manifest"):
            read_source(str(where), SourceConfig(), columns={"caption": "text"})


def test_names_of_strangers_are_safe_to_paste(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("uri,license,'; rm x; text\na.mp4,MIT,Words.\n")
    with pytest.raises(ValueError, match="no column 'caption'") as why:
        read(path)
    assert "--columns" not in str(why.value)  # too far from any name
    assert near_names(["uri", "license", "te'xt"], {}) == {"caption": "te'xt"}


def test_the_digest_of_a_manifest_does_not_need_our_names(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("path\na.mp4\n")
    assert digest_source(str(path), SourceConfig(), {"uri": "path"}) == digest_source(str(path), SourceConfig())
