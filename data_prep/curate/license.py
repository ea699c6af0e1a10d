"""The licence gate: what may be used is decided from the manifest alone, before a byte of media is read.

Licences are SPDX expressions. `A OR B` passes when either passes, `A AND B` when both do. No stated licence means no
right to use: such a clip is dropped as license_unknown unless the user states a licence for the whole folder.
"""

from __future__ import annotations

import dataclasses
import functools

import pyarrow as pa
import pyarrow.compute as pc
from license_expression import ExpressionError, LicenseExpression, Licensing, get_spdx_licensing

MAX_LENGTH = 500

PERMISSIVE = (
    "CC0-1.0",
    "CC-PDDC",
    "CC-PDM-1.0",
    "PDDL-1.0",
    "Unlicense",
    "0BSD",
    "CC-BY-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-3.0-US",
    "CC-BY-4.0",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "ISC",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LicenseConfig:
    allow: tuple[str, ...] = PERMISSIVE
    """SPDX ids (or LicenseRef-ids) that may be used; everything else is dropped."""
    deny: tuple[str, ...] = ()
    """SPDX ids that may not be used, even where --license.allow names them."""
    assume: str | None = None
    """Licence of clips that state none. You are responsible for it; the report says so in red."""

    def __post_init__(self):
        for field in ("allow", "deny"):
            for name in getattr(self, field):
                if not _is_known(name):
                    raise ValueError(f"--license.{field}: {name!r} is not an SPDX id; see spdx.org/licenses")
        if self.assume is not None and decide(self.assume, self).verdict != "keep":
            answer = decide(self.assume, self)
            raise ValueError(f"--license.assume: {self.assume!r} would be dropped ({answer.reason}: {answer.detail})")


@dataclasses.dataclass(frozen=True)
class Decision:
    """The gate's answer for one clip."""

    verdict: str
    """keep or drop."""
    reason: str
    """Why it was dropped, "" when kept."""
    license: str
    """The normalised expression."""
    detail: str = ""
    """For a person to read."""


def gate(source: pa.Table, config: LicenseConfig) -> tuple[list[Decision], pa.Array]:
    """Decide the licence of every row.

    Args:
        source: rows of sources.manifest.SCHEMA.

    Returns:
        The decision of each row, and the distinct URIs that may be read.
    """
    decisions = [decide(text, config) for text in source.column("license").to_pylist()]
    kept = pa.array([d.verdict == "keep" for d in decisions], pa.bool_())
    return decisions, pc.unique(source["uri"].filter(pc.and_(kept, pc.equal(source["bad"], ""))))


def decide(expression: str | None, config: LicenseConfig) -> Decision:
    """Decide one clip's licence.

    Reasons: license_unknown (none stated, or not an SPDX expression), license_denied, license_not_allowed.
    """
    text = " ".join((expression or "").split())
    if not text and config.assume is not None:
        text = config.assume
    return _decide(text, frozenset(config.allow), frozenset(config.deny))


@functools.lru_cache(maxsize=4096)
def _decide(text: str, allow: frozenset[str], deny: frozenset[str]) -> Decision:
    if not text:
        return Decision("drop", "license_unknown", "", "no licence is stated")
    if len(text) > MAX_LENGTH:
        return Decision("drop", "license_unknown", text[:MAX_LENGTH], "too long for a licence expression")
    try:
        parsed = _spdx().parse(text)
    except (ExpressionError, RecursionError, ValueError, TypeError, AttributeError) as error:
        return Decision("drop", "license_unknown", text, f"not an SPDX expression: {str(error)[:100]}")
    names = [str(name) for name in _spdx().license_keys(parsed)]
    unknown = [name for name in names if not _is_known(name) and name not in allow]
    if unknown:
        return Decision("drop", "license_unknown", text, f"{unknown[0][:60]!r} is no SPDX id")
    normal = str(parsed)
    if _passes(parsed, allow, deny):
        return Decision("keep", "", normal)
    if not _passes(parsed, allow | set(names), deny):
        return Decision("drop", "license_denied", normal, f"{normal} is on the deny list")
    return Decision("drop", "license_not_allowed", normal, f"{normal} is not on the allow list")


def _passes(node: LicenseExpression, allow: frozenset[str], deny: frozenset[str]) -> bool:
    kind = type(node).__name__
    if kind == "OR":
        return any(_passes(arg, allow, deny) for arg in node.args)
    if kind == "AND":
        return all(_passes(arg, allow, deny) for arg in node.args)
    name = str(node.license_symbol.key) if kind == "LicenseWithExceptionSymbol" else str(node.key)
    return name in allow and name not in deny  # an exception only ever adds permissions


@functools.lru_cache(maxsize=1)
def _spdx() -> Licensing:
    return get_spdx_licensing()


def _is_known(name: str) -> bool:
    symbol = _spdx().known_symbols.get(name)
    return symbol is not None or name.startswith("LicenseRef-")
