"""One way for every job to reach Ray: the cluster it was submitted to, or a quiet one on this machine alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator

# Ray replaces 127.0.0.1 by the machine's address, except on systems where it supports no clusters: act as on those.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (as under `ray job submit`), or start a local one, without dashboard.

    Ray's own log lines and progress bars are off: jobs print their own, one line every 30 s (lingen.io.progress). The
    servers of a local cluster listen on 127.0.0.1 only.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors reach us as exceptions
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    init = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        with _no_stderr():
            init()
    else:
        # A waiting OpenMP thread spins by default: with any other busy process that makes steps three times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or the first start writes a token into the home folder
        with _no_stderr(), _loopback():
            init(address="local", include_dashboard=False)


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
        yield {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, **LOOPBACK}
    finally:
        if ours:
            ray.shutdown()


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
def _loopback() -> Iterator[None]:
    """Make a cluster that starts inside the block, and drivers that join it, use 127.0.0.1."""
    from ray._private import ray_constants

    before, constant = {name: os.environ.get(name) for name in LOOPBACK}, ray_constants.ENABLE_RAY_CLUSTER
    os.environ |= LOOPBACK  # for Ray's processes
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this process, which has read it already
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
