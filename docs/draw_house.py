"""Draw docs/house.svg from the imports: storeys, rooms, what is in each, and which room uses which.

    python docs/draw_house.py [OUTPUT]      (make house)

Storeys and the order of rooms come from import-linter's contracts in pyproject.toml, arrows from the code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
STOREYS = {
    "jobs": "what people launch, one file a command",
    "pipelines": "recipes and workflow, Ray Train around the loops, MLflow",
    "data_prep": "curation and encoding on Ray Data",
    "lingen": "the model and all that runs without Ray and MLflow",
}
COLOURS = {"jobs": "#f3e3c3", "pipelines": "#d8e6f3", "data_prep": "#dcefd9", "lingen": "#eadcf0"}
WIDTH, MARGIN, GAP, LINE, TITLE = 1180, 24, 26, 15, 22
CHARACTER = 6.75  # width of a letter of the modules' font


def rows_of_rooms(storey: str) -> list[list[str]]:
    """The rooms of a storey from top to bottom, as the contracts order them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found = [c["layers"] for c in contracts if c.get("containers") == [storey]]
    return [[room.strip() for room in layer.split("|")] for layer in found[0]] if found else [[""]]


def contents(storey: str, room: str) -> list[str]:
    """Names of the modules in a room; a room of one file has none."""
    folder = ROOT / storey / room if room else ROOT / storey
    names = sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
    inner = sorted(p.name + "/" for p in folder.iterdir() if (p / "__init__.py").is_file()) if folder.is_dir() else []
    return names + (inner if room else [])


def wrapped(names: list[str], width: float) -> list[str]:
    """Names in lines of at most `width` pixels."""
    lines = [""]
    for name in names:
        longer = f"{lines[-1]} · {name}" if lines[-1] else name
        if lines[-1] and len(longer) * CHARACTER > width:
            lines.append(name)
        else:
            lines[-1] = longer
    return lines


def draw() -> str:
    """The picture as SVG text."""
    graph = grimp.build_graph(*STOREYS, cache_dir=None)
    bands: list[str] = []
    shapes: list[str] = []
    boxes: dict[str, tuple[float, float, float, float]] = {}
    top = MARGIN
    for storey, purpose in STOREYS.items():
        start, top = top, top + TITLE + 14
        for layer in rows_of_rooms(storey):
            width = (WIDTH - 2 * MARGIN - 24 - (len(layer) - 1) * GAP) / len(layer)
            texts = [wrapped(contents(storey, room), width - 20) for room in layer]
            height = TITLE + 10 + LINE * max(len(t) if t != [""] else 0 for t in texts)
            for i, (room, lines) in enumerate(zip(layer, texts)):
                x = MARGIN + 12 + i * (width + GAP)
                boxes[f"{storey}.{room}".rstrip(".")] = (x, top, width, height)
                shapes.append(f'<rect x="{x:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="6"/>')
                title = f"{storey}/{room}".rstrip("/")
                shapes.append(f'<text class="room" x="{x + 10:.0f}" y="{top + 18:.0f}">{escape(title)}</text>')
                for n, line in enumerate(filter(None, lines)):
                    y = top + TITLE + 14 + n * LINE
                    shapes.append(f'<text class="module" x="{x + 10:.0f}" y="{y:.0f}">{escape(line)}</text>')
            top += height + GAP
        band = f'<rect class="{storey}" x="{MARGIN}" y="{start:.0f}" width="{WIDTH - 2 * MARGIN}"'
        bands.append(f'{band} height="{top - start - 8:.0f}" rx="10"/>')
        label = f"<tspan>{storey}/</tspan>  {escape(purpose)}"
        shapes.append(f'<text class="storey" x="{MARGIN + 14}" y="{start + 24:.0f}">{label}</text>')
        top += 10
    arrows = [arrow(boxes[a], boxes[b]) for a, b in sorted(uses(graph, boxes))]
    style = "".join(f".{s}{{fill:{c};stroke:none}}" for s, c in COLOURS.items())
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top:.0f}" font-family="sans-serif">',
        "<style>rect{fill:#fff;stroke:#777}.storey{font-size:14px;fill:#333}.storey tspan{font-weight:bold}"
        ".room{font-size:14px;font-weight:bold}.module{font:11px monospace;fill:#444}"
        f"path{{fill:none;stroke:#a33;stroke-opacity:.45;stroke-width:1.3}}{style}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" style="fill:#a33;stroke:none"/></marker></defs>',
        *bands,
        *arrows,  # under the boxes: a line that passes one by does not cross its text
        *shapes,
        "</svg>\n",
    ])  # fmt: skip


def uses(graph: grimp.ImportGraph, rooms: dict[str, tuple]) -> set[tuple[str, str]]:
    """(room, room that it imports) within a storey; between storeys everything may go down."""

    def room_of(module: str) -> str | None:
        name = ".".join(module.split(".")[:2])
        return name if name in rooms else None

    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            a, b = room_of(module), room_of(imported)
            if a and b and a != b and a.split(".")[0] == b.split(".")[0]:
                found.add((a, b))
    return found


def arrow(a: tuple[float, ...], b: tuple[float, ...]) -> str:
    """A line from the bottom of one box to the top of one below it."""
    (ax, ay, aw, ah), (bx, by, bw, _) = a, b
    shift = (bx + bw / 2 - ax - aw / 2) * 0.25
    x1 = min(max(ax + aw / 2 + shift, ax + 8), ax + aw - 8)
    x2 = min(max(bx + bw / 2 - shift, bx + 8), bx + bw - 8)
    y1, y2 = ay + ah, by
    bend = (y2 - y1) / 2
    curve = f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    return f'<path d="{curve}" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "house.svg"
    output.write_text(draw())
