"""Runs a module's own tests on each of its mutants.

Everything happens in a copy of the tree. What the tests import from elsewhere (torch takes seconds) is imported once;
a fork of that process then runs the tests on each mutant, and programs that the tests start find the copy through
PYTHONPATH. Tests marked slow do not run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from tests.mutants.mutate import Mutant

OURS = {"jobs", "pipelines", "data_prep", "lingen", "tests", "conftest"}
PYTEST = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]


class FastestFirst:
    """A pytest plugin: runs tests in the order of how long they took when it was last told, and measures them.

    A test that then computes far longer, since a mutant has no end, ends the process.
    """

    def __init__(self, seconds: dict[str, float]):
        self.seconds, self.measured = seconds, dict[str, float]()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if nodeid in self.seconds:
            signal.setitimer(signal.ITIMER_PROF, 5 + 5 * self.seconds[nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.measured[report.nodeid] = self.measured.get(report.nodeid, 0.0) + report.duration


@dataclasses.dataclass(frozen=True)
class OwnTests:
    """A module and its own test files, in a copy of the tree."""

    copy: Path
    module: str
    files: list[str]
    seconds: dict[str, float]
    """that each test takes without a mutant"""

    def kill(self, mutant: Mutant) -> bool:
        """Whether the tests notice the mutant. One that computes or waits far longer than the original is noticed."""
        path = self.copy / self.module
        original = path.read_text()
        path.write_text(mutant.code)
        try:
            limit = 5 + math.ceil(5 * sum(self.seconds.values()))
            return _run(self.copy, self.files, limit, self.seconds)[0] != 0
        finally:
            path.write_text(original)


def prepare(root: Path, temp: Path, module: str) -> OwnTests:
    """Copy the tree, and run the module's tests once.

    Raises:
        RuntimeError: the module has no tests, or they fail as it is.
    """
    room, name = Path(module).parent, Path(module).stem
    files = sorted(str(p.relative_to(root)) for p in (root / "tests" / room).glob(f"test_{name}*.py"))
    if not files:
        raise RuntimeError(f"{module}: there is no tests/{room}/test_{name}.py")
    copy = temp / "main"
    list_files = ["git", "ls-files", "-coz", "--exclude-standard"]
    for path in subprocess.run(list_files, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0"):
        if path and (root / path).is_file():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, copy / path)
    if (root.parent / "shared").is_dir():
        (temp / "shared").symlink_to(root.parent / "shared")
    os.environ |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    code, output = _run(copy, files, 600, {}, report=temp / "report")
    if code != 0:
        raise RuntimeError(f"{module}: its tests fail without any mutant\n{output}")
    report = json.loads((temp / "report").read_text())
    _import_all(report["imported"])
    # The bytecode of the original is written by now. A mutant's would be taken for the next one's of the same second.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    return OwnTests(copy, module, files, report["seconds"])


def _import_all(names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(Exception):  # made at run time, or a plugin's: a fork imports it again
                importlib.import_module(name)


def _run(
    copy: Path, files: list[str], limit: int, seconds: dict[str, float], report: Path | None = None
) -> tuple[int, str]:
    """Run tests in a fork, for at most `limit` seconds of computing, and as many again of waiting plus five minutes.

    Returns:
        Exit status and what it printed; the status of one over a limit is that of a signal, below 0.
    """
    log = copy.parent / "log"
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        _run_in_fork(copy, files, log, seconds, report)
    until, done, status = time.monotonic() + limit + 300, 0, 0
    while not done and time.monotonic() < until:
        time.sleep(0.02)
        done, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # also what the tests started and left behind
    if not done:
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def _run_in_fork(copy: Path, files: list[str], log: Path, seconds: dict[str, float], report: Path | None) -> None:
    code = 99
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        importlib.invalidate_caches()
        order = FastestFirst(seconds)
        code = int(pytest.main([*PYTEST, *files], plugins=[order]))
        if report is not None:
            imported = [name for name in sys.modules if name.split(".")[0] not in OURS]
            report.write_text(json.dumps({"imported": imported, "seconds": order.measured}))
    finally:
        sys.stdout.flush()
        os._exit(code)
