"""Measure every clip that has not been measured yet: `examine` over Ray Data, results into the store as they come.

Rows that travel are URIs out, numbers and small stills back; no video bytes. Each actor decodes in a child process, so
that a crash or a hang costs one clip. What failed for reasons that may pass (a crash, a time limit, the network) is
tried again up to a budget, then set aside; what is wrong with the file itself is final.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.measure import examine as examine_module
from data_prep.measure.examine import ExamineConfig, examine
from data_prep.measure.store import Store
from data_prep.media.fetch import content_hash, is_remote, local_copy, stamp
from data_prep.media.isolate import Isolated
from data_prep.media.probe import MediaError
from data_prep.ray_cluster import connect, quiet_ray
from lingen.io.manifest import digest
from lingen.io.progress import Progress

PASSING = frozenset(["timed_out", "crashed", "out_of_memory", "fetch_failed"])
"""Reasons that may pass: another try is worth it."""
BLOCK_FILES, BLOCK_BYTES = 16, 32 << 20

FILE_SCHEMA = pa.schema([("key", pa.string()), ("stamp", pa.string()), ("content_hash", pa.string())])
_RESULT = pa.schema(
    [
        ("uri", pa.string()),
        ("stamp", pa.string()),
        ("began", pa.float64()),  # seconds since 1970
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
    cpus: float = 0.9
    """CPUs that a worker reserves; whole ones would starve Ray Data's own tasks where there are few."""

    def __post_init__(self):
        for field in ("timeout_s", "attempts", "threads", "cpus"):
            if getattr(self, field) <= 0:
                raise ValueError(f"--decode.{field.replace('_', '-')}: must be above 0")


@dataclasses.dataclass
class Measured:
    """What is known of each URI. files: (uri, content_hash) of those with content; failed: uri -> (reason, detail), for
    those without; signals, stills: by content hash; new: files read in this run; start_s: how long that waited for its
    workers to start."""

    files: pa.Table
    failed: dict[str, tuple[str, str]]
    signals: Store
    stills: Store
    new: int = 0
    start_s: float = 0.0


def stores(folder: Path, config: ExamineConfig) -> tuple[Store, Store, Store]:
    """(files, signals, stills) under the store's folder, the latter two for these settings."""
    key = digest({"version": examine_module.VERSION, **dataclasses.asdict(config)})
    return (
        Store(folder, "files", FILE_SCHEMA),
        Store(folder, f"signals-{key}", examine_module.SCHEMA),
        Store(folder, f"stills-{key}", examine_module.STILL_SCHEMA),
    )


def measure(
    uris: pa.Array,
    folder: Path,
    config: ExamineConfig,
    decode: DecodeConfig,
    allow_new: bool = True,
    skip_uris: pa.Array | None = None,
) -> Measured:
    """Bring the store up to date for `uris` (distinct) and read it back; those of `skip_uris` are looked up in the
    store, but not read.

    Raises:
        ValueError: allow_new is off and something has not been measured.
    """
    files, signals, stills = stores(folder, config)
    stamps = pa.array(_stamps(uris), pa.string())
    known = _looked_up(uris, files.table())
    current = pc.if_else(pc.equal(known["stamp"], stamps), known["content_hash"], None)
    tried = signals.table(["key", "reason", "attempts"])
    passing = pc.is_in(tried["reason"], pa.array(sorted(PASSING)))
    again = tried.filter(pc.and_(passing, pc.less(tried["attempts"], decode.attempts)))
    done = tried.filter(pc.invert(pc.is_in(tried["key"], again["key"].combine_chunks())))["key"].combine_chunks()
    todo = pc.invert(pc.is_in(current, done))
    if skip_uris is not None:
        todo = pc.and_(todo, pc.invert(pc.is_in(uris, skip_uris)))
    absent = pc.and_(todo, pc.equal(stamps, ""))
    failed = {u: ("file_missing", "nothing is there") for u in uris.filter(absent).to_pylist() if not is_remote(u)}
    todo = pc.and_(todo, pc.invert(pc.is_in(uris, pa.array(failed, pa.string()))))
    new, start_s = pc.sum(todo).as_py() or 0, 0.0
    if new and not allow_new:
        first = uris.filter(todo)[0].as_py()
        raise ValueError(f"--refilter: {new} clips have not been measured (first: {first}); leave it out once")
    if new:
        # Big files first: no worker is left alone with a long film at the end.
        sizes = np.array([_size(stamp) for stamp in stamps.filter(todo).to_pylist()])
        order = np.argsort(-sizes, kind="stable")
        attempts = dict(zip(again["key"].to_pylist(), again["attempts"].to_pylist()))
        progress = Progress("measure", len(uris) - len(failed), "files", done=len(uris) - len(failed) - new)
        todo, sizes = uris.filter(todo).take(pa.array(order)), sizes[order]
        found, start_s = _run(todo, sizes, done, attempts, (files, signals, stills), config, decode, progress)
        failed |= found
        known = _looked_up(uris, files.table())
    seen = pa.table({"uri": uris, "content_hash": known["content_hash"]})
    seen = seen.filter(pc.invert(pc.is_in(uris, pa.array(failed, pa.string())))).drop_null()
    for store in (files, signals, stills):
        store.compact()
    return Measured(seen, failed, signals, stills, new, start_s)


def _looked_up(uris: pa.Array, files: pa.Table) -> pa.Table:
    """The rows of FILE_SCHEMA of some URIs, nulls where there is none."""
    return files.take(pc.index_in(uris, files["key"].combine_chunks()))


def _stamps(uris: pa.Array) -> Iterable[str]:
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(uris), 4096):  # map queues all it is given
            yield from pool.map(stamp, uris[start : start + 4096].to_pylist())


def _run(todo, sizes, done, tried, to: tuple[Store, ...], config, decode, progress: Progress) -> tuple[dict, float]:
    """Examine files (URIs, bytes) into the stores `to`; (uri -> why it has no content, seconds until the first worker
    had begun)."""
    import ray

    called = time.time()
    connect()
    workers = decode.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    workers = min(workers, len(todo))
    edges = _edges(sizes, max(1, min(BLOCK_FILES, len(todo) // (workers * 4))))
    blocks = [pa.table({"uri": todo[a:b]}) for a, b in itertools.pairwise(edges)]
    # Sorted bytes in the object store: all workers of a machine look at the same copy.
    done = ray.put(np.sort(np.array(done.to_pylist(), "S32")))
    dataset = ray.data.from_arrow(blocks).map_batches(
        Examiner,
        fn_constructor_kwargs={"config": config, "decode": decode, "done": done, "tried": tried},
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=decode.cpus,
    )
    failed, began = {}, []
    quiet_ray()
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=1):
        began.append(pc.min(batch["began"]).as_py())
        failed |= _sort_in(batch, *to)
        progress.update(batch.num_rows)
        if any(store.due for store in to):
            _flush(*to)
    _flush(*to)
    progress.close()
    return failed, min(began) - called


def _edges(sizes: np.ndarray, most: int) -> list[int]:
    """Where blocks of at most `most` files and, but for single files, BLOCK_BYTES begin and end. Blocks are small: a
    kill loses those in work, and no worker is left alone at the end."""
    edges, held = [0], 0
    for i, size in enumerate(sizes.tolist()):
        if i > edges[-1] and (i - edges[-1] == most or held + size > BLOCK_BYTES):
            edges.append(i)
            held = 0
        held += size
    return [*edges, len(sizes)]


def _sort_in(batch: pa.Table, files: Store, signals: Store, stills: Store) -> dict[str, tuple[str, str]]:
    """Queue a batch of _RESULT in the stores; uri -> (reason, detail) of what has no content."""
    nothing = batch.filter(pc.is_null(batch["key"])).select(["uri", "reason", "detail"]).to_pylist()
    batch = batch.filter(pc.is_valid(batch["key"]))
    fresh = batch.filter(pc.is_valid(batch["reason"]))
    signals.add(fresh)
    stills.add(fresh.filter(pc.is_valid(fresh["jpeg"])))
    files.add(batch.select(["uri", "stamp", "key"]).rename_columns(FILE_SCHEMA.names))
    return {row["uri"]: (row["reason"], row["detail"]) for row in nothing}


def _flush(files: Store, *numbers: Store) -> None:
    """All together and files last: a file counts as seen only when its numbers are safe."""
    for store in (*numbers, files):
        store.flush()


def _size(stamp: str) -> int:
    """Bytes of a file, by its stamp (of fetch.stamp)."""
    size = stamp.rpartition("+")[2].partition("-")[0]
    return int(size) if size.isdigit() else 0


class Examiner:
    """One Ray actor. Batch: uri; result: _RESULT, with a null `key` for what has no content and a null `reason` for
    content that is measured already."""

    def __init__(self, config: ExamineConfig, decode: DecodeConfig, done, tried: dict[str, int]):
        import ray

        self.config, self.decode, self.done, self.tried = config, decode, ray.get(done), tried
        self.child = Isolated(decode.memory_gb)
        with contextlib.suppress(MediaError):  # no such file; but the child has started and imported all it needs
            self.child.call(examine, "", config, timeout_s=600)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = []
        for uri in batch.column("uri").to_pylist():
            rows.append({"uri": uri, "stamp": stamp(uri), "began": time.time(), **self.one(uri)})
        return pa.Table.from_pylist(rows, schema=_RESULT)

    def _is_done(self, key: str) -> bool:
        at = np.searchsorted(self.done, key.encode())
        return at < len(self.done) and self.done[at] == key.encode()

    def one(self, uri: str) -> dict:
        for _ in range(self.decode.attempts):
            try:
                with local_copy(uri, self.decode.max_file_gb) as path:
                    key = content_hash(path)
                    if self._is_done(key):
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
                    detail += f"; set aside after {attempts} tries; replay: python -m data_prep.measure.examine {uri!r}"
                return {"key": key, "attempts": attempts, "reason": error.reason, "detail": detail}
