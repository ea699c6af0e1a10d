import numpy as np
import pyarrow as pa
import pytest

from data_prep.curate.candidates import SCHEMA, Candidates
from data_prep.curate.scores import SCORES
from data_prep.curate.thresholds import FilterConfig
from data_prep.curate.what_if import grid


def found(motion, seconds):
    n = len(motion)
    columns = {name: [np.nan] * n for name in SCORES}
    columns |= {"motion": motion, "seconds": seconds, "technical": [9.0] * (n - 1) + [1.0]}
    columns |= {name: [None] * n for name in SCHEMA.names if name not in columns} | {"stage": [""] * n}
    return Candidates(pa.table(columns, schema=SCHEMA))


def test_each_threshold_is_varied_with_all_others_as_configured():
    choices = grid(found([0.1, 1.0, 2.0, 3.0], [3600.0] * 4), FilterConfig(min_motion=0.5))
    motion = [c for c in choices if c.rule == "min_motion"]
    assert [c.threshold for c in motion] == sorted(c.threshold for c in motion)
    now = next(c for c in motion if c.configured)
    assert (now.threshold, now.clips, now.hours) == (0.5, 2, pytest.approx(2.0))  # the last one fails technical
    assert motion[0].clips == 3
    technical = next(c for c in choices if c.rule == "min_technical" and c.configured)
    assert technical.clips == 2
