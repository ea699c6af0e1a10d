from data_prep.encode.parts import (
    InHand,
    forget_deaths,
    forget_texts,
    is_done,
    part_path,
    read_part,
    remove_parts,
    write_part,
)


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


def test_what_workers_died_with_is_known_to_the_next_one(tmp_path):
    shard = (tmp_path, "latents", "image_64x64", "000001.tar")
    first = InHand(*shard)
    assert not first.deaths
    first.take(["a", "b"])
    first.take([])
    first.take(["c", "d"])  # and dies
    second = InHand(*shard)
    assert second.deaths == {"c": 1, "d": 1}
    second.take(["d"])  # and dies
    assert InHand(*shard).deaths == {"c": 1, "d": 2}
    InHand(*shard).close()
    assert not InHand(*shard).deaths
    InHand(*shard).take(["a"])
    forget_deaths(tmp_path)
    assert not InHand(*shard).deaths
    part_path(*shard).with_suffix(".in_hand").write_text('{"a":')  # died while writing
    assert not InHand(*shard).deaths


def test_a_shard_with_internal_errors_is_made_again_and_its_text_too(tmp_path):
    shard, rows = ("image_64x64", "000001.tar"), [{"reason": "truncated"}]
    write_part(tmp_path, "latents", *shard, {"rows": [], "errors": rows})
    assert is_done(tmp_path, "latents", *shard)
    write_part(tmp_path, "latents", *shard, {"rows": [], "errors": [*rows, {"reason": "internal_error"}]})
    assert not is_done(tmp_path, "latents", *shard)
    for other in (shard, ("image_64x64", "000002.tar"), ("image_32x32", "000001.tar")):
        write_part(tmp_path, "text/a", *other, {"rows": []})
    forget_texts(tmp_path, *shard)
    assert not is_done(tmp_path, "text/a", *shard)
    assert is_done(tmp_path, "text/a", "image_64x64", "000002.tar")
    assert is_done(tmp_path, "text/a", "image_32x32", "000001.tar")
