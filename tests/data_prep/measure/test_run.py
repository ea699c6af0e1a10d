import numpy as np
import pytest

from data_prep.measure import run as measure
from data_prep.media.fetch import stamp


@pytest.mark.parametrize(
    ("sizes", "most", "edges"),
    [
        ([5] * 7, 3, [0, 3, 6, 7]),
        ([100, 60, 30, 20, 5, 5], 16, [0, 1, 3, 6]),  # a file larger than a block goes alone
        ([100, 100], 16, [0, 1, 2]),
        ([1], 1, [0, 1]),
    ],
)
def test_blocks_are_bounded_by_files_and_by_bytes(sizes, most, edges, monkeypatch):
    monkeypatch.setattr(measure, "BLOCK_BYTES", 90)
    assert measure._edges(np.array(sizes), most) == edges


def test_a_stamp_tells_the_size(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(1234))
    assert measure._size(stamp(str(tmp_path / "a.tar"))) == 1234
    assert measure._size(stamp(f"{tmp_path}/a.tar#512+77.mp4")) == 77
    assert measure._size(stamp(str(tmp_path / "absent"))) == 0
