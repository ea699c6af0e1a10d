from data_prep.encode.parts import is_done, part_path, read_part, remove_parts, write_part


def test_a_part_says_that_its_shard_is_finished_until_all_are_removed(tmp_path):
    shard = ("text/clip", "image_64x64", "000001.tar")
    assert not is_done(tmp_path, *shard)
    remove_parts(tmp_path)  # none yet: fine
    write_part(tmp_path, *shard, {"rows": [{"key": "a", "offset": 512}], "encoder": {"dim": 8}})
    assert is_done(tmp_path, *shard)
    assert not is_done(tmp_path, "latents", *shard[1:])
    assert part_path(tmp_path, *shard) == tmp_path / "parts" / "text" / "clip" / "image_64x64" / "000001.json"
    assert read_part(tmp_path, *shard) == {"rows": [{"key": "a", "offset": 512}], "encoder": {"dim": 8}}
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []
