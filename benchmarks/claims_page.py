"""What benchmarks/claims.py found: claims, intervals, verdicts and the text of docs/claims.md.

Every number and every verdict on the page is computed from the result file, so the text cannot disagree with it.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

CONFIRMED, REFUTED, OPEN = "confirmed", "not confirmed", "cannot be told at this size"
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""degrees of freedom -> 97.5% quantile of Student's t"""
COMMAND = "python benchmarks/claims.py --write-docs"

Rows = Sequence[dict]


def _followed(name: str) -> Callable[[dict, Rows], float]:
    return lambda row, rows: row["followed"]["all"][name]


def _gain(row: dict, rows: Rows) -> float:
    """Loss in the new bucket minus that of the same model in the old one, before the hand-over."""
    (base,) = (r for r in rows if r.get("id") == row["after"])
    return row["val"][-1] - base["val"][-1]


class Metric(NamedTuple):
    """A number of a run."""

    label: str
    read: Callable[[dict, Rows], float]
    higher: bool = False
    """whether more is better"""
    digits: int = 3


METRICS = {
    "val": Metric("validation loss", lambda row, rows: row["val"][-1]),
    "loss": Metric("training loss", lambda row, rows: statistics.mean(row["loss"][-2:])),
    "motion": Metric("motion followed", _followed("motion"), True, 2),
    "color": Metric("colour followed", _followed("color"), True, 2),
    "shape": Metric("shape followed", _followed("shape"), True, 2),
    "ms": Metric("CPU ms a step", lambda row, rows: row["cpu_ms_step"], digits=1),
    "start": Metric("validation loss right after the hand-over", lambda row, rows: row["start"]["val"]),
    "start_motion": Metric(
        "motion followed right after the hand-over", lambda row, rows: row["start"]["followed"]["motion"], True, 2
    ),
    "gain": Metric("validation loss after, minus that before the hand-over", _gain),
    "val_image": Metric("validation loss on images", lambda row, rows: row["val_image"][-1]),
    "image_shape": Metric("shape of images followed", lambda row, rows: row["images_followed"]["shape"], True, 2),
    "added": Metric("seconds that the largest size adds to the smallest", lambda row, rows: row["added_s"], digits=2),
    "factor": Metric("time of the largest size over that of the smallest", lambda row, rows: row["factor"], digits=2),
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """One run is said to be better than another in a number."""

    group: str
    says: str
    source: str
    better: str
    worse: str
    metric: str
    margin: float = 0.0
    """by how much `better` may be worse: for claims that something costs nothing"""


LEARNS = "At equal steps LinGen learns more than a DiT of the same size, data and recipe"
AT_TIME = "It also does at equal time"
CLAIMS = (
    Claim("architecture", LEARNS, "slides; Fig. 10b", "LinGen", "DiT", "val"),
    Claim("architecture", LEARNS, "slides; Fig. 10b", "LinGen", "DiT", "motion"),
    Claim("architecture", AT_TIME, "follows from Fig. 6, 10", "LinGen", "DiT, equal time", "val"),
    Claim("architecture", AT_TIME, "follows from Fig. 6, 10", "LinGen", "DiT, equal time", "motion"),
    Claim("architecture", "TESA helps", "Fig. 11a, 12", "LinGen", "no TESA", "val"),
    Claim("architecture", "TESA helps", "Fig. 11a, 12", "LinGen", "no TESA", "motion"),
    Claim("architecture", "RMS helps", "Fig. 11a, 12", "LinGen", "no RMS", "val"),
    Claim("architecture", "RMS helps", "Fig. 11a, 12", "LinGen", "no RMS", "motion"),
    Claim("architecture", "RMS is as good as Zigzag", "Fig. 11b", "LinGen", "Zigzag", "val", 0.01),
    Claim("architecture", "RMS takes less time than Zigzag", "Table 2: 102 and 144 s", "LinGen", "Zigzag", "ms"),
    Claim("architecture", "Review tokens help", "Fig. 12", "LinGen", "no review tokens", "val"),
    Claim("architecture", "Review tokens help", "Fig. 12", "LinGen", "no review tokens", "motion"),
    Claim("architecture", "The MA-branch helps", "Table 2 counts its time", "LinGen", "no MA-branch", "val"),
    Claim("architecture", "The MA-branch helps", "Table 2 counts its time", "LinGen", "no MA-branch", "motion"),
    Claim(
        "architecture",
        "The MA-branch is worth its time",
        "Table 2",
        "LinGen",
        equal_ma := "no MA-branch, equal time",
        "val",
    ),
    Claim("architecture", "The MA-branch is worth its time", "Table 2", "LinGen", equal_ma, "motion"),
    Claim("clips", f"{LEARNS}, on real clips", "slides; Fig. 10b", "LinGen", "DiT", "val"),
    Claim("clips", "TESA helps on real clips", "Fig. 11a", "LinGen", "no TESA", "val"),
    Claim("clips", "RMS helps on real clips", "Fig. 11a", "LinGen", "no RMS", "val"),
    Claim("clips", "RMS is as good as Zigzag on real clips", "Fig. 11b", "LinGen", "Zigzag", "val", 0.01),
    Claim("clips", "Review tokens help on real clips", "Fig. 12", "LinGen", "no review tokens", "val"),
    Claim("clips", "The MA-branch helps on real clips", "Table 2", "LinGen", "no MA-branch", "val"),
    *(
        Claim("adaptation", says, "Fig. 10a", f"LinGen, {to}", f"DiT, {to}", metric)
        for to, words in (("larger", "larger videos"), ("longer", "longer videos"))
        for says, metric in (
            (f"Handed over to {words}, LinGen starts lower than DiT", "start"),
            (f"Handed over to {words}, LinGen ends lower than DiT", "val"),
            (f"Handed over to {words}, LinGen gains on DiT: its lead grows", "gain"),
            (f"Handed over to {words}, LinGen follows motion at once", "start_motion"),
            (f"Handed over to {words}, LinGen follows motion in the end", "motion"),
        )
    ),
    Claim("sizes", "A larger LinGen learns more", "premise of Fig. 9", "tiny", "small", "val"),
    Claim("sizes", "A larger LinGen learns more", "premise of Fig. 9", "large", "tiny", "val"),
    Claim("latency", "A larger size adds less time to LinGen than to DiT", "SUP Fig. 9", "LinGen", "DiT", "added"),
    Claim("latency", "Time grows by a smaller factor", "SUP Fig. 9, read otherwise", "LinGen", "DiT", "factor"),
    Claim("images", "Images at 1:100 keep the ability to make images", "SUP E.3.2", "1:100", "0", "val_image"),
    Claim("images", "Images at 1:100 keep the ability to make images", "SUP E.3.2", "1:100", "0", "image_shape"),
    Claim("images", "Images at 1:100 do not cost motion", "SUP E.3.2", "1:100", "0", "motion", 0.1),
    Claim("images", "Images at 1:100 do not cost video loss", "SUP E.3.2", "1:100", "0", "val", 0.01),
    Claim("images", "More images, 1:10, cost motion", "SUP E.3.2", "1:100", "1:10", "motion"),
    Claim("images", "More images, 1:10, cost video loss", "SUP E.3.2", "1:100", "1:10", "val"),
)


class Finding(NamedTuple):
    """A claim put to the test."""

    claim: Claim
    better: float
    worse: float
    advantage: float
    """of `better`, mean over seeds: positive when the claim holds"""
    low: float
    high: float
    seeds: int
    verdict: str


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval (Student's t); of a single value the interval is infinite."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = T_95.get(len(values) - 1, 1.96) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def verdict(low: float, high: float, margin: float = 0.0) -> str:
    """Confirmed if the whole interval of the advantage is above -margin, not confirmed if it is all below."""
    return CONFIRMED if low > -margin else REFUTED if high < -margin else OPEN


def values_of(rows: Rows, group: str, name: str, metric: str) -> dict[int, float]:
    """Seed -> a metric of a run."""
    found = {}
    for row in rows:
        if (row["group"], row["name"]) == (group, name):
            try:
                found[row["seed"]] = METRICS[metric].read(row, rows)
            except (KeyError, TypeError):  # not measured in this run
                continue
    return found


def judge(claim: Claim, rows: Rows) -> Finding | None:
    """Test a claim on pairs of runs of one seed: the same batches, noise and prompts. None without a pair."""
    better, worse = (values_of(rows, claim.group, name, claim.metric) for name in (claim.better, claim.worse))
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    sign = 1 if METRICS[claim.metric].higher else -1
    mean, low, high = interval([sign * (better[s] - worse[s]) for s in seeds])
    means = (statistics.fmean(of[s] for s in seeds) for of in (better, worse))
    return Finding(claim, *means, mean, low, high, len(seeds), verdict(low, high, claim.margin))


def rows_of(result: dict) -> list[dict]:
    """All runs; LinGen among the architectures also stands among the sizes, which are in order."""
    rows = result["runs"]
    sizes = [row for row in rows if row["group"] == "sizes"]
    if sizes:
        tiny = [
            r | {"group": "sizes", "name": "tiny", "id": None}
            for r in rows
            if (r["group"], r["name"]) == ("architecture", "LinGen")
        ]
        sizes = sorted([*sizes, *tiny], key=lambda row: row["parameters"])
    return [row for row in rows if row["group"] != "sizes"] + sizes


def findings(result: dict) -> list[Finding]:
    """Every claim for which there are runs."""
    rows = rows_of(result)
    return [found for claim in CLAIMS if (found := judge(claim, rows))]


def sentence(found: Finding) -> str:
    """A claim, what was measured and the verdict, in a sentence."""
    claim, metric = found.claim, METRICS[found.claim.metric]
    n = metric.digits

    side = "better" if found.advantage >= 0 else "worse"
    allowed = f", of which {claim.margin:g} worse is allowed" if claim.margin else ""
    return (
        f"**{claim.says}** ({claim.source}): **{found.verdict}**. {metric.label.capitalize()}: {claim.better} "
        f"{found.better:.{n}f}, {claim.worse} {found.worse:.{n}f}: {abs(found.advantage):.{n}f} {side}, "
        f"95% interval {span(found)}{allowed}."
    )


def span(found: Finding) -> str:
    """The interval of the advantage in words."""
    if math.isinf(found.low):
        return "unknown from one seed"
    n = METRICS[found.claim.metric].digits
    return f"{found.low:+.{n}f} to {found.high:+.{n}f}"


def with_interval(values: Sequence[float], digits: int) -> str:
    """Mean ± half the 95% interval."""
    if not values:
        return ""
    mean, low, high = interval(values)
    return f"{mean:.{digits}f}" + (f" ± {(high - low) / 2:.{digits}f}" if len(values) > 1 else "")


_COLUMNS = {
    "architecture": ("loss", "val", "color", "shape", "motion", "ms"),
    "adaptation": ("start", "val", "gain", "start_motion", "motion", "ms"),
    "sizes": ("loss", "val", "color", "shape", "motion", "ms"),
    "latency": ("added", "factor"),
    "images": ("val", "val_image", "image_shape", "color", "shape", "motion"),
    "clips": ("loss", "val", "ms"),
}


def table(rows: Rows, group: str) -> list[str]:
    """A Markdown table of means over seeds."""
    names = list(dict.fromkeys(row["name"] for row in rows if row["group"] == group))
    columns = [m for m in _COLUMNS[group] if any(values_of(rows, group, n, m) for n in names)]
    lines = ["| | runs | " + " | ".join(METRICS[m].label for m in columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name in names:
        count = sum((row["group"], row["name"]) == (group, name) for row in rows)
        cells = [with_interval([*values_of(rows, group, name, m).values()], METRICS[m].digits) for m in columns]
        lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    return lines


_SECTIONS = {
    "architecture": (
        "Architecture",
        'Scenes at 64p, 16 frames: a grid of 2x4x4 tokens. "Equal time" is a run of a much cheaper variant with as '
        "many steps as fit LinGen's CPU time; the others cost nearly as much as LinGen (last column). On this grid the "
        "review is a single token, one window of TESA spans everything, and self-attention is cheaper than MATE. What "
        "the paper builds for a hundred thousand tokens can show little here, and the cost of a DiT not at all "
        "([model.md](model.md) measures that, up to 65,536 tokens).",
    ),
    "clips": (
        "The same on real clips",
        "Pieces of a second of the videos in shared/clips at 64p; loss only. There are few clips, so this asks how "
        "well footage is fitted more than how well it generalises.",
    ),
    "adaptation": (
        "Adaptation to a larger and to a longer bucket",
        "The models of the first group, trained at 64p with 16 frames at equal steps, go on at 96p, and at 64p with 32 "
        "frames. A DiT that has not learnt motion before cannot be expected to follow it after: the change against its "
        "own loss before the hand-over is the fairer number.",
    ),
    "sizes": ("Model sizes: learning", "LinGen at three widths, four layers, equal steps."),
    "latency": (
        "Model sizes: time",
        "One forward pass over 8,192 tokens at the same three widths, repeated; a fourth of the paper's 35,904 tokens.",
    ),
    "images": (
        "Images among videos",
        "Images first, then videos mixed with images at three ratios, as in the paper's recipe.",
    ),
}


def page(result: dict) -> str:
    """The text of docs/claims.md."""
    found, machine, rows = findings(result), result["machine"], rows_of(result)
    count = {word: sum(f.verdict == word for f in found) for word in (CONFIRMED, REFUTED, OPEN)}
    lines = [
        "# The paper's claims at a size that a CPU can train",
        "",
        "Written by `python benchmarks/claims.py --write-docs` from "
        "[claims.json](../benchmarks/results/claims.json); do not edit. Of "
        f"{len(found)} tests, {', '.join(f'{n} {word}' for word, n in count.items())}.",
        "",
        f"{result['settings']} Machine: {machine['cpu']}, {machine['cores']} cores shared with other work, torch "
        f"{machine['torch']}, one thread, {machine['date']}, commit {machine['commit']}; {len(result['runs'])} runs, "
        f"{result['cpu_seconds']:,.0f} CPU seconds in all.",
        "",
        "    python benchmarks/claims.py --output FOLDER     # trains what is missing; kill it and call it again",
        "",
        "**The rule.** Two runs of one seed see the same batches, noise, validation samples and prompts, so their "
        "difference is taken per seed. Of these differences the mean and its 95% interval (Student's t over the seeds) "
        f"are given. A claim is *{CONFIRMED}* if the whole interval is on its side of zero (or of the stated margin, "
        f"for claims that something costs nothing), *{REFUTED}* if it is all on the other side, else it *{OPEN}*. "
        "Among this many tests at 95%, one or two may be wrong by chance. Nothing here is evidence about the 4B model.",
        "",
        "| claim | measured by | advantage | 95% interval | verdict |",
        "|---|---|---|---|---|",
    ]
    for f in found:
        n = METRICS[f.claim.metric].digits
        lines.append(
            f"| {f.claim.says} ({f.claim.better} against {f.claim.worse}) | {METRICS[f.claim.metric].label} | "
            f"{f.advantage:+.{n}f} | {span(f)} | {f.verdict} |"
        )
    for group, (title, text) in _SECTIONS.items():
        if not any(row["group"] == group for row in rows):
            continue
        lines += ["", f"## {title}", "", text, "", *table(rows, group)]
        lines += ["", f"![{title}](claims_{group}.svg)", "", f"Drawn by `{COMMAND}`."]
        lines += ["", *(f"- {sentence(f)}" for f in found if f.claim.group == group)]
    return "\n".join(lines) + "\n"
