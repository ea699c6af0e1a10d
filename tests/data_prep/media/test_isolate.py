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


def test_results_and_named_errors_come_back(child, clips):
    assert child.call(probe, str(clips / "videos" / "sam2_01_dog.mp4"), timeout_s=60).codec == "h264"
    with pytest.raises(MediaError, match="truncated") as error:
        child.call(probe, str(clips / "odd" / "streamio-ffmpeg_broken.mp4"), timeout_s=60)
    assert error.value.reason == "truncated"


def test_a_crash_a_hang_and_a_memory_bomb_cost_one_call_each(child):
    with pytest.raises(MediaError) as error:
        child.call(os.abort, timeout_s=60)
    assert error.value.reason == "crashed"
    with pytest.raises(MediaError) as error:
        child.call(time.sleep, 60, timeout_s=1)
    assert error.value.reason == "timed_out"
    with pytest.raises(MediaError) as error:
        child.call(bytearray, 8 * 2**30, timeout_s=60)
    assert error.value.reason == "out_of_memory"
    assert child.call(os.getpid, timeout_s=60) != os.getpid()
