"""Are the paper's claims true at a size that a CPU can train? LinGen against DiT and its own ablations, on scenes that
a tiny model learns (data_prep/demo/scenes.py) and on real clips; writes docs/claims.md.

    python benchmarks/claims.py --output FOLDER               # an hour of one core; kill it and call it again
    python benchmarks/claims.py --output FOLDER --groups architecture --seeds 0
    python benchmarks/claims.py --write-docs                  # docs/claims.md and its figures, from the result file

The budget is CPU seconds of all groups and three seeds; on the first call, the cost of a step of every kind of run is
measured on this machine, and the steps that the budget pays for are noted in FOLDER/plan.json. Every finished training
has a file in FOLDER/runs: a killed one starts anew, the others are not repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from claims_data import clip_buckets, scene_buckets, write_encoded
from claims_figures import write_docs
from claims_runs import GROUPS, SEEDS, latency, measure_costs, plan_steps, requirements, result_path, runs_of, train
from machine import describe

from lingen.io.manifest import read_json, write_atomic, write_json

RESULT = Path(__file__).parent / "results" / "claims.json"
CLIPS = Path(__file__).parents[2] / "shared" / "clips" / "manifest.csv"
LATENCY_REPEATS = 3


def main() -> None:
    options = _options()
    if options.output:
        logging.getLogger("lingen").setLevel(logging.WARNING)
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            _run(options)
        finally:
            dist.destroy_process_group()
    if options.write_docs:
        write_docs(read_json(options.result), options.docs)


def _run(options: argparse.Namespace) -> None:
    """Prepare, plan, train what is missing, and collect what there is."""
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    write_encoded(output / "scenes", scene_buckets(options.scenes))
    if options.clips != "none" and not (output / "clips").exists():
        write_encoded(output / "clips", clip_buckets(Path(options.clips)))
    plan = _plan(options, began)
    groups = [g for g in options.groups if g != "clips" or (output / "clips").exists()]
    todo = requirements([r for s in options.seeds for g in groups for r in runs_of(g, s, plan["costs"])])
    for i, run in enumerate(todo, 1):
        if result_path(output, run).exists():
            continue
        done = train(run, plan["steps"][run.group], output, options.videos)
        motion = f", motion {done['followed']['all']['motion']:.2f}" if "followed" in done else ""
        print(f"{i}/{len(todo)} {run.id}: {done['steps']} steps, loss {done['curve'][-1]['val']:.4f}{motion}, ", end="")
        print(f"{done['cpu_s_all']:.0f} CPU s of which {done['cpu_s']:.0f} training", flush=True)
        collect(output, plan, options.result)
    if "sizes" in groups:  # those that are missing
        for repeat in range(LATENCY_REPEATS):
            latency(output, repeat)
    collect(output, plan, options.result)


def _plan(options: argparse.Namespace, began: float) -> dict:
    """The plan in the output folder; a first call makes it.

    Raises:
        SystemExit: the folder was planned with other settings.
    """
    path = options.output / "plan.json"
    asked = {name: getattr(options, name) for name in ("budget", "scenes", "videos", "steps")}
    if path.is_file():
        plan = read_json(path)
        for name, value in asked.items():
            if plan["asked"][name] != value:
                before = plan["asked"][name]
                sys.exit(f"error: --{name}: {options.output} was planned with {before}; choose another folder")
        return plan
    costs = measure_costs(options.output, options.rounds) if options.rounds else {}
    steps = dict.fromkeys(GROUPS, options.steps) if options.steps else plan_steps(options.budget, costs, options.videos)
    plan = {"asked": asked, "costs": costs, "steps": steps, "machine": describe()}
    plan["preparation_cpu_s"] = round(time.process_time() - began, 1)
    write_json(path, plan)
    print("steps: " + ", ".join(f"{group} {n}" for group, n in steps.items()), flush=True)
    return plan


def collect(output: Path, plan: dict, path: Path) -> None:
    """Write the result file from the runs that are finished."""
    trained, timed = set((output / "runs").glob("*.json")), sorted((output / "runs").glob("latency-*.json"))
    runs = [read_json(path) for path in trained.difference(timed)]
    order = [run.id for group in GROUPS for seed in range(99) for run in runs_of(group, seed, plan["costs"])]
    runs.sort(key=lambda run: order.index(run["id"]))
    rows = [_columns(run) for run in runs]
    rows += [row for path in timed for row in read_json(path)]
    asked, steps = plan["asked"], ", ".join(f"{group} {count}" for group, count in plan["steps"].items())
    result = {
        "question": "are the paper's claims true at a size that a CPU can train",
        "machine": plan["machine"] | {"load_average_at_end": describe()["load_average"]},
        "settings": "Preset tiny (1.5M parameters), float32, AdamW, learning rate 3e-3 to 3e-4 (cosine, no search for "
        f"any variant), batch 16 (8 after a hand-over); steps: {steps}. {asked['scenes']} scenes of one shape on plain "
        f"ground; prompts followed are told by a detector from {asked['videos']} prompts (half as many after a "
        "hand-over), a third of combinations that were never trained on, 12 steps, guidance 3. Validation loss is that "
        "of the averaged weights on clips that were held out.",
        "steps": plan["steps"],
        "cpu_seconds_per_step_before_the_runs": plan["costs"],
        "cpu_seconds": plan["preparation_cpu_s"] + sum(r["cpu_s_all"] for r in runs),
        "runs": _rounded(rows),
    }
    lines = ",\n".join(f"  {json.dumps(row)}" for row in result.pop("runs"))
    head = json.dumps(result, indent=1).removesuffix("\n}")
    write_atomic(path, f'{head},\n "runs": [\n{lines}\n ]\n}}\n')


def _columns(run: dict) -> dict:
    """A run with its curve as columns."""
    points = run.pop("curve")
    return {k: v for k, v in run.items() if v is not None} | {name: [p[name] for p in points] for name in points[0]}


def _rounded(value):
    """Floats to five digits after the point."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for data, models and runs, outside the tree")
    parser.add_argument("--budget", type=float, default=3400, help="CPU seconds of everything (default %(default)s)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="which to run (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(SEEDS)], help="which to run (default: 0 1 2)")
    parser.add_argument("--scenes", type=int, default=960, help="number of scenes (default %(default)s)")
    parser.add_argument("--videos", type=int, default=48, help="prompts in a score (default %(default)s)")
    parser.add_argument("--steps", type=int, help="of every group, in place of what the budget pays for")
    parser.add_argument("--rounds", type=int, default=7, help="of measuring costs (default %(default)s; 0: not at all)")
    clips = "manifest of real clips, or none (default: %(default)s)"
    parser.add_argument("--clips", default=str(CLIPS if CLIPS.exists() else "none"), help=clips)
    parser.add_argument("--result", type=Path, default=RESULT, help="result file")
    parser.add_argument("--docs", type=Path, default=RESULT.parents[2] / "docs", help="folder of claims.md")
    parser.add_argument("--write-docs", action="store_true", help="write claims.md and its figures")
    options = parser.parse_args()
    if not options.output and not options.write_docs:
        parser.error("name --output to train, or --write-docs to write what was found")
    if not options.rounds and not options.steps:
        parser.error("--rounds 0 needs --steps: without costs, a budget says nothing")
    return options


if __name__ == "__main__":
    main()
