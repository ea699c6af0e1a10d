"""Ray as jobs reach it, in separate processes: state that other tests leave in this one would hide what jobs see."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

JOB = """
import json
import ray  # before connect, as jobs do
from data_prep.ray_cluster import connect
connect()
node = ray.get(ray.remote(lambda: ray.get_runtime_context().get_node_id()).remote())
print(json.dumps({"gcs": ray.get_runtime_context().gcs_address, "node": node, "nodes": len(ray.nodes())}))
"""

WORKFLOW = f"""
import json, os, subprocess, sys
import psutil
import ray
from data_prep.ray_cluster import shared_cluster
JOB = {JOB!r}
with shared_cluster() as environment:
    run = [sys.executable, "-c", JOB]
    jobs = [json.loads(subprocess.check_output(run, env=os.environ | environment)) for _ in range(2)]
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    heard = [c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
print(json.dumps({{"jobs": jobs, "heard": heard, "left": ray.is_initialized()}}))
"""


@pytest.mark.slow
def test_jobs_share_one_cluster_that_only_this_machine_can_reach_and_that_ends():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    found = json.loads(subprocess.check_output([sys.executable, "-c", WORKFLOW], env=environment))
    first, second = found["jobs"]
    assert first == second
    assert first["nodes"] == 1
    assert first["gcs"].startswith("127.0.0.1:")
    assert len(found["heard"]) > 4, "Ray's servers are among the processes"
    assert {ip.removeprefix("::ffff:") for ip in found["heard"]} == {"127.0.0.1"}
    assert not found["left"]


def test_in_a_cluster_that_is_named_no_other_is_started():
    code = "import ray; from data_prep.ray_cluster import shared_cluster\n"
    code += "with shared_cluster() as e: print(e, ray.is_initialized())"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "203.0.113.9:6379"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "{} False"
