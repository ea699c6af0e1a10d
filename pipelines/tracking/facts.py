"""What a run records about itself: its experiment, settings, code and data."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def experiment_name(default: str) -> str:
    """MLFLOW_EXPERIMENT_NAME, as in MLflow itself, or `default`; the workflow sets it to group a recipe's runs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or default


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git_state(root: Path = ROOT) -> dict[str, str]:
    """Commit and whether the tree is dirty, as tags; empty outside a checkout."""

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10)

    try:
        head = git("rev-parse", "HEAD")
        if head.returncode:
            return {}
        dirty = bool(git("status", "--porcelain").stdout.strip())
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {"mlflow.source.git.commit": head.stdout.strip(), "git.dirty": str(dirty).lower()}


def dataset(
    name: str, source: str, digest: str, context: str, profile: dict[str, float] | None = None
) -> dict[str, str]:
    """A data set that a run read or made, as MLflow takes it.

    Args:
        source: where it is.
        digest: of its content.
        context: its role in the run, such as source or curated.
        profile: a few numbers about it.
    """
    where, numbers = json.dumps({"uri": source}), json.dumps(profile or {})
    return {"name": name, "digest": digest, "source": where, "profile": numbers, "context": context}
