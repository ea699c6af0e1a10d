from lingen.data.provenance import sample_key


def test_keys_have_no_dots_and_stay_apart():
    assert sample_key("0123abcd-0-17000", 3) == "0123abcd-0-17000_w0003"
    hostile = ["a.b", "a/b", "a-b", "../a-b", "a" * 300, "a" * 301]
    keys = {sample_key(clip, 0) for clip in hostile}
    assert len(keys) == len(hostile)
    assert all(len(k) < 82 and "." not in k and "/" not in k for k in keys)
