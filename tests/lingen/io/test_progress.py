import errno
import io
import os

import pytest

from lingen.io.progress import Progress, clock, length


def test_a_line_has_counts_rate_and_time_to_go():
    out = io.StringIO()
    progress = Progress("encode", total=10, unit="clips", done=4, stream=out)
    progress._start -= 2.0
    progress.update(2)
    assert "6/10 clips" in progress.line()
    assert "1.00 clips/s" in progress.line()  # resumed work does not count towards the rate
    assert "4s to go" in progress.line()
    progress.close()
    assert out.getvalue().count("\n") == 1


def test_lengths_have_units_that_fit():
    assert [length(s / 3600) for s in (0, 34.64, 89, 318, 5399, 5400, 7.2e6)] == [
        *("0.0 s", "34.6 s", "89.0 s", "5.3 min", "90.0 min", "1.5 h"),
        "2,000.0 h",
    ]


def test_clock():
    assert [clock(s) for s in (4, 185, 7620)] == ["4s", "3m05s", "2h07m"]


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_a_line_that_cannot_be_printed_ends_no_work(code):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(code, os.strerror(code))

    progress = Progress("encode", total=10, stream=Gone())
    progress._last -= 60
    progress.update(3)
    progress.close()
    assert progress.done == 3
