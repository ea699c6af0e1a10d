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
