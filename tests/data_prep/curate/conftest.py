"""Candidates made by hand, and a store filled without Ray."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep.curate.candidates import SCHEMA, Candidates, start_ledger
from data_prep.curate.ledger import Ledger
from data_prep.curate.scores import SCORES
from data_prep.measure.examine import ExamineConfig, examine
from data_prep.measure.run import FILE_SCHEMA, open_stores
from data_prep.media.fetch import content_hash, stamp

STAGES = ("source", "license", "read", "duplicate", "spans")


@dataclasses.dataclass
class Made:
    """Candidates and the ledger that their decisions go to."""

    found: Candidates
    ledger: Ledger


@pytest.fixture
def make() -> Callable[..., Made]:
    """rows -> Made; a row without values is a captioned video clip of a file of its own, four seconds long."""

    def of_rows(*rows: Mapping[str, object]) -> Made:
        made = []
        for i, row in enumerate(rows):
            usual = dict.fromkeys(SCORES, np.nan) | dict.fromkeys(("stage", "verdict", "reason", "detail"), "")
            usual |= {"clip_id": f"c{i}", "row": i, "uri": f"{i}.mp4", "content_hash": f"h{i}", "media_type": "video"}
            usual |= {"caption": "words", "license": "CC0-1.0", "start_s": 0.0, "end_s": 4.0, "seconds": 4.0}
            made.append(usual | {"width": 640, "height": 360, "short_side": 360.0} | dict(row))
        found = Candidates(pa.Table.from_pylist(made, schema=SCHEMA))
        return Made(found, start_ledger(found, dict.fromkeys(STAGES, "")))

    return of_rows


@pytest.fixture
def fill_store() -> Callable[[Path, list[Path]], None]:
    """(folder, files) -> examines files in this process and stores what a run on Ray would have stored."""

    def fill(folder: Path, files: list[Path]) -> None:
        stores = open_stores(folder, ExamineConfig())
        for file in files:
            row, jpegs = examine(str(file), ExamineConfig())
            row |= {"key": content_hash(str(file)), "attempts": 1}
            still = {name: row[name] for name in ("key", "still_s")} | {"jpeg": jpegs}
            seen = {"key": str(file), "stamp": stamp(str(file)), "content_hash": row["key"]}
            stores.signals.add(pa.Table.from_pylist([row], schema=stores.signals.schema))
            stores.stills.add(pa.Table.from_pylist([still], schema=stores.stills.schema))
            stores.files.add(pa.Table.from_pylist([seen], schema=FILE_SCHEMA))
        stores.flush()

    return fill
