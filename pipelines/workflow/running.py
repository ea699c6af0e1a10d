"""running.json: which steps of a workflow are running now and how far they are, for `pipeline.py status` elsewhere."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingen.io.manifest import read_json, write_json

FILE = "running.json"


class RunningFile:
    """The file, while the workflow runs; removed with the end of the block.

    Args:
        output: the workflow's folder.
    """

    def __init__(self, output: Path):
        self._path = output / FILE

    def __enter__(self) -> RunningFile:
        self.write({})
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()

    def write(self, progress: Mapping[str, str]) -> None:
        """Note the running steps with their newest progress lines."""
        about = {"pid": os.getpid(), "host": platform.node(), "written": int(time.time())}
        with contextlib.suppress(OSError):  # a full disk: the jobs will say so
            write_json(self._path, about | {"steps": dict(progress)})


def running_steps(output: Path) -> dict[str, str]:
    """Running step -> its newest progress line; none where the workflow is not running."""
    try:
        found: dict[str, Any] = read_json(output / FILE)
        if found["host"] == platform.node():
            os.kill(found["pid"], 0)
        return dict(found["steps"])
    except ProcessLookupError:  # it was killed
        return {}
    except PermissionError:  # another account's
        return dict(found["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def counted(progress: str) -> tuple[int, int, str] | None:
    """(done, total, unit) in a progress line such as "latents: 12/50 segments, ..."."""
    match = re.search(r": (\d+)/(\d+) (\w+)", progress)
    return (int(match[1]), int(match[2]), match[3]) if match else None
