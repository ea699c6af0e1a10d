"""A minute of damage, and that the fuzzer would notice."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.media.errors import MediaError
from tests.fuzz.cases import Fuzzer
from tests.fuzz.mutate import MUTATIONS, mutated

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_minute_of_damaged_files_and_manifests_gives_nothing_but_rows(clips, tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "60", "--clips", clips, "--keep", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


class Child:
    """In place of the process that reads damaged files: fails with this."""

    def __init__(self, error):
        self.error = error

    def call(self, *args, timeout_s):
        if self.error:
            raise self.error

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (None, 0),
        (MediaError("truncated", "cut"), 0),
        (MediaError("crashed", "by a signal, in its own process"), 0),
        (MediaError("internal_error", "TypeError: x (y.py:1)"), 1),
        (MediaError("timed_out", "no answer"), 1),
        (ZeroDivisionError("not foreseen"), 1),
    ],
)
def test_what_is_no_row_is_a_finding_and_is_kept(clips, tmp_path, error, found):
    fuzzer = Fuzzer(clips, tmp_path / "kept")
    fuzzer._child.close()
    fuzzer._child = Child(error)
    fuzzer.run(4)
    fuzzer.close()
    assert len(fuzzer.findings) == found
    assert len(list((tmp_path / "kept").glob("4.*"))) == found
    assert sum(fuzzer.outcomes.values()) == 1


def test_a_case_is_the_same_every_time_and_most_change_the_file():
    content = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40 + b"moovtrakstsdavc1II*\0\x08\0\0\0"
    cases = [mutated(content, seed) for seed in range(60)]
    assert cases == [mutated(content, seed) for seed in range(60)]
    assert sum(data != content for data, _ in cases) > 50
    assert {name for _, how in cases for name in how.split("+")} == {mutation.__name__ for mutation in MUTATIONS}
