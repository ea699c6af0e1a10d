import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.measure import store as store_module
from data_prep.measure.store import Store

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


def values(store, **kwargs):
    return {r["key"]: r["value"] for r in store.rows(**kwargs)}


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
    assert len(list((tmp_path / "s").iterdir())) == 1


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
