import pickle
import subprocess

import pytest

from data_prep.media.errors import IN_A_ROW, BugAlarm, MediaError, OurBug, internal_error, replay, shell_word
from data_prep.media.probe import probe


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(MediaError("truncated", "the file ends\n at  1.2 s")))
    assert (error.reason, error.detail) == ("truncated", "the file ends at 1.2 s")
    assert str(error).startswith("truncated: the file ends")


def test_details_are_one_short_line():
    error = MediaError("undecodable", "word\n" * 1000)
    assert len(error.detail) <= 300
    assert "\n" not in error.detail


def test_details_are_text_that_any_terminal_and_any_table_takes():
    detail = MediaError("file_missing", "no \x1b[31mred\x07 \udcff.mp4").detail
    assert detail == r"no \x1b[31mred\x07 \udcff.mp4"
    detail.encode()


def test_an_internal_error_says_what_was_raised_and_where_in_our_code():
    with pytest.raises(TypeError) as caught:
        probe(3)
    found = internal_error(caught.value)
    assert found.reason == "internal_error"
    assert found.detail.startswith("TypeError: expected str, bytes or os.PathLike object, not int (data_prep/media/")
    assert found.detail.endswith(")")


def test_the_place_stays_readable_behind_an_endless_message():
    with pytest.raises(KeyError) as caught:
        {}["x" * 5000]
    assert "(tests/data_prep/media/test_errors.py:" in internal_error(caught.value).detail


@pytest.mark.parametrize(
    "name", ["a b.mp4", "it's.mp4", "$(touch x)`y`;z.mp4", "\x1b[31m'\\red\n.mp4", "plain.mp4", "ü.mp4"]
)
def test_a_replay_command_is_safe_to_print_and_to_paste(name):
    word = shell_word(name)
    assert word.isprintable()
    assert replay(name) == f"python -m data_prep.measure.examine {word}"
    shown = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True)
    assert shown.stdout == name


BUG = {"reason": "internal_error", "detail": "TypeError: x (y.py:1)"}


def test_many_different_files_in_a_row_with_internal_errors_are_our_bug():
    alarm = BugAlarm()
    for i in range(IN_A_ROW - 1):
        alarm.note(str(i), BUG)
    with pytest.raises(OurBug, match=r"different files in a row .* a bug of ours.* TypeError: x \(y\.py:1\)"):
        alarm.note("last", BUG)


@pytest.mark.parametrize("between", [None, {"reason": "truncated", "detail": ""}])
def test_files_that_end_otherwise_start_the_count_again(between):
    alarm = BugAlarm()
    for i in range(3 * IN_A_ROW):
        alarm.note(str(i), BUG if i % (IN_A_ROW - 1) else between)


def test_copies_of_one_file_count_once():
    alarm = BugAlarm()
    for _ in range(3 * IN_A_ROW):
        alarm.note("the same", BUG)
