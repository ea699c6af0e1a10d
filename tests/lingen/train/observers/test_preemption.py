"""Requests to stop: by signal and by file."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lingen.train.observers.preemption import Notice, StopFile, clear_stop_file, on_sigterm, stop_file


def test_notices_are_ordered_by_strength():
    assert max(Notice.SAVE, Notice.NONE, Notice.STOP) == Notice.STOP
    assert not Notice.NONE


def test_a_stop_file_is_noticed_and_not_looked_for_at_every_step(tmp_path):
    eager, patient = StopFile(tmp_path, every_s=0.0), StopFile(tmp_path, every_s=600.0)
    assert (eager(), patient()) == (Notice.NONE, Notice.NONE)
    stop_file(tmp_path).touch()
    assert (eager(), patient()) == (Notice.STOP, Notice.NONE)


def test_a_folder_of_that_name_stops_nothing(tmp_path):
    stop_file(tmp_path).mkdir()
    assert StopFile(tmp_path)() == Notice.NONE


def test_the_stop_file_of_the_run_before_is_cleared(tmp_path):
    assert clear_stop_file(tmp_path / "not_made_yet") == tmp_path / "not_made_yet" / "stop"
    stop_file(tmp_path).touch()
    assert clear_stop_file(tmp_path) == tmp_path / "stop"
    assert not stop_file(tmp_path).exists()


def test_a_folder_that_would_hide_sigterm_is_refused_and_left_alone(tmp_path):
    stop_file(tmp_path).mkdir()
    (stop_file(tmp_path) / "notes").touch()
    with pytest.raises(ValueError, match=r"--output: .*/stop is a folder, .*rename the folder"):
        clear_stop_file(tmp_path)
    assert (stop_file(tmp_path) / "notes").exists()


def test_sigterm_inside_the_block_calls_and_outside_it_is_as_before():
    before, calls = signal.getsignal(signal.SIGTERM), []
    with on_sigterm(lambda: calls.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "a second one ends the process"
    assert calls == [1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_sigterm_ends_the_process():
    code = """
import os, signal
from lingen.train.observers.preemption import on_sigterm
with on_sigterm(lambda: print("first", flush=True)):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "first\n"), done.stderr


def test_outside_the_main_thread_the_block_changes_nothing():
    found = []

    def work():
        with on_sigterm(lambda: None):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
