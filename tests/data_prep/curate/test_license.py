import pyarrow as pa
import pytest

from data_prep.curate.license import LicenseConfig, decide, gate
from data_prep.sources.manifest import SCHEMA


@pytest.mark.parametrize(
    ("text", "verdict", "reason"),
    [
        ("CC0-1.0", "keep", ""),
        ("cc-by-4.0", "keep", ""),  # SPDX ids do not care for case
        ("CC-BY-2.0 AND CC0-1.0", "keep", ""),
        ("CC-BY-NC-4.0 OR MIT", "keep", ""),
        ("Apache-2.0 WITH LLVM-exception", "keep", ""),
        ("CC-BY-NC-4.0", "drop", "license_not_allowed"),
        ("MIT AND CC-BY-NC-4.0", "drop", "license_not_allowed"),
        ("", "drop", "license_unknown"),
        (None, "drop", "license_unknown"),
        ("all rights reserved", "drop", "license_unknown"),
        ("free to use", "drop", "license_unknown"),
        ("MIT OR", "drop", "license_unknown"),
        ("(" * 400, "drop", "license_unknown"),
        ("MIT AND " * 2000 + "MIT", "drop", "license_unknown"),
        ("<script>alert(1)</script>", "drop", "license_unknown"),
    ],
)
def test_expressions(text, verdict, reason):
    decision = decide(text, LicenseConfig())
    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_expressions_of_up_to_500_characters_are_read():
    text = "MIT AND " * 60 + "MIT"
    padded = text + " AND LicenseRef-" + "x" * (500 - len(text) - len(" AND LicenseRef-"))
    config = LicenseConfig(allow=("MIT", padded.rpartition(" ")[2]))
    assert len(padded) == 500
    assert decide(padded, config).verdict == "keep"
    assert "too long" in decide(padded + "x", config).detail


def test_deny_wins_over_allow_but_not_over_an_alternative():
    config = LicenseConfig(deny=("MIT",))
    assert decide("MIT", config).reason == "license_denied"
    assert decide("MIT AND CC0-1.0", config).reason == "license_denied"
    assert decide("MIT OR CC0-1.0", config).verdict == "keep"


def test_allow_replaces_the_list():
    config = LicenseConfig(allow=("CC-BY-SA-4.0", "LicenseRef-Contract-7"))
    assert decide("CC-BY-SA-4.0", config).verdict == "keep"
    assert decide("LicenseRef-Contract-7", config).verdict == "keep"
    assert decide("LicenseRef-Other", config).verdict == "drop"
    assert decide("CC0-1.0", config).reason == "license_not_allowed"


def test_assume_applies_only_where_nothing_is_stated():
    config = LicenseConfig(assume="CC0-1.0")
    assert decide("", config).license == "CC0-1.0"
    assert decide("nonsense", config).reason == "license_unknown"
    assert decide("CC-BY-NC-4.0", config).verdict == "drop"


@pytest.mark.parametrize(
    ("kwargs", "flag"),
    [
        ({"allow": ("CC-BY",)}, "--license.allow"),
        ({"deny": ("no such",)}, "--license.deny"),
        ({"allow_also": ("CC BY SA 4.0",)}, r"--license\.allow-also: .* did you mean CC-BY-SA-4\.0\?"),
        ({"allow_also": ("proprietary",)}, r"--license\.allow-also: .* for terms of your own write LicenseRef-NAME$"),
        ({"assume": "CC-BY-NC-4.0"}, "--license.assume"),
    ],
)
def test_bad_settings_name_their_flag(kwargs, flag):
    with pytest.raises(ValueError, match=flag):
        LicenseConfig(**kwargs)


def test_only_what_passes_the_gate_may_be_read_and_only_once():
    rows = [("a.mp4", "MIT", ""), ("b.mp4", "", ""), ("a.mp4", "MIT", ""), ("../c.mp4", "MIT", "outside_root")]
    columns = {"row": range(4), **dict(zip(("uri", "license", "bad"), zip(*rows)))}
    table = pa.table({n: columns.get(n, [""] * 4) for n in SCHEMA.names}, schema=SCHEMA)
    answers, uris = gate(table, LicenseConfig())
    assert [d.verdict for d in answers] == ["keep", "drop", "keep", "keep"]
    assert uris.to_pylist() == ["a.mp4"]


def test_allow_also_adds_to_the_list_and_deny_still_wins():
    config = LicenseConfig(allow_also=("CC-BY-SA-4.0", "LicenseRef-mine"), assume="LicenseRef-mine")
    assert [decide(t, config).verdict for t in ("CC-BY-SA-4.0", "", "CC0-1.0", "LicenseRef-other")] == [
        *("keep", "keep", "keep"),
        "drop",
    ]
    assert decide("CC-BY-SA-4.0", LicenseConfig(allow_also=("CC-BY-SA-4.0",), deny=("CC-BY-SA-4.0",))).verdict == "drop"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("CC BY 4.0", "did you mean CC-BY-4.0?"),
        ("Apache License 2.0", "did you mean Apache-2.0?"),
        ("MIT License", "did you mean MIT?"),
        ("https://creativecommons.org/licenses/by-sa/4.0/", "did you mean CC-BY-SA-4.0?"),
        ("Creative Commons Attribution 4.0 International", "did you mean CC-BY-4.0?"),
        ("BSD", "did you mean BSD-2-Clause or BSD-3-Clause?"),
        ("proprietary", "write LicenseRef-NAME, and allow it by --license.allow-also LicenseRef-NAME"),
        ("All rights reserved.", "write LicenseRef-NAME, and allow it by --license.allow-also LicenseRef-NAME"),
        ("free to use", "see spdx.org/licenses"),
        ("?!", "see spdx.org/licenses"),
    ],
)
def test_what_is_no_licence_comes_with_advice(text, advice):
    decision = decide(text, LicenseConfig())
    assert decision.reason == "license_unknown"
    assert decision.detail.endswith(advice)


def test_a_caption_is_asked_for_only_where_the_licence_passes():
    rows = [("a.mp4", "MIT", ""), ("b.mp4", "MIT", "words"), ("c.mp4", "", "")]
    columns = {"row": range(3), **dict(zip(("uri", "license", "caption"), zip(*rows)))}
    table = pa.table({n: columns.get(n, [""] * 3) for n in SCHEMA.names}, schema=SCHEMA)
    answers, uris = gate(table, LicenseConfig(), need_caption=True)
    assert [(d.stage, d.reason) for d in answers] == [
        ("caption", "caption_missing"),
        ("license", ""),
        ("license", "license_unknown"),
    ]
    assert uris.to_pylist() == ["b.mp4"]
    assert gate(table, LicenseConfig())[1].to_pylist() == ["a.mp4", "b.mp4"]
