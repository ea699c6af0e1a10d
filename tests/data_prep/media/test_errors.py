import pickle

from data_prep.media.errors import MediaError


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(MediaError("truncated", "the file ends\n at  1.2 s")))
    assert (error.reason, error.detail) == ("truncated", "the file ends at 1.2 s")
    assert str(error).startswith("truncated: the file ends")


def test_details_are_one_short_line():
    error = MediaError("undecodable", "word\n" * 1000)
    assert len(error.detail) <= 300
    assert "\n" not in error.detail
