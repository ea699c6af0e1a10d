"""The command line: one line for the user's errors, tracebacks for bugs, exit codes, tables."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from data_prep.media.errors import OurBug
from lingen.io.manifest import OutputFolder, write_atomic
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetConfig:
    """Settings of one kind."""

    least: float | str | None = 1.0
    """smallest score"""

    def __post_init__(self):
        if self.least == "lots":
            raise ValueError("--set.least: 'lots' is no number")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PickyConfig:
    """A job."""

    target: Annotated[str, tyro.conf.Positional]
    """A folder, tar or key, which is explained in many words that nobody wants to read again."""
    input: str
    """A folder of clips, a glob, or a manifest with the columns uri, caption, license, source, attribution."""
    count: int = 0
    """How many."""
    seconds: float = 0.0
    """How long."""
    set: SetConfig = dataclasses.field(default_factory=SetConfig)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("", "missing: TARGET, --input (see --help)"),
        ("x", "missing: --input (see --help)"),
        ("x --inptu y", "unknown: --inptu y (did you mean --input?); missing: --input (see --help)"),
        ("x --input y --cuont 3", "unknown: --cuont 3 (did you mean --count?) (see --help)"),
        ("x --input y z", "unknown: z (see --help)"),
        ("x --input", "--input: a value is missing (see --help)"),
        ("x --input y --count many", "--count: 'many' is not a whole number (see --help)"),
        ("x --input y --seconds soon", "--seconds: 'soon' is not a number (see --help)"),
        ("x --input y --set.least lots", "--set.least: 'lots' is no number (see --help)"),
    ],
)
def test_what_is_wrong_with_flags_is_said_without_their_help_texts(args, said):
    with pytest.raises(ValueError, match="see --help") as why:
        cli.parse(PickyConfig, args.split())
    assert str(why.value) == said


def test_user_errors_are_one_line_but_bugs_keep_their_traceback(monkeypatch, capsys):
    def bad_setting(config):
        raise ValueError("--input: no such folder")

    code, err = run(monkeypatch, capsys, "--input", "x", job=bad_setting)
    assert (code, err) == (2, "error: --input: no such folder")

    monkeypatch.setattr("sys.argv", ["job", "--input", "x"])
    with pytest.raises(ValueError, match="Expecting property name"):
        cli.main(Config, lambda config: json.loads("{"))


def test_files_that_all_meet_a_bug_of_ours_end_the_job_with_one_line_and_1(monkeypatch, capsys):
    def bug(config):
        raise OurBug("20 different files in a row ...")

    code, err = run(monkeypatch, capsys, "--input", "x", job=bug)
    assert (code, err) == (1, "error: 20 different files in a row ...")


def test_done_and_preempted_codes(monkeypatch, capsys):
    def preempted(config):
        raise cli.Preempted("saved step 3")

    assert run(monkeypatch, capsys, "--input", "x")[0] == 0
    assert run(monkeypatch, capsys, "--input", "x", job=preempted)[0] == 75


def test_sigterm_ends_a_job_as_preempted(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        code, err = run(monkeypatch, capsys, "--input", "x", job=lambda config: signal.raise_signal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, err) == (75, "stopped by SIGTERM; the same command continues from here")


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


def test_usage_reports_are_off():
    """Jobs switch MLflow's usage reports off before it is imported."""
    code = (
        "import pipelines.cli; pipelines.cli.quiet_libraries();"
        "import mlflow.telemetry.utils as u; print(u.is_telemetry_disabled())"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "True", done.stderr


def test_errors_and_tables_hide_secrets_and_terminal_escapes(monkeypatch, capsys):
    def bad_setting(config):
        raise ValueError(f"--input: {config.input} is not there")

    _, err = run(monkeypatch, capsys, "--input", "s3://K:SECRET@b/\x1b[2Jx", job=bad_setting)
    assert err == r"error: --input: s3://***@b/\x1b[2Jx is not there"
    assert cli.table([("a\x1b[2J\nb", 1)]) == r"a\x1b[2J\nb  1"


def test_logs_of_jobs_hide_secrets():
    code = "from pipelines.cli import quiet_libraries; import logging; quiet_libraries();"
    code += "logging.getLogger('jobs').info('at %s', 's3://K:SEC' + 'RET@b'); logging.getLogger('x').error('\\x1b[2J')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.splitlines()[0].endswith(" at s3://***@b")
    assert ended.stderr.splitlines()[1].endswith(r" \x1b[2J")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """A job with an output folder."""

    output: Path
    """where it goes"""
    input: str = ""
    """what it reads"""
    shards: Path | None = None
    """what it reads, too"""
    runs: tuple[Path, ...] = ()
    """and these"""
    overwrite: bool = False
    """replace the folder"""


def run_folder(monkeypatch, capsys, job, **flags):
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value)) if word != "True"]
    monkeypatch.setattr("sys.argv", ["job", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main(FolderConfig, job)
    return stop.value.code, capsys.readouterr().err.strip()


def write(config):
    OutputFolder.open(config.output, "curate", {"input": config.input}, {}, overwrite=config.overwrite)


def test_an_output_below_a_file_is_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    code, err = run_folder(monkeypatch, capsys, write, output=tmp_path / "file" / "out")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(f"error: --output: {tmp_path / 'file'}")


@pytest.fixture
def mounted(tmp_path):
    """mounted(options): a small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system takes root")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], check=False, capture_output=True)


def test_a_read_only_output_is_one_line(monkeypatch, capsys, mounted):
    folder = mounted("ro,size=1m")
    code, err = run_folder(monkeypatch, capsys, write, output=folder / "out")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith(f"error: --output: {folder / 'out'}: Read-only file system; choose another")


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_half_file(monkeypatch, capsys, mounted):
    folder = mounted("size=1m")

    def fill(config):
        write(config)
        for i in range(100):
            write_atomic(config.output / f"{i}.json", b"x" * 100_000)

    code, err = run_folder(monkeypatch, capsys, fill, output=folder / "out")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "No space left on device; make room, and the same command continues" in err
    sizes = {p.name: p.stat().st_size for p in (folder / "out").iterdir()}
    assert set(sizes) > {"config.json", "0.json"}
    assert {size for name, size in sizes.items() if name != "config.json"} == {100_000}


def test_what_would_be_replaced_with_the_output_is_not_an_input(monkeypatch, capsys, tmp_path):
    out, inside = tmp_path / "out", tmp_path / "out" / "runs"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(out)
    reached = []
    for name, path in (("input", out), ("shards", inside), ("runs", tmp_path / "link" / "runs"), ("shards", out)):
        code, err = run_folder(monkeypatch, capsys, reached.append, output=out, overwrite=True, **{name: path})
        assert (code, reached) == (2, [])
        assert err == f"error: --{name}: {path} is in --output {out}, which would be replaced; choose another"
    for flags in ({"input": out}, {"input": tmp_path, "overwrite": True}, {"input": "s3://b", "overwrite": True}):
        assert run_folder(monkeypatch, capsys, reached.append, output=out, **flags)[0] == 0
    assert len(reached) == 3
