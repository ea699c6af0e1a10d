"""docs/mutants.md: the table of modules and the list of survivors."""

from __future__ import annotations

from collections.abc import Iterable

LEAST = 0.9

HEAD = """# Mutants

Made by `make mutants`; do not edit. A mutant is a module with one changed operator, condition or flag (mutmut's
operators and negated conditions; what is left out, `tests/mutants/mutate.py` says). Each module's own test file runs
on each of its mutants. At least {least:.0%} of all must be noticed, and of each survivor the reason is given here.

| module | mutants | noticed | share |
|---|--:|--:|--:|
"""


def page(modules: Iterable[str], results: dict[str, dict], reasons: dict[str, dict[str, str]]) -> tuple[str, bool]:
    """The page, and whether every module was run, enough mutants were noticed and every survivor has its reason.

    Args:
        modules: all that are to be run.
        results: module -> {"mutants": number, "survivors": names}.
        reasons: module -> name of a survivor -> why it may survive.
    """
    rows, lists, explained = [], [], True
    total = alive = 0
    for module in sorted(modules):
        if module not in results:
            rows.append(f"| `{module}` | not run yet | | |")
            continue
        result = results[module]
        count, survivors = result["mutants"], result["survivors"]
        total, alive = total + count, alive + len(survivors)
        rows.append(_row(f"`{module}`", count, len(survivors)))
        if survivors:
            lists.append(f"\n## {module}\n")
        for name in survivors:
            reason = reasons.get(module, {}).get(name)
            explained &= reason is not None
            lists.append(f"- `{name}`  \n  {reason or 'No reason yet.'}")
    rows.append(_row("all", total, alive))
    is_good = explained and alive <= (1 - LEAST) * total and set(modules) <= results.keys()
    return HEAD.format(least=LEAST) + "\n".join(rows + lists) + "\n", is_good


def _row(name: str, count: int, alive: int) -> str:
    return f"| {name} | {count} | {count - alive} | {(count - alive) / max(count, 1):.1%} |"
