"""What several jobs print on one terminal."""

import io
import os
import sys
import threading

import pytest

from lingen.io.progress import RELAYED, Progress
from pipelines.workflow import relay
from pipelines.workflow.relay import Relay


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def feed():
    """feed(relay, step, text): what a job prints on its stderr."""

    def feed(relay, step, *texts):
        read, write = os.pipe()
        with os.fdopen(read, "rb") as pipe:
            thread = threading.Thread(target=relay.follow, args=(step, pipe, "stderr"))
            thread.start()
            for text in texts:
                os.write(write, text.encode())
            os.close(write)
            thread.join()

    return feed


def test_lines_are_named_only_while_two_run(feed, capsys):
    both = Relay()
    both.begin("encode 96p")
    feed(both, "encode 96p", "alone\n")
    both.begin("train")
    feed(both, "encode 96p", "half", " a line\nanother\nunfinished")
    both.end("encode 96p")
    feed(both, "train", "the last\n")
    assert capsys.readouterr().err.splitlines() == [
        "alone",
        *(f"encode 96p | {text}" for text in ("half a line", "another", "unfinished")),
        "the last",
    ]


def test_without_a_terminal_progress_comes_every_30_seconds(feed, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(relay.time, "monotonic", lambda: now[0])
    one = Relay()
    one.begin("encode")
    for second in range(0, 61, 5):
        now[0] = float(second)
        feed(one, "encode", f"latents: {second}/99 segments\033[K\r")
    assert capsys.readouterr().err.splitlines() == ["latents: 30/99 segments", "latents: 60/99 segments"]
    assert one.progress() == {"encode": "latents: 60/99 segments"}


def test_on_a_terminal_all_progress_shares_the_last_line(feed, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    both = Relay()
    both.begin("encode")
    both.begin("train")
    feed(both, "encode", "latents: 1/9\033[K\r")
    feed(both, "train", "steps: 5/10\033[K\r")
    both.say("a line of ours")
    shown = terminal.getvalue().split("\r\033[K")
    assert shown[-2] == "a line of ours\n"
    assert [part.strip() for part in shown[-1].split("   ") if part] == ["encode | latents: 1/9", "train | steps: 5/10"]
    assert len(shown[-1]) < 100


def test_a_relayed_job_draws_its_line_as_on_a_terminal(monkeypatch):
    for relayed, end in ((True, "\r"), (False, "")):
        monkeypatch.setenv(RELAYED, "1") if relayed else monkeypatch.delenv(RELAYED)
        stream = io.StringIO()
        progress = Progress("latents", 9, stream=stream)
        progress._last -= 1.0
        progress.update()
        assert stream.getvalue()[-1:] == end
