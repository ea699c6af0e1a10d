"""Which changes of a module its own tests do not notice.

    python -m tests.mutants [MODULE.py ...] [--survivors]

Results go into tests/mutants/results.json, and docs/mutants.md is written from them. A survivor that no test can or
need notice gets its reason in tests/mutants/reasons.json, {module: {"line before -> line after": reason}}.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.mutants.mutate import mutants
from tests.mutants.report import page
from tests.mutants.runner import prepare

ROOT = Path(__file__).parents[2]
RESULTS, REASONS = (Path(__file__).with_name(name) for name in ("results.json", "reasons.json"))
MODULES = [
    "data_prep/curate/ledger.py",
    "data_prep/curate/license.py",
    "data_prep/curate/near_duplicates.py",
    "data_prep/curate/thresholds.py",
    "lingen/data/batch_plan.py",
    "lingen/data/loader.py",
    "lingen/data/mixture.py",
    "lingen/data/permutation.py",
    "lingen/data/selection.py",
    "lingen/generate/sampler.py",
    "lingen/io/manifest.py",
    "lingen/model/flops.py",
    "lingen/train/checkpoint.py",
    "lingen/train/flow.py",
    "lingen/train/observers/guard.py",
    "lingen/train/observers/validation.py",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="default: all")
    parser.add_argument("--survivors", action="store_true", help="only the mutants that survived last time")
    options = parser.parse_args()
    for module in options.modules or MODULES:
        before = _load(RESULTS).get(module, {"survivors": []})["survivors"]
        result = _test(module, before if options.survivors else None)
        RESULTS.write_text(json.dumps(_load(RESULTS) | {module: result}, indent=1, sort_keys=True) + "\n")
    text, is_good = page(MODULES, _load(RESULTS), _load(REASONS))
    (ROOT / "docs" / "mutants.md").write_text(text)
    return 0 if is_good else 1


def _test(module: str, only: list[str] | None) -> dict:
    """{"mutants": their number, "survivors": ["line before -> line after", ...]} of a module."""
    found = list(mutants((ROOT / module).read_text()))
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as temp:
        tests = prepare(ROOT, Path(temp), module)
        for mutant in found:
            if (only is None or mutant.name in only) and not tests.kill(mutant):
                survivors.append(mutant.name)
                print(f"{module}:{mutant.line} survived: {mutant.name}", flush=True)
    print(f"{module}: {len(found) - len(survivors)} of {len(found)} mutants noticed", flush=True)
    return {"mutants": len(found), "survivors": survivors}


def _load(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
