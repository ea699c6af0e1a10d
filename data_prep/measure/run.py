"""Measure every clip that has not been measured yet: `examine` on Ray Data, with results stored as they come.

URIs travel to the actors, numbers and small stills back; no video bytes. Each actor hashes and decodes in a child
process, so that a crash, a hang or an exception costs one clip. Failures that may be transient (a crash, a time limit,
the network) are retried within a budget, then the clip is set aside; errors of the file itself are final. Internal
errors are ours: such a clip is examined again in the next run, by better code perhaps.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.measure import examine as examine_module
from data_prep.measure.examine import ExamineConfig, examine
from data_prep.measure.store import Store
from data_prep.media.errors import INTERNAL, BugAlarm, MediaError, OurBug, internal_error, replay
from data_prep.media.fetch import content_hash, is_remote, local_copy, stamp
from data_prep.media.isolate import Isolated
from data_prep.ray_cluster import connect, quiet_ray
from lingen.io.manifest import digest
from lingen.io.progress import Progress

if TYPE_CHECKING:
    import ray

TRANSIENT = frozenset(["timed_out", "crashed", "out_of_memory", "fetch_failed"])
"""Reasons that another try may remove."""
BLOCK_FILES, BLOCK_BYTES = 16, 32 << 20

FILE_SCHEMA = pa.schema([("key", pa.string()), ("stamp", pa.string()), ("content_hash", pa.string())])
_RESULT_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("stamp", pa.string()),
        ("began", pa.float64()),  # seconds since 1970
        *list(examine_module.SCHEMA),  # null key: no content; null reason: content that is measured already
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
    """Files larger than this are refused as too_large, local and remote ones."""
    threads: int = 1
    """Decoder threads per worker; more workers use the cores better than more threads."""
    workers: int = 0
    """Files decoded at once; 0 for one per CPU of the cluster."""
    cpus: float = 0.9
    """CPUs that a worker reserves; whole ones would starve Ray Data's own tasks where there are few."""

    def __post_init__(self) -> None:
        for field in ("timeout_s", "attempts", "threads", "cpus"):
            if getattr(self, field) <= 0:
                raise ValueError(f"--decode.{field.replace('_', '-')}: must be above 0")


@dataclasses.dataclass
class Measured:
    """The outcome for each URI."""

    files: pa.Table
    """(uri, content_hash) of the files with content."""
    failed: dict[str, tuple[str, str]]
    """uri -> (reason, detail) of those without."""
    signals: Store
    """By content hash: rows of examine.SCHEMA."""
    stills: Store
    """By content hash: rows of examine.STILL_SCHEMA."""
    new: int = 0
    """Files read in this run."""
    start_s: float = 0.0
    """Seconds that these waited for the workers to start."""


class Stores(NamedTuple):
    """What is kept between runs."""

    files: Store
    """By URI: rows of FILE_SCHEMA."""
    signals: Store
    """By content hash: rows of examine.SCHEMA."""
    stills: Store
    """By content hash: rows of examine.STILL_SCHEMA."""

    def add(self, batch: pa.Table) -> dict[str, tuple[str, str]]:
        """Queue a batch of _RESULT_SCHEMA; returns uri -> (reason, detail) of files without content."""
        failed = batch.filter(pc.is_null(batch["key"])).select(["uri", "reason", "detail"]).to_pylist()
        batch = batch.filter(pc.is_valid(batch["key"]))
        fresh = batch.filter(pc.is_valid(batch["reason"]))
        self.signals.add(fresh)
        self.stills.add(fresh.filter(pc.is_valid(fresh["jpeg"])))
        self.files.add(batch.select(["uri", "stamp", "key"]).rename_columns(FILE_SCHEMA.names))
        return {row["uri"]: (row["reason"], row["detail"]) for row in failed}

    def flush(self) -> None:
        """Write all queued rows, files last: a file counts as seen only when its numbers are safe."""
        for store in (self.signals, self.stills, self.files):
            store.flush()


@dataclasses.dataclass(frozen=True)
class _Backlog:
    """The files to examine and what is known of their contents."""

    uris: pa.Array
    """Largest first."""
    sizes: np.ndarray
    """Bytes of each."""
    done: pa.Array
    """Content hashes that need no examination."""
    attempts: dict[str, int]
    """Content hash -> tries so far, of contents that may be tried again."""


def open_stores(folder: Path, config: ExamineConfig) -> Stores:
    """The stores under `folder`; signals and stills for these settings."""
    key = digest({"version": examine_module.VERSION, **dataclasses.asdict(config)})
    return Stores(
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
    """Bring the store up to date for some files and read it back.

    Args:
        uris: the files, each once.
        folder: of the store.
        config: what to measure.
        decode: how to read files.
        allow_new: whether files may be read.
        skip_uris: files of `uris` that are looked up in the store, but never read.
    Returns:
        What the store then knows of `uris`.
    Raises:
        ValueError: allow_new is off and a file has not been measured.
        OurBug: many different files in a row end in internal errors.
    """
    stores = open_stores(folder, config)
    stamps = pa.array(_stamps(uris), pa.string())
    known = _look_up(uris, stores.files.table())
    current = pc.if_else(pc.equal(known["stamp"], stamps), known["content_hash"], None)
    done, attempts = _examined(stores.signals, decode.attempts, allow_new)
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
        # Large files first: no worker is left alone with a long film at the end.
        sizes = np.array([_size(stamp) for stamp in stamps.filter(todo).to_pylist()])
        order = np.argsort(-sizes, kind="stable")
        backlog = _Backlog(uris.filter(todo).take(pa.array(order)), sizes[order], done, attempts)
        progress = Progress("measure", len(uris) - len(failed), "files", done=len(uris) - len(failed) - new)
        unreadable, start_s = _examine_all(backlog, stores, config, decode, progress)
        failed |= unreadable
        known = _look_up(uris, stores.files.table())
    seen = pa.table({"uri": uris, "content_hash": known["content_hash"]})
    seen = seen.filter(pc.invert(pc.is_in(uris, pa.array(failed, pa.string())))).drop_null()
    for store in stores:
        store.compact()
    return Measured(seen, failed, stores.signals, stores.stills, new, start_s)


def _examined(signals: Store, budget: int, allow_new: bool = True) -> tuple[pa.Array, dict[str, int]]:
    """(content hashes that need no examination, tries so far of those that have failed and are to be tried again)."""
    tried = signals.table(["key", "reason", "attempts"])
    transient = pc.is_in(tried["reason"], pa.array(sorted(TRANSIENT)))
    again = pc.and_kleene(transient, pc.less(tried["attempts"], budget))
    attempts = dict(zip(*(tried.filter(again)[name].to_pylist() for name in ("key", "attempts"))))
    if allow_new:
        again = pc.or_(again, pc.equal(tried["reason"], INTERNAL))
    return tried.filter(pc.invert(again))["key"].combine_chunks(), attempts


def _look_up(uris: pa.Array, files: pa.Table) -> pa.Table:
    """The rows of FILE_SCHEMA of some URIs, nulls where there is none."""
    return files.take(pc.index_in(uris, files["key"].combine_chunks()))


def _stamps(uris: pa.Array) -> Iterator[str]:
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(uris), 4096):  # `map` queues all of its input
            yield from pool.map(stamp, uris[start : start + 4096].to_pylist())


def _examine_all(
    backlog: _Backlog, stores: Stores, config: ExamineConfig, decode: DecodeConfig, progress: Progress
) -> tuple[dict[str, tuple[str, str]], float]:
    """Examine a backlog into the stores; (uri -> (reason, detail) of files without content, seconds until the first
    worker began)."""
    import ray

    called = time.time()
    connect()
    count = len(backlog.uris)
    workers = min(decode.workers or max(1, int(ray.cluster_resources().get("CPU", 1))), count)
    edges = _block_edges(backlog.sizes, max(1, min(BLOCK_FILES, count // (workers * 4))))
    blocks = [pa.table({"uri": backlog.uris[a:b]}) for a, b in itertools.pairwise(edges)]
    # Sorted bytes in the object store: all workers of a machine share one copy.
    done = ray.put(np.sort(np.array(backlog.done.to_pylist(), "S32")))
    dataset = ray.data.from_arrow(blocks).map_batches(
        Examiner,
        fn_constructor_kwargs={"config": config, "decode": decode, "done": done, "attempts": backlog.attempts},
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=decode.cpus,
    )
    failed: dict[str, tuple[str, str]] = {}
    began: list[float] = []
    alarm = BugAlarm()
    quiet_ray()
    for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=1):
        assert isinstance(batch, pa.Table)
        began.append(pc.min(batch["began"]).as_py())
        failed |= stores.add(batch)
        progress.update(batch.num_rows)
        if any(store.due for store in stores):
            stores.flush()
        try:
            _note(alarm, batch)
        except OurBug:
            stores.flush()
            raise
    stores.flush()
    progress.close()
    return failed, min(began) - called


def _note(alarm: BugAlarm, batch: pa.Table) -> None:
    """Tell the alarm how each file of a batch of _RESULT_SCHEMA ended; copies of a file count once."""
    for row in batch.select(["uri", "key", "reason", "detail"]).to_pylist():
        alarm.note(row["key"] or row["uri"], row)


def _block_edges(sizes: np.ndarray, max_files: int) -> list[int]:
    """Where blocks of at most `max_files` files and, except for single files, BLOCK_BYTES begin and end.

    Blocks are small: a kill loses those in progress, and no worker is left alone at the end.
    """
    edges, held = [0], 0
    for i, size in enumerate(sizes.tolist()):
        if i > edges[-1] and (i - edges[-1] == max_files or held + size > BLOCK_BYTES):
            edges.append(i)
            held = 0
        held += size
    return [*edges, len(sizes)]


def _size(stamp: str) -> int:
    """Bytes of a file, from its `fetch.stamp`."""
    size = stamp.rpartition("+")[2].partition("-")[0]
    return int(size) if size.isdigit() else 0


class Examiner:
    """A Ray actor that examines batches of files (column uri), each in a child process.

    Args:
        config: what to measure.
        decode: how to read files.
        done: content hashes that need no examination: sorted bytes of 32 digits.
        attempts: content hash -> tries so far.
    """

    def __init__(
        self, config: ExamineConfig, decode: DecodeConfig, done: ray.ObjectRef[np.ndarray], attempts: dict[str, int]
    ):
        import ray

        self.config, self.decode, self.done, self.attempts = config, decode, ray.get(done), attempts
        self.child = start_child(config, decode)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Examine a batch; returns rows of _RESULT_SCHEMA."""
        rows = [self._row(uri) for uri in batch.column("uri").to_pylist()]
        return pa.concat_tables([_RESULT_SCHEMA.empty_table(), *rows]).combine_chunks()

    def _row(self, uri: str) -> pa.Table:
        """The row of one file, whatever it raises."""
        row: dict[str, object] = {"uri": uri, "began": time.time()}
        try:
            found = {"stamp": stamp(uri)} | self._fetch_and_examine(uri)
            return pa.Table.from_pylist([row | found], schema=_RESULT_SCHEMA)
        except Exception as error:  # ours: what is the file's own is a MediaError
            return pa.Table.from_pylist([row | _failure(uri, internal_error(error))], schema=_RESULT_SCHEMA)

    def _is_done(self, key: str) -> bool:
        at = np.searchsorted(self.done, key.encode())
        return bool(at < len(self.done) and self.done[at] == key.encode())

    def _fetch_and_examine(self, uri: str) -> dict[str, object]:
        """Columns of SCHEMA and the stills; without a key where the content is unknown."""
        tries = 0
        while True:
            tries += 1
            try:
                with local_copy(uri, self.decode.max_file_gb) as path:
                    key = self.child.call(hash_file, path, timeout_s=self.decode.timeout_s)
                    return {"key": key} if self._is_done(key) else self._examine(uri, path, key)
            except OSError as error:
                failed = MediaError("fetch_failed", str(error))
            except MediaError as error:
                failed = error
            if failed.reason not in TRANSIENT or tries >= self.decode.attempts:
                return _failure(uri, failed, tries)

    def _examine(self, uri: str, path: str, key: str) -> dict[str, object]:
        attempts = self.attempts.get(key, 0)
        while True:
            attempts += 1
            try:
                row, jpegs = self.child.call(
                    examine, path, self.config, self.decode.threads, timeout_s=self.decode.timeout_s
                )
                return {"key": key, "attempts": attempts, **row, "jpeg": jpegs}
            except MediaError as error:
                if error.reason not in TRANSIENT or attempts >= self.decode.attempts:
                    return {"key": key, "attempts": attempts} | _failure(uri, error, attempts)


def start_child(config: ExamineConfig, decode: DecodeConfig) -> Isolated:
    """A child process that has imported all that `examine` needs.

    Raises:
        MediaError: internal_error where something that it needs cannot be imported.
    """
    child = Isolated(decode.memory_gb)
    try:
        child.call(examine, "", config, timeout_s=600)
    except MediaError as error:
        if error.reason == INTERNAL:  # otherwise: there is no such file
            raise
    return child


def hash_file(path: str) -> str:
    """`content_hash` for a child, where OSErrors are the file's."""
    try:
        return content_hash(path)
    except OSError as error:
        raise MediaError("fetch_failed", str(error)) from None


def _failure(uri: str, error: MediaError, tries: int = 1) -> dict[str, object]:
    """The reason and detail of a file that was not examined; with the command that shows more, where that may help."""
    detail = error.detail
    if error.reason in TRANSIENT:
        detail += f"; set aside after {tries} tries"
    if error.reason in TRANSIENT or error.reason == INTERNAL:
        detail += f"; replay: {replay(uri)}"
    return {"reason": error.reason, "detail": detail}
