"""A finished curation in words, from its ledger: what became of one file, and what to do when nothing was kept."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.curate.ledger import FINAL, SCHEMA
from data_prep.curate.license import NO_LICENSE
from data_prep.curate.thresholds import REASONS, SCORE_OF
from data_prep.media.errors import replay, shell_word

LEDGER, SCORES = "ledger.parquet", "scores.parquet"
MOST_COMPARED = 20_000
"""File names that are compared with one that was not found."""

_HELP = {
    "license_unknown": "write SPDX ids such as CC-BY-4.0 in the column license (spdx.org/licenses), or LicenseRef-NAME "
    "for terms of your own, with --license.allow-also LicenseRef-NAME",
    "license_not_allowed": "--license.allow-also {license} adds a licence to the list, if you may use it",
    "license_denied": "leave it out of --license.deny",
    "caption_missing": "write clip.txt beside clip.mp4, or fill the column caption (--columns caption=YOURS if it has "
    "another name); --caption.missing keep takes clips without",
    "taken_down": "the list of --takedown names it",
    "file_missing": "relative names start at the manifest's folder; --columns uri=YOURS if another column has the path",
    "outside_root": "--source.roots FOLDER allows media in other folders",
    "scheme_not_allowed": "--source.schemes file s3 gs abfs https allows more kinds of addresses",
    "unsafe_uri": "write addresses without user, password, query and fragment",
    "too_short": "--spans.min-s SECONDS takes shorter clips",
    "leftover": "leave out --spans.lengths-s and --spans.stages to take shots of any length",
    "dissolve": "--shots.max-misfit 0 leaves dissolves in",
    "near_duplicate": "--duplicates.max-bits None keeps near-duplicates",
    "not_measured": "run without --refilter",
    "unsupported_codec": "convert the files, to H.264 in mp4 for one",
    "too_large": "--decode.max-file-gb GB takes larger files",
}
_PLAIN = {
    "license_unknown": "the licence is not stated, or cannot be understood",
    "license_not_allowed": "the licence is not on the allow list",
    "license_denied": "the licence is on the deny list",
    "caption_missing": "there is no caption",
    "file_missing": "there is no such file",
    "duplicate_content": "the same file is there twice",
    "near_duplicate": "the same footage is there, better",
    "too_short": "the shot is too short",
    "leftover": "the rest of a shot is too short for the lengths asked for",
    "dissolve": "one shot fades into another",
    "balanced_out": "its concept has enough clips",
}


def why_nothing_was_kept(folder: Path) -> list[str]:
    """The main reason, one example, and what helps, as lines; none if a clip was kept.

    Args:
        folder: of a finished curation.
    """
    final = _read(folder / LEDGER, ["verdict", "reason"], ("stage", "=", FINAL))
    if not len(final) or "keep" in final["verdict"].to_pylist():
        return []
    (reason, count), *_ = Counter(final["reason"].to_pylist()).most_common(1)
    columns = ["uri", "stage", "reason", "detail", "score", "threshold"]
    stopped = _read(folder / LEDGER, columns, ("reason", "=", reason), ("stage", "!=", FINAL))
    example = stopped.slice(0, 1).to_pylist()[0]
    lines = [
        f"nothing was kept; the main reason, for {count} of {len(final)}: {reason}, {_plain(reason)}",
        f"  for example {_short(example['uri'], example['reason'])}: {_because(example)}",
        f"  what helps: {_help(example)}",
    ]
    if example["stage"] == "license" and not any(_captions(folder)):
        lines.append(f"  and then, as there is no caption either: {_HELP['caption_missing']}")
    return [*lines, f"  every decision: python jobs/show.py {shell_word(str(folder))} [--why FILE]"]


def _captions(folder: Path) -> list[str]:
    return pc.unique(pq.read_table(folder / SCORES, columns=["caption"])["caption"]).to_pylist()


def summary_lines(ledger: Path, limit: int = 10) -> Iterator[str]:
    """A ledger as text: how many clips were kept, and why others were not.

    Args:
        ledger: the file.
        limit: reasons to list.
    """
    final = _read(ledger, ["verdict", "reason", "uri"], ("stage", "=", FINAL))
    verdicts = Counter(final["verdict"].to_pylist())
    files = len(pc.unique(final["uri"]))
    yield f"{ledger}: {len(final)} clips of {files} files"
    yield f"  {verdicts['keep']} kept, {verdicts['drop']} dropped, {verdicts['error']} errors"
    reasons = Counter(r for r in final["reason"].to_pylist() if r)
    for reason, count in reasons.most_common(limit):
        first = pc.index(final["reason"], reason).as_py()
        yield f"  {count:6} {reason}: {_plain(reason)}; for example {_short(final['uri'][first].as_py())}"
    if len(reasons) > limit:
        yield f"  ... and {len(reasons) - limit} more reasons (--limit)"
    yield f"why a file was dropped: python jobs/show.py {shell_word(str(ledger.parent))} --why FILE"


def tell(ledger: Path, name: str, limit: int = 10) -> Iterator[str]:
    """What became of the files that a name may mean, in words.

    Args:
        ledger: the file.
        name: a file's name, the end of its path, its uri, or a clip_id.
        limit: files to tell of.

    Raises:
        ValueError: nothing has this name.
    """
    final = _read(ledger, ["uri", "clip_id"], ("stage", "=", FINAL))
    uris = list(dict.fromkeys(final["uri"].to_pylist()))
    clips = dict(zip(final["clip_id"].to_pylist(), final["uri"].to_pylist()))
    found = _matching(name, uris, clips)
    if not found:
        raise ValueError(f"--why: {_nothing_named(name, ledger, uris)}")
    names = [field.name for field in SCHEMA]
    for uri in found[:limit]:
        rows = _read(ledger, names, ("uri", "=", uri)).to_pylist()
        rows.sort(key=lambda row: row["row"])  # stable: stages stay in order
        by_clip: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_clip.setdefault(row["clip_id"], []).append(row)
        yield uri
        for clip, decisions in by_clip.items():
            if name in by_clip and clip != name:
                continue
            yield from _clip_lines(decisions, clips)
    if len(found) > limit:
        yield f"... and {len(found) - limit} more files of this name (--limit)"


def _clip_lines(decisions: Sequence[dict[str, Any]], clips: dict[str, str]) -> Iterator[str]:
    """One clip: its verdict, what stopped it, what else would have, and what it passed."""
    *stages, final = decisions
    stopped = [row for row in stages if row["verdict"] != "keep"]
    what = f"  {_span(final['clip_id'])} (row {final['row']} of the source, {final['clip_id']})"
    if not stopped:
        yield f"{what}: kept"
    else:
        first = stopped[0]
        word = {"drop": "dropped", "error": "error"}[first["verdict"]]
        yield f"{what}: {word} at {first['stage']}, {first['reason']}: {_because(first)}{_same_as(first, clips)}"
        yield f"    what helps: {_help(first)}"
        if first["stage"] == "read" and first["reason"] != "file_missing" and "replay:" not in first["detail"]:
            yield f"    replay: {replay(first['uri'])}"
        for row in stopped[1:]:
            yield f"    would also be dropped at {row['stage']}, {row['reason']}: {_because(row)}"
    passed = [row for row in stages if row["verdict"] == "keep"]
    scored = [_against(row) for row in passed if row["stage"] in REASONS and row["score"] is not None]
    others = [row["stage"] for row in passed if row["stage"] not in REASONS and row["stage"] != "quality"]
    if others:
        yield f"    passed: {', '.join(others)}"
    if scored:
        yield f"    passed: {', '.join(scored)}"
    for row in passed:
        if row["stage"] == "quality":
            chosen = "proposed for" if row["reason"] == "quality_selected" else "taken out by hand of"
            yield f"    {chosen} the quality set, rank {row['score']:.3g}"


def _span(clip_id: str) -> str:
    """Which part of the file a clip_id names."""
    times = re.fullmatch(r"[0-9a-f]+-(\d+)-(\d+)", clip_id)
    if not times:
        return "whole file"
    start, end = (int(t) / 1000 for t in times.groups())
    return f"{start:g} to {end:g} s" if end else "photograph"


def _because(row: dict[str, Any]) -> str:
    """Why a stage did not keep a clip."""
    if row["score"] is not None and row["stage"] in REASONS:
        word = "below" if row["stage"].startswith("min_") else "above"
        return f"{_score_name(row['stage'])} {row['score']:.3g} is {word} {row['threshold']:.3g}"
    return row["detail"] or _plain(row["reason"])


def _against(row: dict[str, Any]) -> str:
    """A score against its threshold."""
    word = "at least" if row["stage"].startswith("min_") else "at most"
    return f"{_score_name(row['stage'])} {row['score']:.3g} ({word} {row['threshold']:.3g})"


def _score_name(rule: str) -> str:
    return SCORE_OF[rule].replace("_", " ")


def _help(row: dict[str, Any]) -> str:
    """Which flag changes a decision, or what to do."""
    if row["stage"] in REASONS:
        return f"--filter.{row['stage'].replace('_', '-')} VALUE, or None for no limit; --what-if tries others"
    if row["reason"] == "license_unknown" and row["detail"] == NO_LICENSE:
        return (
            "--license.assume NAME states the licence of all clips that state none: CC0-1.0, CC-BY-4.0 ..., or for "
            "your own footage LicenseRef-mine, with --license.allow-also LicenseRef-mine"
        )
    licence = row["detail"].partition(" is not on")[0]
    helps = _HELP.get(row["reason"], "").format(license=licence if re.fullmatch(r"[\w.-]+", licence) else "NAME")
    if not helps and row["stage"] == "read":
        return "another copy of the file; docs/curation.md explains the reasons"
    return helps or "see docs/curation.md"


def _plain(reason: str) -> str:
    """A reason of the ledger in words."""
    rule = next((rule for rule, name in REASONS.items() if name == reason), None)
    if reason in _PLAIN or rule is None:
        return _PLAIN.get(reason, reason.replace("_", " "))
    return f"{_score_name(rule)} is too {'low' if rule.startswith('min_') else 'high'}"


def _same_as(row: dict[str, Any], clips: dict[str, str]) -> str:
    """The file of the clip that a near-duplicate repeats."""
    other = clips.get(row["detail"].rpartition(" ")[2]) if row["reason"] == "near_duplicate" else None
    return f", of {_short(other)}" if other else ""


def _matching(name: str, uris: Iterable[str], clips: dict[str, str]) -> list[str]:
    """URIs that a name means: of a clip or of a sample of it, in full, or by the end of the path."""
    if name in clips:
        return [clips[name]]
    end = "/" + name.removeprefix("./").lstrip("/")
    absolute = str(Path(name).absolute())
    found = [uri for uri in uris if uri in (name, absolute) or uri.endswith(end)]
    if not found and (of_sample := {uri for clip, uri in clips.items() if name.startswith(f"{clip}-")}):
        return sorted(of_sample)
    return found or [uri for uri in uris if Path(uri).stem == name]


def _nothing_named(name: str, ledger: Path, uris: Sequence[str]) -> str:
    names = list(dict.fromkeys(map(_short, uris[:MOST_COMPARED])))
    by_letters = {n.lower(): n for n in names}
    near = [n for low, n in by_letters.items() if name.lower() in low or low in name.lower()][:3]
    near = near or [by_letters[low] for low in difflib.get_close_matches(name.lower(), by_letters, cutoff=0.5)]
    meant = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(names[:3])} ..."
    return f"no file or clip of {ledger} is named {name!r}; {meant}"


def _short(uri: str, reason: str = "") -> str:
    """A file's name; where it is the place that is wrong, all of its path."""
    return uri if reason in ("file_missing", "outside_root") else uri.rpartition("/")[2] or uri


def _read(ledger: Path, columns: list[str], *filters: tuple[str, str, str]) -> pa.Table:
    """Some columns of the ledger's rows that pass all filters.

    Raises:
        ValueError: the file is no ledger.
    """
    try:
        return pq.read_table(ledger, columns=columns, filters=list(filters))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{ledger} is not readable as the ledger of a curation: {str(error)[:200]}") from None
