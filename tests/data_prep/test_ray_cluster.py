"""Ray as jobs reach it, in separate processes: state that other tests leave in this one would hide what jobs see."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from data_prep.ray_cluster import private_folder

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
import json, os, subprocess, sys, urllib.error, urllib.request
from pathlib import Path
import psutil
import ray
from data_prep.ray_cluster import shared_cluster

def post(port, token=None):
    # as a neighbour on this machine would
    headers = {{"Content-Type": "application/json"}} | ({{"Authorization": f"Bearer {{token}}"}} if token else {{}})
    body = json.dumps({{"entrypoint": "true"}}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{{port}}/api/job_agent/jobs/", body, headers)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except Exception:
        return None  # it does not speak HTTP

JOB = {JOB!r}
with shared_cluster() as environment:
    run = [sys.executable, "-c", JOB]
    jobs = [json.loads(subprocess.check_output(run, env=os.environ | environment)) for _ in range(2)]
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
    posted = {{port: post(port) for port in {{address.port for address in listening}}}}
    token = environment["RAY_AUTH_TOKEN"]
    with_token = {{port: post(port, token) for port, code in posted.items() if code == 401}}
    session = Path(ray._private.worker._global_node.get_session_dir_path())
found = {{"jobs": jobs, "heard": [a.ip for a in listening], "posted": posted, "with_token": with_token}}
found |= {{"session": str(session), "set": [n for n in os.environ if n.startswith("RAY_AUTH")]}}
print(json.dumps(found | {{"left": ray.is_initialized()}}))
"""


@pytest.mark.slow
def test_jobs_share_one_cluster_that_only_this_user_can_reach_and_that_ends(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    found = json.loads(subprocess.check_output([sys.executable, "-c", WORKFLOW], env=environment))
    first, second = found["jobs"]
    assert first == second
    assert first["nodes"] == 1
    assert first["gcs"].startswith("127.0.0.1:")
    assert len(found["heard"]) > 4, "Ray's servers are among the processes"
    assert {ip.removeprefix("::ffff:") for ip in found["heard"]} == {"127.0.0.1"}
    assert 401 in found["posted"].values(), "the agent takes no job from a neighbour"
    assert 200 not in found["posted"].values()
    if "52365" in found["posted"]:  # the agent's port, unless another cluster on this machine has it
        assert found["with_token"]["52365"] == 200, "the test posts to the right place"
    assert not list(tmp_path.iterdir()), "no token is written into the home folder"
    assert not found["set"], "the token does not stay in the process's environment"
    folders = [p for p in Path(found["session"]).parents if p.name == f"ray-{os.getuid()}"]
    assert [p.stat().st_mode & 0o777 for p in folders] == [0o700]
    assert not found["left"]


@pytest.mark.slow
def test_a_process_that_waits_a_few_seconds_for_its_next_task_is_kept():
    code = """
import os, time
import ray
from data_prep.ray_cluster import connect
connect()
pid = ray.get(ray.remote(lambda: os.getpid()).remote())
time.sleep(4)
print(os.path.exists(f"/proc/{pid}"))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "RAY_num_workers_soft_limit": "0"}  # as if there were more than CPUs
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "True"


@pytest.mark.slow
def test_a_job_that_ends_does_not_sleep():
    code = """
import atexit, time
naps, sleep = [], time.sleep
atexit.register(lambda: print(0.5 in naps))  # comes last
from data_prep.ray_cluster import connect
connect()
time.sleep = lambda s: (naps.append(s), sleep(s))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "False"


def test_a_folder_that_somebody_else_made_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"ray-{os.getuid()}").symlink_to("theirs")
    folder = private_folder()
    assert folder.resolve() != tmp_path / "theirs"
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "theirs"))
    assert private_folder() == private_folder() == tmp_path / "theirs" / f"ray-{os.getuid()}"


def test_in_a_cluster_that_is_named_no_other_is_started():
    code = "import ray; from data_prep.ray_cluster import shared_cluster\n"
    code += "with shared_cluster() as e: print(e, ray.is_initialized())"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "203.0.113.9:6379"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "{} False"


@pytest.mark.slow
def test_a_cluster_that_listens_on_127_0_0_1_is_joined():
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:  # short: sockets' paths have a limit
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        head = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            "--node-ip-address",
            "127.0.0.1",
            "--port",
            address.split(":")[1],
        ]
        head += ["--temp-dir", folder, "--num-cpus", "1", "--include-dashboard", "false"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        cluster = subprocess.Popen(head, **quiet)
        try:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
            joined = subprocess.run([sys.executable, "-c", JOB], env=environment, capture_output=True, timeout=90)
            assert json.loads(joined.stdout)["gcs"] == address, joined.stderr
        finally:
            cluster.terminate()
            cluster.wait(60)
