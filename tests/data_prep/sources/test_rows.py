from data_prep.sources.rows import MAX_CAPTION, clean_text, cut, strange_name


def test_hostile_text_is_made_harmless():
    assert clean_text("a\0b\tc\n\n d\u202egnp.exe") == "a b c d gnp.exe"
    assert clean_text("\x1b[31mred\x9b0m") == "[31mred 0m"
    assert len(clean_text("x" * 10_000)) == MAX_CAPTION
    assert clean_text("lone \ud800 surrogate").isprintable()
    assert clean_text(None) == clean_text(float("nan")) == ""
    assert clean_text("=cmd|' /C calc'!A0") == "=cmd|' /C calc'!A0"  # text stays text; CSV output quotes it
    assert clean_text("see https://me:pw@h/x?token=y") == "see https://***@h/x?token=***"


def test_values_that_cannot_be_text_are_empty():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert cut(nested) == ""
    assert clean_text({"a": 1}) == "{'a': 1}"
    assert cut("x" * 100, 10) == "x" * 20


def test_names_that_no_terminal_should_see():
    assert not any(map(strange_name, ("a b  c.mp4", "ü\u3000雪.mp4", "#?@%")))
    assert all(map(strange_name, ("a\tb", "a\nb", "a\x1bb", "\udcff", "\u202e", "\0", "\x85")))
