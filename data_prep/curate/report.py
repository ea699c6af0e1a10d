"""report.html: the report of a curation for a person to read. One static file, no scripts, nothing loaded from outside.

Everything that comes from manifests is escaped; pictures are JPEG data that we encoded ourselves.

N: clips.
"""

from __future__ import annotations

import base64
import html
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep.curate.candidates import Candidates
from data_prep.curate.ledger import Ledger
from data_prep.curate.result import CurationResult, Summary
from data_prep.curate.scores import stills_inside
from data_prep.curate.thresholds import ThresholdOutcome
from data_prep.measure.store import Store
from lingen.io.progress import length
from lingen.io.redact import redact

SHEET = 24
"""Clips per contact sheet."""

Sheet = list[tuple[int, ThresholdOutcome | None]]
"""Clips, each with the threshold that it is shown for, if any."""

LENGTHS_S = (2, 4, 8, 17, 34, 68)
"""Edges of the classes of video lengths."""

STYLE = """
:root{color-scheme:light dark;--line:#8884;--keep:#2a9d5c;--drop:#d1495b;--bar:#5b8def}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem;border-bottom:1px solid var(--line)}
table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
.errors td{overflow-wrap:anywhere}td:first-child{white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.tiles{display:flex;flex-wrap:wrap;gap:1.6rem}.tile b{display:block;font-size:1.6rem}
.loud{background:#d1495b;color:#fff;padding:.8rem 1rem;border-radius:.4rem;font-weight:600}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.8rem}
figure{margin:0;font-size:.78rem;overflow-wrap:anywhere}
figure img{width:100%;height:7rem;object-fit:contain;background:#0002}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(18rem,1fr));gap:1rem}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:currentColor}
.bar{display:inline-block;height:.7rem;background:var(--bar);vertical-align:middle}
.keep{color:var(--keep)}.drop,.error{color:var(--drop)}
"""


def write(
    path: Path, source: str, assumed_license: str | None, result: CurationResult, summary: Summary, stills: Store
) -> None:
    """Write the report of one curation.

    Args:
        path: the file to write.
        source: what was curated, as the user named it.
        assumed_license: the licence assumed for clips that state none.
        result: the decisions.
        summary: their counts.
        stills: pictures by content hash, of examine.STILL_SCHEMA.
    """
    found, ledger, outcomes = result.found, result.ledger, result.outcomes
    parts = [
        f"<h1>Curation of {_e(source)}</h1>",
        _assumed(assumed_license),
        _tiles(summary),
        "<h2 id=reasons>Why clips were left out</h2>" + _reasons(found, summary, outcomes),
        "<h2 id=licenses>Licences of what was kept</h2>" + _licenses(summary),
        "<h2 id=scores>Scores and thresholds</h2>" + _histograms(outcomes),
        "<h2 id=lengths>Lengths and shapes of what was kept</h2>" + _shapes(found, ledger),
        _concepts(result),
        "<h2 id=sheets>Contact sheets</h2>" + _sheets(result, stills),
        _errors(found, ledger),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>Curation report</title>'
        f"<style>{STYLE}</style>"
    )
    path.write_text(head + "\n".join(part for part in parts if part) + "</html>\n", "utf-8")


def _e(text: object) -> str:
    return html.escape(redact(str(text)), quote=True)


def _assumed(license: str | None) -> str:
    if license is None:
        return ""
    return (
        f"<p class=loud id=assumed>The licence {_e(license)} was ASSUMED for every clip that states none "
        "(--license.assume). Nobody has checked it; whoever ran this answers for it.</p>"
    )


def _tiles(summary: Summary) -> str:
    tiles = [
        (summary.inputs, "inputs"),
        (summary.clips, "clips and inputs judged"),
        (summary.kept, "kept"),
        (summary.dropped, "dropped"),
        (summary.errors, "errors"),
        (length(summary.hours_kept), f"of video kept, of {length(summary.hours_measured)} measured"),
        (length(summary.hours_left_over), "left over, too short for a clip"),
        (summary.images_kept, "photographs kept"),
        (summary.files_read, "files read in this run"),
    ]
    return "<div class=tiles id=counts>" + "".join(f"<div class=tile><b>{a}</b>{b}</div>" for a, b in tiles) + "</div>"


def _reasons(found: Candidates, summary: Summary, outcomes: Sequence[ThresholdOutcome]) -> str:
    any_failing = Counter(summary.reasons)
    before_filter = Counter(found.array("reason")[~found.usable].tolist())
    for rule in outcomes:
        any_failing[rule.reason] = before_filter[rule.reason] + int((~rule.passed).sum())
    most = max([*any_failing.values(), 1])
    rows = "".join(
        f"<tr><td>{_e(reason)}</td><td class=n>{summary.reasons.get(reason, 0)}</td><td class=n>{count}</td>"
        f'<td><span class=bar style="width:{12 * count / most:.2f}rem"></span></td></tr>'
        for reason, count in any_failing.most_common()
        if count
    )
    head = "<tr><th>reason<th>first reason<th>would fail it<th></tr>"
    return f"<table>{head}{rows}</table>" if rows else "<p>Nothing was left out.</p>"


def _licenses(summary: Summary) -> str:
    rows = "".join(f"<tr><td>{_e(k)}</td><td class=n>{v}</td></tr>" for k, v in summary.licenses.items())
    return f"<table>{rows}</table>" if rows else "<p>Nothing was kept.</p>"


def _histograms(outcomes: Sequence[ThresholdOutcome]) -> str:
    plots = [_histogram(rule) for rule in outcomes if np.isfinite(rule.score).sum() > 1]
    note = "<p>Clips against score; heights are square roots of counts, so that rare ones stay visible.</p>"
    return f"{note}<div class=plots>{''.join(plots)}</div>" if plots else "<p>No clip was measured.</p>"


def _histogram(rule: ThresholdOutcome, bins: int = 40) -> str:
    """Bars of one score, those beyond the threshold in the colour of dropped clips, and the threshold as a line."""
    values = rule.score[np.isfinite(rule.score)]
    low, high = min(values.min(), rule.threshold), max(values.max(), rule.threshold)
    high = high if high > low else low + 1
    counts, edges = np.histogram(values, bins, (low, high))
    width, height, foot = 320.0, 110.0, 18.0

    def x(value: float) -> float:
        return (value - low) / (high - low) * width

    bars = []
    for count, left, right in zip(counts, edges, edges[1:]):
        middle = (left + right) / 2
        inside = middle >= rule.threshold if rule.rule.startswith("min_") else middle <= rule.threshold
        h = height * float(np.sqrt(count / max(counts.max(), 1)))
        colour = "var(--keep)" if inside else "var(--drop)"
        bars.append(
            f'<rect x="{x(left):.1f}" y="{height - h:.1f}" width="{width / bins - 0.5:.1f}" height="{h:.1f}" '
            f'fill="{colour}"><title>{left:.3g} to {right:.3g}: {count}</title></rect>'
        )
    at = x(rule.threshold)
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}" stroke="currentColor" stroke-dasharray="3 2"/>'
    failing = int((~rule.passed).sum())
    label = f"{rule.rule.replace('_', ' ')} {rule.threshold:.3g}: {failing} of {len(values)} fail"
    ticks = (
        f'<text x="0" y="{height + foot - 4}">{low:.4g}</text>'
        f'<text x="{width}" y="{height + foot - 4}" text-anchor="end">{high:.4g}</text>'
    )
    return (
        f'<div>{_e(label)}<svg viewBox="0 0 {width:.0f} {height + foot:.0f}">{"".join(bars)}{line}{ticks}</svg></div>'
    )


def _shapes(found: Candidates, ledger: Ledger) -> str:
    """Hours by length, and clips by shape: what the trainer's buckets can be filled with."""
    kept = ledger.kept
    seconds = found.array("seconds")
    videos = kept & np.isfinite(seconds)
    classes = []
    for low, high in zip((0, *LENGTHS_S), (*LENGTHS_S, np.inf)):
        here = videos & (seconds >= low) & (seconds < high)
        name = f"{low:g} s and more" if high == np.inf else f"{low:g} to {high:g} s"
        classes.append((name, int(here.sum()), float(seconds[here].sum() / 3600)))
    lengths = "".join(f"<tr><td>{a}</td><td class=n>{b}</td><td class=n>{length(c)}</td></tr>" for a, b, c in classes)
    width, height = (found.array(n)[kept] for n in ("width", "height"))
    shapes = Counter(
        "wide" if w > 1.15 * h else "tall" if h > 1.15 * w else "square" for w, h in zip(width, height)
    ).most_common()
    rows = "".join(f"<tr><td>{shape}</td><td class=n>{count}</td></tr>" for shape, count in shapes)
    return f"<table><tr><th>video length<th>clips<th>in all</tr>{lengths}</table><p></p><table>{rows}</table>"


def _concepts(result: CurationResult) -> str:
    """Sizes of concepts before and after balancing."""
    concepts = result.concepts
    if concepts is None or not (concepts >= 0).any():
        return ""
    before = Counter(concepts[concepts >= 0].tolist())
    after = Counter(concepts[result.ledger.kept].tolist())
    most = max(before.values())
    rows = "".join(
        f'<tr><td>{k}</td><td class=n>{n}</td><td class=n>{after[k]}</td><td><span class=bar style="width:'
        f'{10 * n / most:.2f}rem;opacity:.4"></span><br><span class=bar style="width:{10 * after[k] / most:.2f}rem">'
        "</span></td></tr>"
        for k, n in before.most_common(40)
    )
    head = "<tr><th>concept<th>before<th>after<th></tr>"
    return f"<h2 id=concepts>Concepts before and after balancing</h2><table>{head}{rows}</table>"


def _sheets(result: CurationResult, stills: Store) -> str:
    """Kept clips, the ones nearest to a threshold on either side, dropped ones of every reason, and the quality set."""
    found, ledger, outcomes = result.found, result.ledger, result.outcomes
    has_still = found.usable | found.left_over
    rules = {rule.reason: rule for rule in outcomes}
    dropped = _each_reason(np.flatnonzero(has_still & (ledger.verdict == "drop")), ledger.reason)
    sheets: dict[str, Sheet] = {
        "Kept": [(i, None) for i in _spread(np.flatnonzero(ledger.kept))],
        "Borderline: nearest to a threshold": _borderline(outcomes, has_still & (ledger.verdict != "error")),
        "Dropped": [(i, rules.get(ledger.reason[i])) for i in dropped],
    }
    if result.proposals:
        taken = [proposal.clip for proposal in result.proposals if proposal.taken]
        sheets["Quality set, best first, as in quality.csv"] = [(i, None) for i in taken[: 4 * SHEET]]
    wanted = {str(found.value("content_hash", i)) for sheet in sheets.values() for i, _ in sheet}
    pictures = {row["key"]: row for row in stills.rows(keys=wanted)} if wanted else {}
    out = []
    for title, sheet in sheets.items():
        figures = "".join(_figure(found, ledger, i, rule, pictures) for i, rule in sheet)
        out.append(f"<h3>{title} ({len(sheet)} shown)</h3><div class=sheet>{figures or '<p>None.</p>'}</div>")
    return "".join(out)


def _spread(indices: np.ndarray, most: int = SHEET) -> list[int]:
    """At most `most` of the indices, evenly spaced."""
    if not len(indices):
        return []
    return indices[np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(int)].tolist()


def _borderline(outcomes: Sequence[ThresholdOutcome], eligible: np.ndarray, most: int = SHEET) -> Sheet:
    """The clips nearest to a threshold, in standard deviations of its score; rules take turns. eligible: bool (N,)."""
    queues = []
    for rule in outcomes:
        spread = np.nanstd(rule.score) if np.isfinite(rule.score).any() else 0.0
        gap = np.where(eligible, np.abs(rule.score - rule.threshold) / (spread or np.inf), np.nan)
        queues.append([(int(i), rule) for i in np.argsort(gap, kind="stable")[:most] if gap[i] < 0.25 and spread])
    out: dict[int, ThresholdOutcome | None] = {}
    for turn in itertools.zip_longest(*queues):
        for i, rule in filter(None, turn):
            out.setdefault(i, rule)
    return list(out.items())[:most]


def _each_reason(indices: np.ndarray, reasons: np.ndarray, most: int = SHEET) -> list[int]:
    """At most `most` of the indices: reasons take turns, and the result is grouped by reason."""
    by_reason: dict[str, list[int]] = {}
    for i in indices:
        by_reason.setdefault(reasons[i], []).append(int(i))
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_reason.values()))
    chosen = set(itertools.islice((i for i in turns if i is not None), most))
    return [i for group in by_reason.values() for i in group if i in chosen]


def _figure(
    found: Candidates, ledger: Ledger, i: int, rule: ThresholdOutcome | None, pictures: Mapping[str, dict]
) -> str:
    """One clip; rule: the threshold that it is shown for, or None."""
    clip = found.table.slice(i, 1).to_pylist()[0]
    row = pictures.get(clip["content_hash"])
    image = ""
    if row:
        at = stills_inside(row["still_s"], clip["start_s"], clip["end_s"])
        data = base64.b64encode(row["jpeg"][at[len(at) // 2]]).decode()
        image = f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{data}">'
    span = f" {clip['start_s']:.1f} to {clip['end_s']:.1f} s" if clip["end_s"] else ""
    shown = ("motion", "scene_motion", "technical", "brightness")
    scores = ", ".join(f"{n.replace('_', ' ')} {clip[n]:.2f}" for n in shown if np.isfinite(clip[n]))
    verdict = ledger.verdict[i]
    name = clip["uri"].rsplit("/", 1)[-1]
    reason = f": {_e(ledger.reason[i])}" if ledger.reason[i] else ""
    limit = (
        f"<br><b>{rule.rule[4:].replace('_', ' ')} {rule.score[i]:.3g}, limit {rule.threshold:.3g}</b>" if rule else ""
    )
    return (
        f"<figure>{image}<figcaption><b class={verdict}>{verdict}{reason}</b>{limit}<br>{_e(name)}{span}<br>{scores}"
        f"<br>{_e(clip['caption'][:160])}</figcaption></figure>"
    )


def _errors(found: Candidates, ledger: Ledger, most: int = 60) -> str:
    """What could not be read, a few of each reason, with the ledger's detail, such as the command that replays it."""
    errors = np.flatnonzero(ledger.verdict == "error")
    if not len(errors):
        return ""
    rows = "".join(
        f"<tr><td>{_e(ledger.reason[i])}</td><td>{_e(str(found.value('uri', i)).rsplit('/', 1)[-1])}</td>"
        f"<td>{_e(found.value('detail', i))}</td></tr>"
        for i in _each_reason(errors, ledger.reason, most)
    )
    head = "<tr><th>reason<th>file<th>detail</tr>"
    shown = min(most, len(errors))
    title = f"What could not be read ({shown} of {len(errors)}; all are in ledger.parquet)"
    return f"<h2 id=errors>{title}</h2><table class=errors>{head}{rows}</table>"
