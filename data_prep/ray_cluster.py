"""One way for every job to reach Ray: the cluster it was submitted to, or a quiet one on this machine alone."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import secrets
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

# Ray replaces 127.0.0.1 by the machine's address, except on systems where it supports no clusters: act as on those.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# Without a token any account of this machine could submit a job to the cluster's agent, and run it as the user. Ray
# keeps the first token that a process has used, so there is one for each process that starts clusters.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

# Ray ends a process that has had no task for 1 s, unless there are fewer than CPUs: readers of frames would start anew,
# with all their imports, after every batch that the encoder takes longer for.
KEEP_IDLE = {"idle_worker_killing_time_threshold_ms": 30_000}


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (as under `ray job submit`), or start a local one, without dashboard.

    Ray's own log lines and progress bars are off: jobs print their own, one line every 30 s (lingen.io.progress). The
    servers of a local cluster listen on 127.0.0.1 only, ask for a token that only this process and its children know,
    and keep their files in a folder that only the user can enter.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors reach us as exceptions
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    init = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if address := os.environ.get("RAY_ADDRESS"):
        # Of a cluster on 127.0.0.1 a driver that goes by the machine's own address would wait for ever.
        same = contextlib.nullcontext if not address.startswith("127.") else _loopback
        with _no_stderr(), own_handler(signal.SIGTERM), same():
            init()
    else:
        # A waiting OpenMP thread spins by default: with any other busy process that makes steps three times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # Ray read RAY_AUTH_MODE when it was imported; it turns to tokens now only if the variable is absent.
        variables = environment(LOOPBACK | TOKEN | {"RAY_AUTH_MODE": None})
        with _no_stderr(), own_handler(signal.SIGTERM), variables, _loopback():
            folder = private_folder() / "ray"  # Ray opens its own folder to everybody; the one around it stays closed
            init(address="local", include_dashboard=False, _temp_dir=str(folder), _system_config=KEEP_IDLE)
    atexit.register(ray.shutdown)  # comes before Ray's own, which waits half a second for output that nobody prints


@contextlib.contextmanager
def shared_cluster() -> Iterator[dict[str, str]]:
    """Environment variables that point child jobs at one shared cluster; a cluster started here ends with the block.

    Without it every job starts and stops Ray itself, which takes longer than some jobs.
    """
    import ray

    if os.environ.get("RAY_ADDRESS"):
        yield {}
        return
    ours = not ray.is_initialized()
    connect()
    try:
        yield {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, **LOOPBACK, **TOKEN}
    finally:
        if ours:
            ray.shutdown()


def one_machine() -> bool:
    """Whether the connected cluster is this machine alone: no other can join it, and none can be taken away."""
    import ray

    return len(ray.nodes()) == 1 and ray.get_runtime_context().gcs_address.startswith("127.")


def quiet_ray() -> None:
    """Silence Ray Data's logs and progress bars. Call it for every dataset: each one resets Ray's log levels."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours is one line every 30 s (lingen/io/progress.py)
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """Silence Ray's C++ startup banner."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def own_handler(number: signal.Signals) -> Iterator[None]:
    """Keep the program's handler of a signal.

    Ray puts a C++ one for SIGTERM in its place, which prints a stack and aborts, and Ray Train one for SIGINT, which
    aborts its last run, also when that is over.
    """
    handler = signal.getsignal(number)
    try:
        yield
    finally:
        ours = callable(handler) or handler is signal.SIG_IGN
        if ours and threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


def private_folder() -> Path:
    """The folder of the user's local clusters: logs, sockets and sessions, closed to other accounts (mode 0700)."""
    folder = Path(tempfile.gettempdir()) / f"ray-{os.getuid()}"  # short: paths of sockets have at most 107 bytes
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # somebody else was there first
        return Path(tempfile.mkdtemp(prefix="ray-"))
    folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables inside the block (None: unset); processes that start there keep them."""

    def set_all(to: Mapping[str, str | None]) -> None:
        for name, value in to.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    before = {name: os.environ.get(name) for name in values}
    set_all(values)
    try:
        yield
    finally:
        set_all(before)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Make a cluster that starts inside the block use 127.0.0.1: this process has read LOOPBACK already."""
    from ray._private import ray_constants

    constant = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
