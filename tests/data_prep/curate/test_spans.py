import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.curate.spans import Span, SpanConfig, spans


def test_a_shot_is_a_clip_without_lengths():
    assert spans(10.0, [4.0, 9.5], SpanConfig()) == [Span(0, 4), Span(4, 9.5), Span(9.5, 10, "too_short")]


def test_shots_are_cut_into_the_longest_lengths_first():
    found = spans(80.0, [70.0], SpanConfig(lengths_s=(17, 34)))
    assert [(s.start_s, s.end_s, s.reason) for s in found] == [
        (0, 34, ""),
        (34, 68, ""),
        (68, 70, "leftover"),
        (70, 80, "leftover"),
    ]


@given(
    st.floats(0.1, 500),
    st.lists(st.floats(0, 500), max_size=8),
    st.lists(st.sampled_from([2.0, 5.0, 17.0, 34.0, 68.0]), max_size=3),
)
def test_every_second_is_accounted_for_and_no_clip_crosses_a_cut(duration, cuts, lengths):
    found = spans(duration, cuts, SpanConfig(lengths_s=tuple(lengths)))
    assert found[0].start_s == 0
    assert found[-1].end_s == pytest.approx(duration, abs=2e-3)
    for a, b in itertools.pairwise(found):
        assert 0 <= b.start_s - a.end_s < 2e-3
    for s in found:
        assert not any(s.start_s + 2e-3 < c < s.end_s - 2e-3 for c in cuts if 0 < c < duration)
        if lengths and not s.reason:
            assert any(s.seconds == pytest.approx(n, abs=2e-3) for n in lengths)


def test_lengths_come_from_the_stages():
    config = SpanConfig(stages=("t2v_512p_17s", "t2v_256p_17s", "t2v_512p_68s"))
    assert config.lengths == (68.0, 17.0)
    found = spans(90.0, [], config)
    assert [(s.start_s, s.end_s, s.reason) for s in found] == [(0, 68, ""), (68, 85, ""), (85, 90, "leftover")]
    with pytest.raises(ValueError, match=r"--spans\.stages.*t2v_512p_34s"):
        SpanConfig(stages=("t2i_256p",))


def test_bad_lengths_name_their_flag():
    with pytest.raises(ValueError, match=r"--spans\.lengths-s"):
        SpanConfig(lengths_s=(17, 0))
