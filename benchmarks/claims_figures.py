"""The figures of docs/claims.md, drawn from the result file of benchmarks/claims.py."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path

from claims_page import METRICS, Rows, page, rows_of


def _names(rows: Rows) -> list[str]:
    """The rows' names, each once, in order."""
    return list(dict.fromkeys(row["name"] for row in rows))


def _curves(axis, rows: Rows, names: Sequence[str], x: str, y: str = "val") -> None:
    """Mean over seeds, and every seed faintly."""
    for i, name in enumerate(names):
        runs = [row for row in rows if row["name"] == name]
        style = {"color": f"C{i % 10}", "linestyle": "--" if "equal time" in name else "-"}
        points = [[*zip(row[x], row[y])] for row in runs]
        for line in points:
            axis.plot(*zip(*line), alpha=0.25, linewidth=0.7, **style)
        mean = [tuple(statistics.fmean(v) for v in zip(*at)) for at in zip(*points)]
        axis.plot(*zip(*mean), label=name, linewidth=1.3, **style)
    axis.set_yscale("log")
    axis.grid(alpha=0.3, which="both")
    axis.set_xlabel({"step": "steps", "cpu_s": "CPU seconds"}[x])
    axis.set_ylabel("validation loss")


def _dots(axis, rows: Rows, metric: str) -> None:
    """Every run as a dot, by name."""
    names = _names(rows)
    for i, name in enumerate(names):
        values = [METRICS[metric].read(row, rows) for row in rows if row["name"] == name]
        axis.plot(values, [i] * len(values), "o", alpha=0.6, markersize=5, color=f"C{i % 10}")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.set_xlabel(METRICS[metric].label)


def _draw_architecture(rows: Rows, plt):
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    names = _names(rows)
    _curves(axes[0], rows, [n for n in names if "equal time" not in n], "step")
    axes[0].legend(fontsize=7)
    _curves(axes[1], rows, names, "cpu_s")
    dashed = [line for line in axes[1].get_lines() if "equal time" in str(line.get_label())]
    axes[1].legend(handles=dashed, fontsize=7)
    if all("followed" in row for row in rows):
        _dots(axes[2], rows, "motion")
        axes[2].axvline(0.25, color="grey", linestyle=":")  # chance
    return figure


def _draw_adaptation(rows: Rows, plt):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, to in zip(axes, ("larger", "longer")):
        of = [r | {"step": [0, *r["step"]], "val": [r["start"]["val"], *r["val"]]} for r in rows if to in r["name"]]
        _curves(axis, of, _names(of), "step")
        axis.legend(fontsize=8)
    return figure


def _draw_curves(rows: Rows, plt, fontsize: int = 8):
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    _curves(axis, rows, _names(rows), "step")
    axis.legend(fontsize=fontsize)
    return figure


def _draw_latency(rows: Rows, plt):
    figure, axis = plt.subplots(figsize=(4.6, 3.6))
    for name in _names(rows):
        runs = [row for row in rows if row["name"] == name]
        middle = [statistics.median(of) for of in zip(*(row["seconds"] for row in runs))]
        axis.plot([count / 1e6 for count in runs[0]["parameters"]], middle, "o-", label=name)
    axis.set_xlabel("million parameters")
    axis.set_ylabel("CPU seconds, forward, 8,192 tokens")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _draw_images(rows: Rows, plt):
    rows = [row for row in rows if row["name"] != "images first"]
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.6))
    for axis, metric in zip(axes, ("val", "val_image", "motion")):
        _dots(axis, rows, metric)
    return figure


FIGURES = {
    "architecture": _draw_architecture,
    "clips": functools.partial(_draw_curves, fontsize=7),
    "adaptation": _draw_adaptation,
    "sizes": _draw_curves,
    "latency": _draw_latency,
    "images": _draw_images,
}


def write_docs(result: dict, folder: Path) -> None:
    """Write claims.md and draw its figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "claims"  # equal results, equal files
    for group, draw in FIGURES.items():
        rows = [row for row in rows_of(result) if row["group"] == group]
        if rows:
            figure = draw(rows, plt)
            figure.tight_layout()
            figure.savefig(folder / f"claims_{group}.svg", metadata={"Date": None})
            plt.close(figure)
    (folder / "claims.md").write_text(page(result))
