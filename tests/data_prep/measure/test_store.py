"""The store of measurements: no row is lost or doubled, and the newest wins, whoever reads, folds or is killed."""

import errno
import fcntl
import itertools
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.measure import store as store_module
from data_prep.measure.store import Snapshot, Store

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


def values(store, **kwargs):
    rows = list(store.rows(**kwargs))
    assert len({r["key"] for r in rows}) == len(rows), "no row is doubled"
    return {r["key"]: r["value"] for r in rows}


def put(store, **row):
    """One part with one row of each key."""
    store.add(pa.table({"key": list(row), "value": list(row.values())}))
    store.flush()


def test_rows_last_and_the_newest_counts(tmp_path):
    store = Store(tmp_path, "s", SCHEMA)
    store.add(pa.Table.from_pylist([{"key": "a", "value": 1}]))
    store.flush()
    store.add(pa.Table.from_pylist([{"key": "a", "value": 2}]))
    store.add(pa.Table.from_pylist([{"key": "b", "value": 3}]))
    store.flush()
    again = Store(tmp_path, "s", SCHEMA)
    assert values(again) == {"a": 2, "b": 3}
    assert values(again, keys={"b", "z"}) == {"b": 3}
    assert list(again.rows(columns=["key"], keys={"a"})) == [{"key": "a"}]
    assert values(Store(tmp_path, "other", SCHEMA)) == {}


def test_compaction_changes_nothing_but_the_number_of_files(tmp_path):
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(30):
        store.add(pa.Table.from_pylist([{"key": f"k{i % 20}", "value": i}]))
        store.flush()
    before = values(store)
    store.compact()
    assert values(store) == before
    assert len(list((tmp_path / "s").glob("**/*.parquet"))) == 1


def test_half_written_and_foreign_parts_are_ignored(tmp_path):
    store = Store(tmp_path, "s", SCHEMA)
    store.add(pa.Table.from_pylist([{"key": "a", "value": 1}]))
    store.flush()
    (tmp_path / "s" / "00000000000000000000-dead.parquet").write_bytes(b"PAR1 then the disk was full")
    (tmp_path / "s" / ".hidden.parquet").write_bytes(b"killed while writing")
    assert values(store) == {"a": 1}
    store.compact()
    assert values(store) == {"a": 1}


def test_a_fold_keeps_row_groups_and_only_those_asked_for_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "FLUSH_ROWS", 3)
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(10):
        store.add(pa.table({"key": [f"k{i}"], "value": [i]}))
        store.flush()
    store.compact()
    (part,) = store.parts()
    assert [pq.ParquetFile(part).metadata.row_group(i).num_rows for i in range(4)] == [3, 3, 3, 1]
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, i, **kwargs: read.append(i) or whole(self, i, **kwargs)
    )
    assert values(store, keys={"k4", "k9", "absent"}) == {"k4": 4, "k9": 9}
    assert read == [1, 3]


def test_parts_stop_growing_at_their_size(tmp_path, monkeypatch):
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(20):
        store.add(pa.table({"key": [f"k{i}"], "value": [i]}))
        store.flush()
    size = store.parts()[0].stat().st_size
    monkeypatch.setattr(store_module, "PART_BYTES", int(10.5 * size))
    store.compact()
    assert len(store.parts()) == 2
    assert values(store) == {f"k{i}": i for i in range(20)}


def test_what_is_removed_is_in_no_file(tmp_path):
    store = Store(tmp_path, "s", SCHEMA)
    for i in (1, 2):
        store.add(pa.table({"key": ["keep", "secret"], "value": [i, i]}))
        store.flush()
    store.remove(pa.array(["secret", "absent"]))
    assert values(store) == {"keep": 2}
    assert not any(b"secret" in p.read_bytes() for p in store.folder.iterdir())


@pytest.mark.parametrize("change", [Store.compact, lambda store: store.remove(pa.array(["x"]))])
def test_a_snapshot_gives_the_same_rows_after_parts_were_replaced(tmp_path, change):
    """Rows were found by their place in a file of the same name, which by then held others."""
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(12):
        put(store, x=-i, **{f"k{i}": i, f"l{i}": i})
    expected = {f"{a}{i}": i for a in "kl" for i in range(12)}
    snapshot, begun = Snapshot(store), Snapshot(store).rows(keys=set(expected))
    first = next(begun)
    change(store)
    assert {r["key"]: r["value"] for r in snapshot.rows(keys=set(expected))} == expected
    rest = list(begun)
    assert {r["key"]: r["value"] for r in (first, *rest)} == expected
    assert len(rest) == len(expected) - 1, "none twice"


def test_a_listing_during_a_fold_is_not_believed(tmp_path, monkeypatch):
    """A scan of a folder may miss a new name, and old names that go before it reaches them."""
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(12):
        put(store, **{f"k{i}": i})
    scan = Path.glob

    def torn(folder, pattern):
        monkeypatch.setattr(Path, "glob", scan)
        before = list(scan(folder, pattern))
        store.compact()
        return [part for part in before if part.exists()]

    monkeypatch.setattr(Path, "glob", torn)
    assert values(store) == {f"k{i}": i for i in range(12)}


def test_a_part_that_goes_between_listing_and_opening_is_looked_up_again(tmp_path, monkeypatch):
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(12):
        put(store, **{f"k{i}": i})
    open_part = Store.open

    def late(store, part):
        monkeypatch.setattr(Store, "open", open_part)
        store.compact()
        return store.open(part)

    monkeypatch.setattr(Store, "open", late)
    assert values(store) == {f"k{i}": i for i in range(12)}
    store.parts()[0].with_name(f"{0:020d}-link.parquet").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="link"):
        values(store)


def test_a_part_that_goes_while_it_is_read_is_read_on_elsewhere(tmp_path, monkeypatch):
    """An open file outlives its name, but not on NFS when another machine removes it."""
    monkeypatch.setattr(store_module, "FLUSH_ROWS", 3)
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(10):
        put(store, **{f"k{i}": i})
    store.compact()
    count, read = itertools.count(), pq.ParquetFile.read_row_group

    def stale(self, i, **kwargs):
        if next(count) == 2:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(self, i, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", stale)
    assert values(store) == {f"k{i}": i for i in range(10)}


def test_a_row_written_under_tomorrows_clock_is_replaced(tmp_path):
    store = Store(tmp_path, "s", SCHEMA)
    put(store, a=1)
    (part,) = store.parts()
    tomorrow = time.time_ns() + 86400 * 10**9
    part.rename(part.with_name(f"{tomorrow:020d}-0123abcd.parquet"))  # as version 0.1.0 named it
    put(store, a=2)
    assert values(store) == {"a": 2}
    for i in range(10):
        put(store, a=3 + i)
    store.compact()
    assert values(store) == {"a": 12}


@pytest.mark.parametrize("clock", [0, 10**12, 10**19])
def test_the_clock_says_nothing(tmp_path, monkeypatch, clock):
    store = Store(tmp_path, "s", SCHEMA)
    put(store, a=1)
    monkeypatch.setattr(time, "time_ns", lambda: clock)
    monkeypatch.setattr(time, "time", lambda: clock / 1e9)
    put(store, a=2)
    assert values(store) == {"a": 2}


def test_a_fold_does_not_carry_rows_over_a_large_part(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PART_ROWS", 40)
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(9):
        put(store, a=i)
    put(store, a=100, **{f"big{i}": i for i in range(24)})
    for i in range(9):
        put(store, **{f"k{i}": i})
    store.compact()
    assert len(store.parts()) == 3
    assert values(store, keys={"a"}) == {"a": 100}


@pytest.mark.parametrize("where", ["open", "read_row_group"])
def test_a_part_that_cannot_be_read_is_not_folded_away(tmp_path, monkeypatch, where):
    """It counted as empty, joined the fold and was deleted."""
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(12):
        put(store, **{f"k{i}": i})
    ill = store.parts()[5]
    if where == "open":
        whole = pq.ParquetFile

        def fails(part, *args, **kwargs):
            if part == ill:
                raise OSError(errno.EIO, "Input/output error")
            return whole(part, *args, **kwargs)

        monkeypatch.setattr(pq, "ParquetFile", fails)
        with pytest.raises(OSError, match="Input/output error"):
            values(store)
    else:
        count, read = itertools.count(), pq.ParquetFile.read_row_group

        def fails(self, i, **kwargs):
            if next(count) == 5:
                raise OSError(errno.EIO, "Input/output error")
            return read(self, i, **kwargs)

        monkeypatch.setattr(pq.ParquetFile, "read_row_group", fails)
    store.compact()
    monkeypatch.undo()
    assert len(store.parts()) == 12
    assert values(store) == {f"k{i}": i for i in range(12)}
    assert not list(store.folder.glob(".*.parquet")), "no remains of the fold that failed"


@pytest.mark.parametrize("place", ["footer", "key", "value"])
def test_damage_costs_one_part_and_is_named(tmp_path, caplog, place):
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(12):
        put(store, **{f"k{i}": i})
    part = store.parts()[5]
    columns = pq.read_metadata(part).row_group(0)
    start = -60 if place == "footer" else columns.column(SCHEMA.names.index(place)).dictionary_page_offset
    data = bytearray(part.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    part.write_bytes(data)
    if place == "value":
        with pytest.raises(ValueError, match=f"{part.name} cannot be read .* delete it"):
            values(store)
    else:
        assert values(store) == {f"k{i}": i for i in range(12) if i != 5}
        assert f"{part.name} is damaged; what it held is measured again" in caplog.text
    store.compact()
    assert part in store.parts(), "neither folded nor deleted"


def test_one_process_at_a_time_changes_the_folder(tmp_path):
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(9):
        put(store, a=i)
    with open(store.folder / store_module.LOCK, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.compact()
        assert len(store.parts()) == 9, "whoever does not get the lock does not fold"
        writer = threading.Thread(target=put, args=(store,), kwargs={"a": 9})
        writer.start()
        writer.join(0.2)
        assert writer.is_alive(), "writing waits"
        assert values(store) == {"a": 8}, "reading does not"
    writer.join(10)
    assert values(store) == {"a": 9}
    store.compact()
    assert len(store.parts()) == 1


def test_a_file_system_without_locks_is_written_but_not_folded(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(9):
        put(store, a=i)
    store.compact()
    assert len(store.parts()) == 9
    assert values(store) == {"a": 8}


def test_a_fold_cut_off_before_the_old_parts_went_loses_and_doubles_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path, "s", SCHEMA)
    for i in range(9):
        put(store, a=i, **{f"k{i}": i})
    unlink, count = Path.unlink, itertools.count()

    def killed(path, missing_ok=False):
        if not path.name.startswith(".") and next(count) == 4:
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.compact()
    monkeypatch.undo()
    expected = {"a": 8, **{f"k{i}": i for i in range(9)}}
    assert len(store.parts()) == 6
    assert values(store) == expected
    for i in range(9):
        put(store, a=10 + i)
    store.compact()
    assert len(store.parts()) == 1
    assert values(store) == expected | {"a": 18}
    (store.folder / ".0-cut.parquet").write_bytes(b"k3, as a kill left it")
    store.remove(pa.array(["k3"]))
    assert values(store) == {k: v for k, v in (expected | {"a": 18}).items() if k != "k3"}
    assert not any(b"k3" in p.read_bytes() for p in store.folder.iterdir())


WORKER = """
import itertools, random, sys, time
import pyarrow as pa
from data_prep.measure import store as module
from data_prep.measure.store import Store

folder, name, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
module.FOLD = 3
time.time_ns = lambda: random.getrandbits(60)  # a clock that goes forward and back
store = Store(folder, "s", pa.schema([("key", pa.string()), ("value", pa.int64())]))
for i in itertools.count(start):
    store.add(pa.table({"key": [name, f"{name}{i % 50}"], "value": [i, i]}))
    store.flush()
    print(i, flush=True)
    if i % 5 == 0:
        store.compact()
    if i % 7 == 0:
        rows = store.table().to_pylist()
        found = {row["key"]: row["value"] for row in rows}
        assert len(found) == len(rows), "doubled"
        for j in range(max(1, i - 49), i + 1):
            assert found.get(f"{name}{j % 50}") == j, ("lost or old", name, j, found.get(f"{name}{j % 50}"))
        assert found[name] == i
"""


@pytest.mark.slow
def test_kills_at_any_moment_of_two_jobs_with_one_store(tmp_path):
    """Each job adds, folds and checks what it has added; each is killed again and again, and the clock is not asked."""
    lots = random.Random(0)

    def run_and_kill(name, kills=6):
        done = 0
        for _ in range(kills):
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(tmp_path), name, str(done + 1)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            first = process.stdout.readline()
            threading.Timer(lots.uniform(0.1, 1.2), process.kill).start()
            rest, error = process.communicate()
            assert process.returncode == -9, error
            done = int((first + rest).split()[-1])
        return done

    with ThreadPoolExecutor() as pool:
        done = dict(zip("ab", pool.map(run_and_kill, "ab")))
    store = Store(tmp_path, "s", SCHEMA)
    for _ in range(2):
        found = values(store)
        for name, last in done.items():
            assert found[name] - last in (0, 1), "the last one may be there although its writer did not live to say so"
            for i in range(max(1, last - 48), last + 1):
                assert found[f"{name}{i % 50}"] == i
        store.compact()
    store.remove(pa.array(["nothing"]))
    assert not list(store.folder.glob(".*.parquet")), "no remains of what was cut off"
