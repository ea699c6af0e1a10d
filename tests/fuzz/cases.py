"""One fuzz case: a damaged file through examining and frame reading, or a manifest through reading its rows."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from data_prep.curate.license import LicenseConfig, decide
from data_prep.measure.examine import ExamineConfig, examine
from data_prep.media.errors import MediaError
from data_prep.media.fetch import content_hash, local_copy
from data_prep.media.frames import read_frames, read_frames_in_pieces
from data_prep.media.isolate import Isolated
from data_prep.media.probe import probe
from data_prep.sources.manifest import SourceConfig, read_source
from tests.fuzz.manifests import manifest
from tests.fuzz.mutate import mutated

MAX_BYTES = 5_000_000
LONGEST_S = 60.0
"""Of a video; longer ones are refused, so that what takes TIMEOUT_S hangs."""
TIMEOUT_S = 120.0


class Fuzzer:
    """Runs cases by number and collects what is not a row: `findings`.

    A row is a result, or a MediaError with a reason of our own; `internal_error`, `timed_out` and any other exception
    are findings.
    """

    def __init__(self, clips: Path, keep: Path):
        self._files = sorted(p for p in clips.rglob("*") if p.is_file() and 0 < p.stat().st_size <= MAX_BYTES)
        self._folder, self._keep = Path(tempfile.mkdtemp(prefix="fuzz-")), keep
        self._child = Isolated(memory_gb=4)
        self.findings: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def close(self) -> None:
        self._child.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def summary(self) -> str:
        most = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return f"{sum(self.outcomes.values())} cases, {len(self.findings)} findings; {most}"

    def run(self, number: int) -> None:
        """Run a case."""
        if number % 4 == 3:
            self._manifest(number)
        else:
            self._media(number)

    def _media(self, number: int) -> None:
        source = random.Random(number).choice(self._files)
        content, how = mutated(source.read_bytes(), number)
        path = self._folder / f"case{source.suffix}"
        path.write_bytes(content)
        try:
            self._child.call(examine, str(path), ExamineConfig(max_duration_s=LONGEST_S), timeout_s=TIMEOUT_S)
            self._child.call(some_frames, str(path), timeout_s=TIMEOUT_S)
            outcome = "measured and read"
        except MediaError as error:
            outcome = error.reason
            if error.reason in ("internal_error", "timed_out"):
                self._found(number, path, f"{source.name} {how}: {error}")
        except Exception as error:
            outcome = type(error).__name__
            self._found(number, path, f"{source.name} {how}: {type(error).__name__}: {error}")
        self.outcomes[outcome] += 1

    def _manifest(self, number: int) -> None:
        path, kind = manifest(self._folder, number)
        outcome = f"manifest {kind.split()[0]}"
        try:
            table = read_source(str(path), SourceConfig(), need_license=False)
            for text in table.column("license").to_pylist():
                decide(text, LicenseConfig())
            assert table.num_rows == len(set(table.column("row").to_pylist()))
        except ValueError:
            outcome += " refused"
        except Exception as error:
            self._found(number, path, f"{kind}: {type(error).__name__}: {error}")
        self.outcomes[outcome] += 1

    def _found(self, number: int, path: Path, what: str) -> None:
        self._keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self._keep / f"{number}{path.suffix}")
        self.findings.append(f"case {number}: {' '.join(what.split())[:400]}")
        print(self.findings[-1], flush=True)


def some_frames(path: str) -> None:
    """What encoding does to a file: copy, hash and probe it; read a few frames, and many in pieces."""
    with local_copy(path) as copy:
        content_hash(copy)
        known = probe(copy)
        times = [0.0] if known.media_type == "image" else [known.duration_s * part for part in (0.0, 0.4, 0.8)]
        read_frames(copy, times, (48, 80), known=known)
        if known.media_type == "video":
            every = [i / 16 for i in range(33)]
            assert sum(map(len, read_frames_in_pieces(copy, every, (48, 80), 8, known))) == len(every)
