"""Measure every clip that has not been measured yet: `examine` over Ray Data, results into the store as they come.

Rows that travel are URIs out, numbers and small stills back; no video bytes. Each actor decodes in a child process, so
that a crash or a hang costs one clip. What failed for reasons that may pass (a crash, a time limit, the network) is
tried again up to a budget, then set aside; what is wrong with the file itself is final.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from data_prep import examine as examine_module
from data_prep.cluster import connect
from data_prep.examine import ExamineConfig, examine
from data_prep.fetch import content_hash, is_remote, local_copy, stamp
from data_prep.isolate import Isolated
from data_prep.probe import MediaError
from data_prep.store import Store
from lingen.manifest import digest
from lingen.progress import Progress

PASSING = frozenset(["timed_out", "crashed", "out_of_memory", "fetch_failed"])
"""Reasons that may pass: another try is worth it."""

FILE_SCHEMA = pa.schema([("key", pa.string()), ("stamp", pa.string()), ("content_hash", pa.string())])
_RESULT = pa.schema(
    [
        ("uri", pa.string()),
        ("stamp", pa.string()),
        *list(examine_module.SCHEMA),
        ("jpeg", pa.list_(pa.binary())),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    timeout_s: float = 600.0
    """Seconds that reading one file may take before it is set aside as timed_out."""
    memory_gb: float = 8.0
    """Address space of a decoding process; 0 for no limit."""
    attempts: int = 2
    """Tries of a file whose decoding crashed, timed out or could not be fetched, over all runs."""
    max_file_gb: float = 20.0
    """Remote files larger than this are refused as too_large."""
    threads: int = 1
    """Decoder threads per worker; more workers use the cores better than more threads."""
    workers: int = 0
    """Files decoded at once; 0 for one per CPU of the cluster."""

    def __post_init__(self):
        for field in ("timeout_s", "attempts", "threads"):
            if getattr(self, field) <= 0:
                raise ValueError(f"--decode.{field.replace('_', '-')}: must be above 0")


@dataclasses.dataclass
class Measured:
    """What is known of each URI. hashes: uri -> content hash; failed: uri -> (reason, detail), for those without
    content; signals, stills: by content hash; new: files read in this run."""

    hashes: dict[str, str]
    failed: dict[str, tuple[str, str]]
    signals: Store
    stills: Store
    new: int


def stores(folder: Path, config: ExamineConfig) -> tuple[Store, Store, Store]:
    """(files, signals, stills) under the store's folder, the latter two for these settings."""
    key = digest({"version": examine_module.VERSION, **dataclasses.asdict(config)})
    return (
        Store(folder, "files", FILE_SCHEMA),
        Store(folder, f"signals-{key}", examine_module.SCHEMA),
        Store(folder, f"stills-{key}", examine_module.STILL_SCHEMA),
    )


def measure(
    uris: list[str], folder: Path, config: ExamineConfig, decode: DecodeConfig, allow_new: bool = True
) -> Measured:
    """Bring the store up to date for `uris` and read it back.

    Raises:
        ValueError: allow_new is off and something has not been measured.
    """
    files, signals, stills = stores(folder, config)
    uris = sorted(set(uris))
    with ThreadPoolExecutor(16) as pool:
        stamps = dict(zip(uris, pool.map(stamp, uris)))
    known = {row["key"]: row for row in files.rows()}
    done = {
        row["key"]: row
        for row in signals.rows(["key", "reason", "attempts"])
        if row["reason"] not in PASSING or row["attempts"] >= decode.attempts
    }
    current = {u: known[u]["content_hash"] for u in uris if u in known and stamps[u] and known[u]["stamp"] == stamps[u]}
    todo = [u for u in uris if current.get(u) not in done]
    missing = [u for u in todo if not stamps[u]]
    failed = {u: ("file_missing", "nothing is there") for u in missing if not is_remote(u)}
    todo = [u for u in todo if u not in failed]
    if todo and not allow_new:
        raise ValueError(f"--refilter: {len(todo)} clips have not been measured (first: {todo[0]}); leave it out once")
    if todo:
        tried = {row["key"]: row["attempts"] for row in signals.rows(["key", "attempts"])}
        failed |= _run(todo, set(done), tried, files, signals, stills, config, decode, total=len(uris) - len(failed))
        known = {row["key"]: row for row in files.rows()}
    hashes = {u: known[u]["content_hash"] for u in uris if u in known and u not in failed}
    for store in (files, signals, stills):
        store.compact()
    return Measured(hashes, failed, signals, stills, len(todo))


def _run(todo, done, tried, files, signals, stills, config, decode, total) -> dict[str, tuple[str, str]]:
    import ray

    connect()
    workers = decode.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    workers = min(workers, len(todo))
    # Big files first and small blocks: no worker is left alone with a long film at the end.
    todo = sorted(todo, key=lambda u: -_size(u))
    per_block = max(1, min(16, len(todo) // (workers * 4)))
    blocks = [pa.table({"uri": todo[i : i + per_block]}) for i in range(0, len(todo), per_block)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        Examiner,
        fn_constructor_kwargs={"config": config, "decode": decode, "done": done, "tried": tried},
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.9,  # whole CPUs would starve Ray Data's own tasks where there are few
    )
    failed = {}
    hush()
    progress = Progress("measure", total, "files", done=total - len(todo))
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=1):
        for row in batch.to_pylist():
            uri, jpegs = row.pop("uri"), row.pop("jpeg")
            mark = row.pop("stamp")
            if row["key"] is None:
                failed[uri] = (row["reason"], row["detail"])
            else:
                if row["reason"] is not None:
                    stills.add({"key": row["key"], "still_s": row["still_s"], "jpeg": jpegs})
                    signals.add(row)
                files.add({"key": uri, "stamp": mark, "content_hash": row["key"]})
            progress.update()
        if files.due:
            _flush(stills, signals, files)
    _flush(stills, signals, files)
    progress.close()
    return failed


def _flush(*stores: Store) -> None:
    """All together and files last: a file counts as seen only when its numbers are safe."""
    for store in stores:
        store.flush()


def _size(uri: str) -> int:
    try:
        return os.stat(uri).st_size
    except (OSError, ValueError):
        return 0


class Examiner:
    """One Ray actor. Batch: uri; result: _RESULT, with a null `key` for what has no content and a null `reason` for
    content that is measured already."""

    def __init__(self, config: ExamineConfig, decode: DecodeConfig, done: set[str], tried: dict[str, int]):
        self.config, self.decode, self.done, self.tried = config, decode, done, tried
        self.child = Isolated(decode.memory_gb)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [{"uri": uri, "stamp": stamp(uri), **self.one(uri)} for uri in batch.column("uri").to_pylist()]
        return pa.Table.from_pylist(rows, schema=_RESULT)

    def one(self, uri: str) -> dict:
        for _ in range(self.decode.attempts):
            try:
                with local_copy(uri, self.decode.max_file_gb) as path:
                    key = content_hash(path)
                    if key in self.done:
                        return {"key": key}
                    return self._examine(uri, path, key)
            except MediaError as error:
                last = {"reason": error.reason, "detail": error.detail}
                if error.reason not in PASSING:
                    break
            except OSError as error:
                last = {"reason": "fetch_failed", "detail": str(error)[:300]}
        return last

    def _examine(self, uri: str, path: str, key: str) -> dict:
        attempts = self.tried.get(key, 0)
        while True:
            attempts += 1
            try:
                row, jpegs = self.child.call(
                    examine, path, self.config, self.decode.threads, timeout_s=self.decode.timeout_s
                )
                return {"key": key, "attempts": attempts, **row, "jpeg": jpegs}
            except MediaError as error:
                if error.reason in PASSING and attempts < self.decode.attempts:
                    continue
                detail = error.detail
                if error.reason in PASSING:
                    detail += f"; set aside after {attempts} tries; replay: python -m data_prep.examine {uri!r}"
                return {"key": key, "attempts": attempts, "reason": error.reason, "detail": detail}


def hush() -> None:
    """Quiet Ray Data: it sets its log levels again for every dataset, so this is said again for each."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # one line every 30 s is ours (lingen.progress)
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
