import os
import time

import pytest

from data_prep.media.errors import MediaError
from data_prep.media.isolate import Isolated
from data_prep.media.probe import probe


@pytest.fixture(scope="module")
def child():
    child = Isolated(memory_gb=4.0)
    yield child
    child.close()


def reason(child, function, *args, timeout_s=60):
    with pytest.raises(MediaError) as error:
        child.call(function, *args, timeout_s=timeout_s)
    return error.value.reason


def test_results_and_named_errors_come_back(child, clips):
    assert child.call(probe, str(clips / "videos" / "sam2_01_dog.mp4"), timeout_s=60).codec == "h264"
    with pytest.raises(MediaError, match="truncated") as error:
        child.call(probe, str(clips / "odd" / "streamio-ffmpeg_broken.mp4"), timeout_s=60)
    assert error.value.reason == "truncated"


def test_a_crash_a_hang_and_a_memory_bomb_cost_one_call_each(child):
    assert reason(child, os.abort) == "crashed"
    assert reason(child, time.sleep, 60, timeout_s=1) == "timed_out"
    assert reason(child, bytearray, 8 * 2**30) == "out_of_memory"
    assert child.call(os.getpid, timeout_s=60) != os.getpid()


def test_an_exception_that_nobody_foresaw_costs_one_call_and_says_where(child):
    with pytest.raises(MediaError, match=r"TypeError: .*not int \(data_prep/media/probe\.py:\d+\)") as error:
        child.call(probe, 3, timeout_s=60)
    assert error.value.reason == "internal_error"
    assert child.call(os.getpid, timeout_s=60) != os.getpid()


def test_what_cannot_travel_between_processes_costs_one_call(child):
    assert reason(child, len, lambda: None) == "internal_error"
    assert reason(child, open, os.devnull) == "internal_error"
    assert child.call(len, "four", timeout_s=60) == 4


def test_a_child_that_gave_up_is_replaced(child):
    child._pool.stop()
    child._pool.join()
    assert child.call(len, "four", timeout_s=60) == 4
