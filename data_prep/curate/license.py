"""The licence gate: what may be used is decided from the manifest alone, before a byte of media is read.

Licences are SPDX expressions. `A OR B` passes when either passes, `A AND B` when both do. No stated licence means no
right to use: such a clip is dropped as license_unknown unless the user states a licence for the whole folder. A clip
without a caption is stopped here too, where captions are required: that is known from the manifest as well.
"""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from license_expression import ExpressionError, LicenseExpression, Licensing, get_spdx_licensing

MAX_LENGTH = 500
NO_CAPTION = "it has no caption"
NO_LICENSE = "no licence is stated"

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


OWN_TERMS = frozenset(["allrightsreserved", "commercial", "copyright", "internal", "own", "private", "proprietary"])
"""Words for terms that no public licence covers, as `_letters` writes them."""
_SHORT = {"cc0": "CC0-1.0", "apache2": "Apache-2.0", "apache20": "Apache-2.0", "publicdomain": "CC-PDM-1.0"}
"""What people write for ids that do not begin so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LicenseConfig:
    allow: tuple[str, ...] = PERMISSIVE
    """SPDX ids (or LicenseRef-ids) that may be used; everything else is dropped. Replaces the default list."""
    allow_also: tuple[str, ...] = ()
    """Ids that may be used besides those of --license.allow, such as CC-BY-SA-4.0, or LicenseRef-NAME for terms of your
    own (a contract, your own footage)."""
    deny: tuple[str, ...] = ()
    """SPDX ids that may not be used, even where --license.allow names them."""
    assume: str | None = None
    """Licence of clips that state none. You are responsible for it; the report says so in red."""

    def __post_init__(self):
        for field in ("allow", "allow_also", "deny"):
            for name in getattr(self, field):
                if not _is_known(name):
                    flag = field.replace("_", "-")
                    raise ValueError(f"--license.{flag}: {name!r} is not an SPDX id{_advice(name, in_flag=True)}")
        if self.assume is not None and decide(self.assume, self).verdict != "keep":
            answer = decide(self.assume, self)
            raise ValueError(f"--license.assume: {self.assume!r} would be dropped ({answer.reason}: {answer.detail})")

    def content(self) -> dict[str, object]:
        """What is digested; without `allow_also` where it is empty, as folders of earlier versions have none."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if name != "allow_also" or value}


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
    stage: str = "license"
    """The stage of the ledger that decided: license or caption."""


def gate(source: pa.Table, config: LicenseConfig, need_caption: bool = False) -> tuple[list[Decision], pa.Array]:
    """Decide what is known of every row without reading media: its licence, and whether it has a caption.

    Args:
        source: rows of sources.manifest.SCHEMA.
        config: which licences pass.
        need_caption: whether rows without a caption are dropped.

    Returns:
        The decision of each row, and the distinct URIs that may be read.
    """
    decisions = [decide(text, config) for text in source.column("license").to_pylist()]
    if need_caption:
        for i in np.flatnonzero(pc.equal(source["caption"], "").to_numpy()).tolist():
            if decisions[i].verdict == "keep":
                decisions[i] = Decision("drop", "caption_missing", decisions[i].license, NO_CAPTION, stage="caption")
    kept = pa.array([d.verdict == "keep" for d in decisions], pa.bool_())
    return decisions, pc.unique(source["uri"].filter(pc.and_(kept, pc.equal(source["bad"], ""))))


def decide(expression: str | None, config: LicenseConfig) -> Decision:
    """Decide one clip's licence.

    Reasons: license_unknown (none stated, or not an SPDX expression), license_denied, license_not_allowed.
    """
    text = " ".join((expression or "").split())
    if not text and config.assume is not None:
        text = config.assume
    return _decide(text, frozenset([*config.allow, *config.allow_also]), frozenset(config.deny))


@functools.lru_cache(maxsize=4096)
def _decide(text: str, allow: frozenset[str], deny: frozenset[str]) -> Decision:
    if not text:
        return Decision("drop", "license_unknown", "", NO_LICENSE)
    if len(text) > MAX_LENGTH:
        return Decision("drop", "license_unknown", text[:MAX_LENGTH], "too long for a licence expression")
    try:
        parsed = _spdx().parse(text)
    except (ExpressionError, RecursionError, ValueError, TypeError, AttributeError) as error:
        return Decision("drop", "license_unknown", text, f"not an SPDX expression: {str(error)[:100]}{_advice(text)}")
    names = [str(name) for name in _spdx().license_keys(parsed)]
    unknown = [name for name in names if not _is_known(name) and name not in allow]
    if unknown:
        return Decision("drop", "license_unknown", text, f"{unknown[0][:60]!r} is no SPDX id{_advice(unknown[0])}")
    normal = str(parsed)
    if _passes(parsed, allow, deny):
        return Decision("keep", "", normal)
    if not _passes(parsed, allow | set(names), deny):
        return Decision("drop", "license_denied", normal, f"{normal} is on the deny list")
    return Decision("drop", "license_not_allowed", normal, f"{normal} is not on the allow list")


def _advice(text: str, in_flag: bool = False) -> str:
    """What to write instead of a text that is no licence of SPDX, beginning with "; ".

    Args:
        text: as stated.
        in_flag: in a flag, and not in a column.
    """
    letters = _letters(text[:MAX_LENGTH])
    if letters in OWN_TERMS:
        allow = "" if in_flag else ", and allow it by --license.allow-also LicenseRef-NAME"
        return f"; for terms of your own write LicenseRef-NAME{allow}"
    plain = re.sub("^https?(www)?creativecommonsorglicen[sc]es", "cc", letters)
    plain = re.sub("licen[sc]ed?|international|unported|version", "", plain).replace("creativecommons", "cc")
    plain = plain.replace("attribution", "by").replace("sharealike", "sa").replace("noncommercial", "nc")
    meant = _SHORT.get(plain) or _by_letters().get(plain) or _by_letters().get(letters)
    if meant:
        return f"; did you mean {meant}?"
    versions = [name for name in PERMISSIVE if plain and _letters(name).startswith(plain)]
    return f"; did you mean {' or '.join(versions[:6])}?" if versions else "; see spdx.org/licenses"


def _letters(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


@functools.lru_cache(maxsize=1)
def _by_letters() -> dict[str, str]:
    """Every SPDX id by its letters and digits."""
    return {_letters(name): name for name in _spdx().known_symbols}


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
