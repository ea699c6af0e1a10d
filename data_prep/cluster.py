"""One way for every job to reach Ray: the cluster it was submitted to, or a quiet one on this machine alone."""

from __future__ import annotations

import logging
import os


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names (as under `ray job submit`), or start a local one, without dashboard.

    Ray's own log lines and progress bars are switched off: jobs print theirs, one line every 30 s (lingen.progress).
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors reach us as exceptions
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # A waiting OpenMP thread spins by default: beside any other busy process that makes steps three times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # or the first start writes a token into the home folder
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
