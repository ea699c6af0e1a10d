"""Steps side by side: real processes that note when they begin and end."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipelines.workflow.relay import Relay
from pipelines.workflow.scheduler import JobCommand, Scheduler, StepFailed
from pipelines.workflow.steps import WorkflowStep

# Begins, waits until a file is there (if it is told to), ends with a code; SIGTERM ends it with 75, saved.
JOB = """
import os, signal, sys, time
log, name, until, code = sys.argv[1:]
def note(what):
    with open(log, "a") as file:
        file.write(f"{what} {name}\\n")
def save(*_):
    note("save")
    os._exit(75)
signal.signal(signal.SIGTERM, save)
note("begin")
while until and not any(line.strip() == until for line in open(log)):
    time.sleep(0.01)
note("end")
sys.exit(int(code))
"""


def step(name, *after, waits_for=()):
    return WorkflowStep(name, "train", (), Path("out") / name, after, tuple(waits_for))


class Steps:
    """Runs steps as JOB; `until`: a line of the log that a step waits for; `codes`: its exit code."""

    def __init__(self, folder, until=None, codes=None, skipped=()):
        self.log, self.until, self.codes, self.skipped = folder / "log", until or {}, codes or {}, skipped
        self.finished = []

    def begin(self, step):
        if step.name in self.skipped:
            return None
        arguments = ["-c", JOB, str(self.log), step.name, self.until.get(step.name, "")]
        return JobCommand([*arguments, str(self.codes.get(step.name, 0))], {})

    def run(self, steps, limit=2):
        finish = lambda step, seconds: self.finished.append(step.name)  # noqa: E731
        Scheduler(limit, Relay(), self.begin, finish).run(steps)

    def lines(self):
        return self.log.read_text().splitlines()


def test_two_steps_that_need_nothing_of_each_other_run_at_the_same_time(tmp_path):
    steps = Steps(tmp_path, until={"a": "begin b", "b": "begin a"})  # neither ends before the other has begun
    steps.run([step("first"), step("a", "first"), step("b", "first"), step("last", "a", "b")])
    lines = steps.lines()
    assert lines[:2] == ["begin first", "end first"]
    assert lines[-2:] == ["begin last", "end last"]
    assert sorted(steps.finished) == ["a", "b", "first", "last"]


def test_no_more_run_at_a_time_than_allowed_and_the_first_in_the_list_goes_first(tmp_path):
    steps = Steps(tmp_path)
    steps.run([step("a"), step("b"), step("c", "a")], limit=1)
    assert steps.lines() == ["begin a", "end a", "begin b", "end b", "begin c", "end c"]


def test_a_step_waits_for_those_it_would_slow_down(tmp_path):
    steps = Steps(tmp_path)
    steps.run([step("a"), step("b", waits_for=["a"])])
    assert steps.lines() == ["begin a", "end a", "begin b", "end b"]


def test_what_is_done_takes_no_time_and_lets_the_next_start(tmp_path):
    steps = Steps(tmp_path, skipped=("a", "b"))
    steps.run([step("a"), step("b", "a"), step("c", "b")])
    assert (steps.lines(), steps.finished) == (["begin c", "end c"], ["c"])


def test_a_failure_lets_the_other_come_to_its_end_and_nothing_new_starts(tmp_path, monkeypatch):
    steps, said = Steps(tmp_path, until={"bad": "begin good", "good": "go"}, codes={"bad": 3}), []

    def say(relay, text):
        said.append(text.strip())
        with open(steps.log, "a") as log:
            log.write("go\n")

    monkeypatch.setattr(Relay, "say", say)
    with pytest.raises(StepFailed, match="bad ended with exit code 3") as failure:
        steps.run([step("bad"), step("good"), step("later", "good"), step("other")])
    assert (failure.value.code, steps.finished) == (3, ["good"])
    assert steps.lines()[-1] == "end good"
    assert said == ["bad ended with exit code 3; nothing new starts, but good goes on (Ctrl-C stops it, saved)"]


def test_sigterm_lets_every_running_job_save_and_ends_with_75(tmp_path):
    steps = Steps(tmp_path, until={"a": "never", "b": "never"})

    def terminate():
        while not steps.log.exists() or len(steps.lines()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    with pytest.raises(StepFailed, match=r"(a|b) ended with exit code 75") as failure:
        steps.run([step("a"), step("b"), step("c")])
    assert failure.value.code == 75
    assert sorted(steps.lines()) == ["begin a", "begin b", "save a", "save b"]


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a shell starts background commands without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_until_every_job_has_saved(tmp_path, ctrl_c):
    """A terminal sends it to all; here only the workflow gets it, and the jobs end by themselves."""
    steps = Steps(tmp_path, until={"a": "go", "b": "go"})

    def interrupt():
        while not steps.log.exists() or len(steps.lines()) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        with open(steps.log, "a") as log:
            log.write("go\n")

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        steps.run([step("a"), step("b"), step("c")])
    assert sorted(steps.lines()) == ["begin a", "begin b", "end a", "end b", "go"]


def test_an_error_of_the_workflow_itself_waits_for_the_jobs_too(tmp_path):
    steps = Steps(tmp_path, until={"b": "end a"})

    def finish(step, seconds):
        raise ValueError("nothing was kept")

    with pytest.raises(ValueError, match="nothing was kept"):
        Scheduler(2, Relay(), steps.begin, finish).run([step("a"), step("b"), step("c", "b")])
    assert "end b" in steps.lines()


def test_a_process_that_a_job_leaves_behind_does_not_hold_the_workflow(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.workflow.scheduler.LAST_WORDS", 0.2)
    leave = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    output = []
    relay = Relay()
    relay._print = lambda text, stream: output.append(text)
    begun = time.monotonic()
    Scheduler(1, relay, lambda step: JobCommand(["-c", leave], {}), lambda step, seconds: None).run([step("a")])
    os.kill(int(output[0]), signal.SIGKILL)
    assert time.monotonic() - begun < 50
