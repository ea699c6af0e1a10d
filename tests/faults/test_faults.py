"""The fault matrix: every fault on every job, and the same command afterwards; nothing lost, nothing doubled.

docs/reliability.md is the table of what came out; `make faults` runs this and writes it. `make test` leaves it out: it
takes about ten minutes.
"""

from __future__ import annotations

import os
import re

import pytest

from data_prep.ray_cluster import shared_cluster
from tests.faults.faults import FAULTS, Case
from tests.faults.jobs import JOBS, ROOT, make_inputs, run_undisturbed

PAGE = ROOT / "docs" / "reliability.md"
ROWS = [(job, fault) for job, faults in FAULTS.items() for fault in faults]
FOUND: dict[tuple[str, str], str] = {}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of the jobs: one Ray cluster for all, MLflow in a folder of its own."""
    store = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    with shared_cluster() as cluster:
        yield os.environ | cluster | {"MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def world(clips, environment, tmp_path_factory):
    """(folder of the inputs, job -> its undisturbed run)."""
    inputs = tmp_path_factory.mktemp("inputs") / "in"
    make_inputs(inputs, clips)
    return inputs, {name: run_undisturbed(job, inputs, environment) for name, job in JOBS.items()}


@pytest.mark.parametrize(("job", "fault"), ROWS)
def test_nothing_is_lost_or_doubled(job, fault, world, environment, tmp_path):
    inputs, undisturbed = world
    case = Case(JOBS[job], inputs, tmp_path, environment, undisturbed[job])
    outcome = FAULTS[job][fault](case)
    code, error = case.run()
    assert code == 0, error[-3000:]
    found, expected = case.job.contents(case.output), undisturbed[job].contents
    lost = sum((expected - found).values())
    doubled = sum((found - expected).values())
    FOUND[job, fault] = f"| {job} | {fault} | {outcome} | {lost} | {doubled} |"
    assert (lost, doubled) == (0, 0), (expected - found, found - expected)


def test_the_page_says_what_came_out():
    """Rows of this run replace those of the page; a row that never ran is not there."""
    text = PAGE.read_text()
    head, table = re.search(r"(\| job \| fault .*?\n\|[-|]+\n)(.*?)\n(?=\n)", text, re.S).groups()
    rows = {tuple(c.strip() for c in line.split("|")[1:3]): line for line in table.splitlines()}
    if os.environ.get("LINGEN_WRITE_FAULTS"):
        rows |= FOUND
        lines = "\n".join(rows[row] for row in ROWS if row in rows)
        PAGE.write_text(text.replace(head + table, head + lines))
    assert all(rows.get(row) == line for row, line in FOUND.items()), "run `make faults`"
