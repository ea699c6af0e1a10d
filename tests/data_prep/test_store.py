import pyarrow as pa

from data_prep.store import Store

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
