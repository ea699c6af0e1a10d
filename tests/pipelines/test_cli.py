import dataclasses
import json
import subprocess
import sys

import pytest

from pipelines import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A job."""

    input: str
    """where the clips are"""
    threshold: float = 1.0
    """smallest score"""


@pytest.fixture(autouse=True)
def exits_stay_in_this_process(monkeypatch):
    monkeypatch.setattr(cli, "leave", sys.exit)


def run(monkeypatch, capsys, *args, job=lambda config: None):
    monkeypatch.setattr("sys.argv", ["job", *args])
    with pytest.raises(SystemExit) as stop:
        cli.main(Config, job)
    return stop.value.code, capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("args", "named"),
    [(["--inptu", "x"], "--inptu"), (["--input", "x", "--threshold", "lots"], "--threshold"), ([], "--input")],
)
def test_bad_flags_are_one_line_and_exit_2(monkeypatch, capsys, args, named):
    code, err = run(monkeypatch, capsys, *args)
    assert code == 2
    assert named in err
    assert len(err.splitlines()) == 1


def test_user_errors_are_one_line_but_bugs_keep_their_traceback(monkeypatch, capsys):
    def bad_setting(config):
        raise ValueError("--input: no such folder")

    code, err = run(monkeypatch, capsys, "--input", "x", job=bad_setting)
    assert (code, err) == (2, "error: --input: no such folder")

    monkeypatch.setattr("sys.argv", ["job", "--input", "x"])
    with pytest.raises(ValueError, match="Expecting property name"):
        cli.main(Config, lambda config: json.loads("{"))


def test_done_and_preempted_codes(monkeypatch, capsys):
    def preempted(config):
        raise cli.Preempted("saved step 3")

    assert run(monkeypatch, capsys, "--input", "x")[0] == 0
    assert run(monkeypatch, capsys, "--input", "x", job=preempted)[0] == 75


def test_a_submitted_job_may_not_write_into_rays_copy(monkeypatch, capsys, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Job:
        """A job."""

        output: str
        """where it goes"""

    copy = tmp_path / "_ray_pkg_0123456789abcdef"
    copy.mkdir()
    monkeypatch.chdir(copy)
    for output, code in (("out", 2), (str(tmp_path / "out"), 0), ("s3://bucket/out", 0)):
        monkeypatch.setattr("sys.argv", ["job", "--output", output])
        with pytest.raises(SystemExit) as stop:
            cli.main(Job, lambda config: None)
        assert stop.value.code == code, output
    assert "give an absolute path" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 2, 75])
def test_leaving_runs_pythons_own_clean_up_and_keeps_what_was_printed(code):
    script = f"""
import atexit
from pipelines import cli
atexit.register(lambda: print("cleaned up"))
print("last words")
cli.leave({code})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "last words\ncleaned up\n")


def test_table_aligns():
    assert cli.table([["kept", 3], ["dropped", 12]], header=["verdict", "clips"]).splitlines() == [
        "verdict  clips",
        "-------  -----",
        "kept         3",
        "dropped     12",
    ]
