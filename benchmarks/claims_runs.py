"""The trainings of benchmarks/claims.py: which there are, how many steps a budget pays for, and one from start to end.

C channels, T/H/W latent axes.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from claims_data import IMAGE, LARGER, LONGER, SHORT, TEXT

from data_prep.demo.following import Score, ask, by_group, choose
from data_prep.demo.scenes import COLORS, SHAPES, Combination
from lingen.data.buckets import Bucket
from lingen.data.selection import select
from lingen.data.shard_index import ShardIndex
from lingen.generate.generator import Generator
from lingen.generate.sampler import SamplerConfig
from lingen.io.manifest import read_json, write_json
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.presets import PRESETS
from lingen.model.pretrained import load_denoiser, read_about
from lingen.text.encoders import parse_text_encoders
from lingen.train.config import FitConfig
from lingen.train.ema import EMA
from lingen.train.export import describe, export_stage
from lingen.train.flow import interpolate, per_sample_loss
from lingen.train.hand_over import build_model, grown, position_scale
from lingen.train.observers.observer import Observer, Step
from lingen.train.observers.validation import Validation
from lingen.train.optimizer import build_optimizer
from lingen.train.stage import Hooks, fit

VARIANTS: dict[str, dict] = {
    "LinGen": {},
    "DiT": {"mixer": "attention", "ffn_ratio": 4.0},
    "no TESA": {"tesa": False},
    "no RMS": {"scan": "raster"},
    "Zigzag": {"scan": "zigzag"},
    "no review tokens": {"review_tokens": False},
    "no MA-branch": {"ma_branch": "none"},
}
SIZES: dict[str, dict] = {"small": {"width": 64, "heads": 2}, "tiny": {}, "large": {"width": 192, "heads": 6}}
"""against the preset tiny; that one is trained among the architectures"""
RATIOS = {"0": "0", "1:100": "1:100", "1:10": "1:10"}
SHARES = {("architecture", "sizes"): 0.58, ("adaptation",): 0.13, ("images",): 0.17, ("clips",): 0.12}
"""of the budget, by groups of equal steps; SEEDS seeds"""
GROUPS = tuple(group for together in SHARES for group in together)
SEEDS = 3
BATCH = 16
EQUAL_TIME = 0.75
"""variants whose step costs less than this share of LinGen's are also trained for LinGen's CPU time"""
SAMPLER = SamplerConfig(steps=12, guidance=3.0)
HELD_OUT = {"scenes": 0.1, "clips": 0.15}
VALIDATION_SAMPLES, LEVELS = 24, 4
POINTS = 8
"""validations in a run"""
LATENCY_LATENTS = (8, 64, 64)
"""(T, H, W) of the latents whose forward pass is timed: 8,192 tokens"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    group: str
    name: str
    seed: int
    data: str = "scenes"
    buckets: tuple[str, ...] = (SHORT,)
    """what it is validated on, and what it trains on as `image_ratio` says"""
    changes: dict = dataclasses.field(default_factory=dict)
    """against the preset tiny"""
    batch: int = BATCH
    image_ratio: str = "0"
    after: Run | None = None
    """the run whose model it starts from"""
    scale: float = 1.0
    """its steps over its group's"""

    @property
    def id(self) -> str:
        """Name of its files."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.group} {self.name} {self.seed}".lower())

    def videos(self, count: int) -> int:
        """How many are scored, of `count` for a run that learns from scratch."""
        if self.data == "clips" or self.buckets == (IMAGE,):
            return 0
        return max(3, count // 2) if self.group == "adaptation" else count

    @property
    def cost_key(self) -> str:
        """What the cost of its step depends on."""
        parts = (f"{k}={v}" for k, v in sorted(self.changes.items()))
        return " ".join([self.buckets[-1], str(self.batch), *parts])


def runs_of(group: str, seed: int, costs: dict[str, float]) -> list[Run]:
    """The trainings of a group for one seed, in order; LinGen's and DiT's come first."""
    if group in ("architecture", "clips"):
        data = "clips" if group == "clips" else "scenes"
        runs = [Run(group=group, name=n, seed=seed, data=data, changes=c) for n, c in VARIANTS.items()]
        base = costs.get(runs[0].cost_key, 0.0)
        cheap = [r for r in runs if group == "architecture" and costs.get(r.cost_key, base) < EQUAL_TIME * base]
        longer = [dataclasses.replace(r, name=equal_time(r.name), scale=base / costs[r.cost_key]) for r in cheap]
        return runs + longer
    if group == "adaptation":
        bases = runs_of("architecture", seed, {})[:2]
        new = {"larger": LARGER, "longer": LONGER}
        return [
            Run(group=group, name=f"{b.name}, {n}", seed=seed, buckets=(to,), changes=b.changes, batch=8, after=b)
            for n, to in new.items()
            for b in bases
        ]
    if group == "sizes":
        return [Run(group=group, name=n, seed=seed, changes=c) for n, c in SIZES.items() if c]
    base = Run(group="images", name="images first", seed=seed, buckets=(IMAGE,), scale=0.25)
    both = (IMAGE, SHORT)
    return [
        base,
        *(Run(group="images", name=n, seed=seed, buckets=both, image_ratio=r, after=base) for n, r in RATIOS.items()),
    ]


def equal_time(name: str) -> str:
    """Name of the run of a variant for as long as LinGen trains."""
    return f"{name}, equal time"


def measure_costs(folder: Path, rounds: int = 7) -> dict[str, float]:
    """CPU seconds of one training step of every kind of run: medians of interleaved rounds, the first not counted."""
    kinds: dict[str, Run] = {}
    for group in GROUPS:
        for run in runs_of(group, 0, {}):
            kinds.setdefault(run.cost_key, run)
    steppers = {key: _stepper(run, folder) for key, run in kinds.items()}
    seconds: dict[str, list[float]] = {key: [] for key in kinds}
    for round_ in range(rounds + 1):
        for key, step in steppers.items():
            start = time.process_time()
            step()
            if round_:
                seconds[key].append(time.process_time() - start)
    return {key: round(statistics.median(values), 5) for key, values in seconds.items()}


def _stepper(run: Run, folder: Path):
    """A function that trains one step on noise, of the largest bucket of a run."""
    shards = _shards(run, folder)
    config, architecture = FitConfig(lr=1e-4), _architecture(run, shards)
    model, ema = build_model(config, architecture, None, torch.device("cpu"))
    optimizer = build_optimizer(model, config)
    shape = shards.buckets[run.buckets[-1]].latent_shape
    data, t = torch.randn(run.batch, *shape), torch.rand(run.batch)
    text = [(torch.randn(run.batch, 10, d), torch.ones(run.batch, 10, dtype=torch.bool)) for d in shards.text_dims]

    def step() -> None:
        point, target = interpolate(data, torch.randn_like(data), t)
        per_sample_loss(model(point, t, text), target).mean().backward()
        optimizer.step()
        ema.update(model)
        optimizer.zero_grad()

    return step


def plan_steps(budget: float, costs: dict[str, float], videos: int) -> dict[str, int]:
    """Steps of each group, so that all groups and SEEDS seeds take `budget` CPU seconds, scoring included."""
    steps = {}
    for groups, share in SHARES.items():
        runs = [run for group in groups for run in runs_of(group, 0, costs)]
        fixed = sum(_scoring_seconds(run, costs[run.cost_key] / run.batch, videos) for run in runs)
        per_step = sum(run.scale * costs[run.cost_key] for run in runs)
        steps |= dict.fromkeys(groups, max(4, round((share * budget / SEEDS - fixed) / per_step)))
    return steps


def _scoring_seconds(run: Run, sample_cost: float, videos: int) -> float:
    """About what a run takes beside its training, from the cost of a sample in training: three forward passes."""
    forward = sample_cost / 3
    validations = POINTS * VALIDATION_SAMPLES * LEVELS * 1.8 * forward  # small batches
    followed = run.videos(videos) * (2 * SAMPLER.steps * 1.3 * forward + 0.03)
    times = 2 if run.group == "adaptation" else 1
    pictures = 3.0 if IMAGE in run.buckets else 0.0
    return 1.0 + validations + times * followed + pictures


class CpuClock(Observer):
    """CPU seconds of this process in training steps, without its observers.

    Attributes:
        seconds: so far.
    """

    def __init__(self):
        self.seconds = self._start = 0.0

    def before_step(self, step: Step) -> None:
        self._start = time.process_time()

    def lap(self, part: str) -> None:
        if part == "optimizer":
            self.seconds += time.process_time() - self._start


def result_path(output: Path, run: Run) -> Path:
    """The file of a finished run."""
    return output / "runs" / f"{run.id}.json"


def train(run: Run, steps: int, output: Path, videos: int) -> dict:
    """Train, score and write a run's file, unless it is there. Returns its content."""
    path = result_path(output, run)
    if path.is_file():
        return read_json(path)
    started, began = time.process_time(), time.time()
    folder = output / "models" / run.id
    shutil.rmtree(folder, ignore_errors=True)
    shards = _shards(run, output)
    init = output / "models" / run.after.id / "model" if run.after else None
    config = fit_config(run, round(steps * run.scale))
    validation = Validation(select(shards, config.held_out)[1], VALIDATION_SAMPLES, LEVELS)
    architecture = _architecture(run, shards, init)

    start = None
    if init and run.group == "adaptation":
        scale = position_scale(read_about(init), shards)
        handed_over = build_model(config, architecture, init, torch.device("cpu"), scale)
        _export(run, output, shards, *handed_over)
        start = {"val": validation(load_denoiser(folder), torch.device("cpu"))["val/loss"]}
        start["followed"] = followed(Generator(folder), run, run.videos(videos))["all"]
    clock, curve, losses = CpuClock(), [], {}

    def sample(step: int, model: Denoiser) -> None:
        values = validation(model, torch.device("cpu"))
        point = {"step": step, "cpu_s": round(clock.seconds, 3), "val": values["val/loss"], "loss": losses.get(step)}
        curve.append(point | ({"val_image": values["val/image"]} if "val/image" in values else {}))

    def log(step: int, metrics: dict[str, float]) -> None:
        losses[step] = metrics.get("loss/video", metrics.get("loss"))

    hooks = Hooks(log=log, sample=sample)
    model, ema, finished = fit(config, architecture, shards, folder, init, hooks, observers=[clock])
    assert finished
    _export(run, output, shards, model, ema)
    shutil.rmtree(folder / "checkpoints")
    result = {
        "id": run.id,
        "group": run.group,
        "name": run.name,
        "seed": run.seed,
        "after": run.after and run.after.id,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": config.steps,
        "start": start,
        "curve": curve,
        "cpu_s": round(clock.seconds, 2),
        "cpu_ms_step": round(1000 * clock.seconds / config.steps, 2),
        **_scores(run, folder, videos),
        "cpu_s_all": round(time.process_time() - started, 1),
        "wall_s_all": round(time.time() - began, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    write_json(path, result)
    return result


def _export(run: Run, output: Path, shards: ShardIndex, model: Denoiser, ema: EMA) -> None:
    about = describe(run.id, "tiny", shards, list(parse_text_encoders([TEXT]).values()), [])
    export_stage(output / "models" / run.id / "model", model, ema, about, output / run.data / "tae")


def fit_config(run: Run, steps: int) -> FitConfig:
    """How a run is trained: the same for all but length, batch and mixture."""
    every = max(1, steps // POINTS)
    return FitConfig(
        steps=steps,
        batch_size=run.batch,
        image_ratio=run.image_ratio,
        lr=3e-3,
        lr_end=3e-4,
        warmup=min(20, steps // 4),
        ema_decay=0.98,
        held_out=HELD_OUT[run.data],
        log_every=every,
        sample_every=every,
        checkpoint_every=10**9,
        seed=run.seed,
    )


def _scores(run: Run, folder: Path, videos: int) -> dict:
    if run.data == "clips":
        return {}
    generator = Generator(folder)
    scores = {"followed": followed(generator, run, run.videos(videos))} if run.videos(videos) else {}
    return scores | ({"images_followed": images_followed(generator)} if IMAGE in run.buckets else {})


def followed(generator: Generator, run: Run, videos: int) -> dict[str, dict[str, float]]:
    """Shares of prompts followed, of all, trained and held-out combinations; the same prompts and noise for all."""
    bucket = Bucket.parse(run.buckets[-1])
    size = (bucket.frames, bucket.height, bucket.width)
    answers = list(ask(generator, choose(videos), size, SAMPLER))
    groups = {"all": answers, **by_group(answers)}
    return {name: dataclasses.asdict(Score.of(some)) for name, some in groups.items() if some}


class _Still(Combination):
    """Asks for a picture."""

    __slots__ = ()

    @property
    def prompt(self) -> str:
        """In the words of the pictures' captions."""
        return f"a {self.color} {self.shape}"


def images_followed(generator: Generator) -> dict[str, float]:
    """Shares of pictures with the colour, and with the shape, that was asked for: each pair twice."""
    bucket = Bucket.parse(IMAGE)
    pairs = [_Still(color, shape, "left") for color in COLORS for shape in SHAPES] * 2
    right = [a.right for a in ask(generator, pairs, (1, bucket.height, bucket.width), SAMPLER)]
    return {name: sum(r[name] for r in right) / len(right) for name in ("color", "shape")}


def latency(output: Path, repeat: int) -> list[dict]:
    """CPU seconds of one forward pass of LinGen and DiT in every size; written once per repeat."""
    path = output / "runs" / f"latency-{repeat}.json"
    if not path.is_file():
        seconds: dict[str, dict[str, float]] = {}
        x, t = torch.randn(1, 16, *LATENCY_LATENTS), torch.rand(1)
        text = [(torch.randn(1, 10, 128), torch.ones(1, 10, dtype=torch.bool))]
        parameters: dict[str, dict[str, int]] = {}
        for size, changes in SIZES.items():
            for name in ("LinGen", "DiT"):
                model = Denoiser(dataclasses.replace(PRESETS["tiny"], **changes, **VARIANTS[name]))
                parameters.setdefault(name, {})[size] = sum(p.numel() for p in model.parameters())
                with torch.no_grad():
                    model(x[:, :, :, :8, :8], t, text)
                    began = time.process_time()
                    model(x, t, text)
                seconds.setdefault(name, {})[size] = round(time.process_time() - began, 4)
        rows = [
            {
                "group": "latency",
                "name": name,
                "seed": repeat,
                "seconds": [*of.values()],
                "parameters": [*parameters[name].values()],
                "added_s": of["large"] - of["small"],
                "factor": of["large"] / of["small"],
            }
            for name, of in seconds.items()
        ]
        write_json(path, rows)
    return read_json(path)


def _architecture(run: Run, shards: ShardIndex, init: Path | None = None) -> DenoiserConfig:
    if init:
        about = read_about(init)
        return grown(DenoiserConfig.from_dict(about["model"]), shards, position_scale(about, shards))
    return grown(dataclasses.replace(PRESETS["tiny"], text_dims=shards.text_dims, **run.changes), shards)


def _shards(run: Run, output: Path) -> ShardIndex:
    whole = ShardIndex.open(output / run.data)
    return ShardIndex({name: whole.buckets[name] for name in run.buckets}, whole.folder)


def requirements(runs: Sequence[Run]) -> list[Run]:
    """The runs with those that they start from before them, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        if run.after:
            found.setdefault(run.after.id, run.after)
        found.setdefault(run.id, run)
    return list(found.values())
