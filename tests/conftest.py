import os
from pathlib import Path

import pytest

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

SHARED_CLIPS = Path(__file__).parents[2] / "shared" / "clips"


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real test media (videos/, photos/, odd/, manifest.csv); skips where it is absent."""
    if not SHARED_CLIPS.is_dir():
        pytest.skip(f"no test media at {SHARED_CLIPS}")
    return SHARED_CLIPS
