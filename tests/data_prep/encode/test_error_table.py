import re
import shlex

import pytest

from data_prep.encode.error_table import ERRORS, error_row, read_errors, write_errors
from data_prep.media.errors import MediaError, internal_error


@pytest.fixture
def segment(make_clip, cut):
    found = cut(make_clip("it's; a clip$(x)", 2.5)).segments.values()
    return next(s for of_bucket in found for s in of_bucket)


def test_rows_are_read_back(segment, tmp_path):
    row = error_row(segment, MediaError("truncated", "cut off"))
    assert read_errors(tmp_path) == []
    write_errors(tmp_path, [row])
    assert read_errors(tmp_path) == [row]
    assert row == {
        "key": segment.key,
        "clip_id": "it's; a clip$(x)",
        "uri": "/c/it's; a clip$(x)",
        "bucket": "video_48x80_32f",
        "reason": "truncated",
        "detail": "cut off",
    }
    (tmp_path / ERRORS).write_bytes(b"noise")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/errors.parquet is not readable as a table of key")):
        read_errors(tmp_path)


def test_an_internal_error_says_what_where_and_how_to_replay_it(segment):
    try:
        {}["orientation"]
    except KeyError as error:
        row = error_row(segment, internal_error(error), tae="/tae")
    detail, _, command = row["detail"].partition("; replay: ")
    assert row["reason"] == "internal_error"
    assert re.fullmatch(r"KeyError: 'orientation' \(tests/data_prep/encode/test_error_table.py:\d+\)", detail)
    assert shlex.split(command) == [
        *("python", "-m", "data_prep.encode.replay", "frames", "/c/it's; a clip$(x)"),
        *("--bucket", "video_48x80_32f", "--start-s", "0.0", "--fps", "16.0", "--tae", "/tae"),
    ]
