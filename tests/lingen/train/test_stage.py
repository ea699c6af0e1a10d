"""Whole stages on real processes with gloo, at tiny size."""

import json

import pytest
import torch
from safetensors.torch import load_file

import lingen

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist
from lingen.train.config import FitConfig
from lingen.train.stage import Hooks, fit
from lingen.train.checkpoint import checkpoints
from lingen.model.denoiser import DenoiserConfig
from lingen.model.pretrained import export_model
from lingen.train.observers.preemption import Notice
from lingen.data.shard_index import ShardIndex

options = json.loads(sys.argv[1])
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
dist.init_process_group("gloo")
architecture = DenoiserConfig(
    latent_channels=options["channels"], width=32, depth=2, heads=2, mamba2_state=8, ssm_head_dim=16,
    text_dims=tuple(options["dims"]), position_sizes=tuple(options.get("positions", (4, 4, 4))))
out = Path(options["output"])
losses = []
def log(step, metrics):
    if dist.get_rank() == 0:
        with open(out / "losses.jsonl", "a") as f:
            f.write(json.dumps({"step": step, **metrics}) + "\\n")
steps = []
def notice():
    steps.append(1)
    return Notice.STOP if len(steps) == options.get("stop") else Notice.NONE
hooks = Hooks(log=log, notice=notice)
if options.get("broken_kernel"):
    import dataclasses
    from lingen.ssd import BACKENDS
    right = BACKENDS["torch"]
    def forgetful(x, dt, A, B, C, initial, reverse, chunk):
        y, final = right.scan(x, dt, A, B, C, None if initial is None else 0 * initial, reverse, chunk)
        return y, final
    BACKENDS["torch"] = dataclasses.replace(right, scan=forgetful)
model, ema, finished = fit(
    FitConfig(**options["fit"]), architecture, ShardIndex.open(options["shards"]), out,
    init=Path(options["init"]) if options.get("init") else None, hooks=hooks)
if finished:
    raw = {n: p.full_tensor() for n, p in model.named_parameters()}
    averaged = {n: p.full_tensor() for n, p in ema.weights.items()}
    if dist.get_rank() == 0:
        (out / "tae").mkdir(exist_ok=True)
        export_model(out / "model", raw, averaged, model.config, {}, out / "tae")
dist.destroy_process_group()
"""

FIT = {
    "steps": 6,
    "batch_size": 6,
    "image_ratio": "1:2",
    "lr": 3e-3,
    "lr_end": 3e-4,
    "warmup": 2,
    "checkpoint_every": 2,
    "log_every": 1,
    "ema_decay": 0.9,
}


@pytest.fixture
def train(run_ranks, shards):
    """train(ranks, output, fit=FIT, **options) -> ({step: metrics}, rank 0's stderr) of `fit` on some ranks."""

    def run(ranks, output, fit=FIT, **options):
        output.mkdir(exist_ok=True)
        settings = {"shards": str(shards), "output": str(output), "fit": fit, "channels": 16, "dims": [8, 6], **options}
        _, log = run_ranks(SCRIPT, ranks, json.dumps(settings))
        lines = [json.loads(line) for line in (output / "losses.jsonl").read_text().splitlines()]
        return {line["step"]: line for line in lines}, log

    return run


@pytest.fixture
def shards(make_shards):
    return make_shards({"image_64x64": 7, "video_64x64_16f": 9})


UNDISTURBED = {}


@pytest.fixture
def undisturbed(tmp_path_factory, train):
    """(folder, curve) of one worker from start to end, trained once: the shards are the same bytes in every test."""
    if not UNDISTURBED:
        folder = tmp_path_factory.mktemp("undisturbed")
        UNDISTURBED.update(folder=folder, curve=train(1, folder)[0])
    return UNDISTURBED["folder"], UNDISTURBED["curve"]


def test_interrupted_and_resharded_training_is_the_same_curve(tmp_path, train, undisturbed):
    folder, expected = undisturbed
    out = tmp_path / "resharded"
    # Hybrid sharding, two copies of two shards each; stopped after step 4.
    _, log = train(4, out, fit=FIT | {"shard_group": 2}, stop=4)
    assert "shard_group" not in log
    curve, log = train(3, out, fit=FIT | {"shard_group": 2})
    assert "does not divide 3 workers; all share one copy" in log
    assert sorted(curve) == sorted(expected)
    for step, line in expected.items():
        assert curve[step]["loss"] == pytest.approx(line["loss"], rel=1e-5), step
    a = load_file(folder / "model" / "ema.safetensors")
    b = load_file(out / "model" / "ema.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], atol=1e-4, rtol=1e-3)


def test_resumed_on_one_worker_is_bitwise_the_same(tmp_path, train, undisturbed):
    _, expected = undisturbed
    out = tmp_path / "resumed"
    train(1, out, stop=2)
    curve, _ = train(1, out)
    assert [curve[s]["loss"] for s in sorted(curve)] == [expected[s]["loss"] for s in sorted(expected)]


def test_a_report_is_of_all_its_steps_though_a_stop_came_between(tmp_path, train, undisturbed):
    _, expected = undisturbed
    out, fit = tmp_path / "between", FIT | {"log_every": 3}
    train(2, out, fit=fit, stop=4)
    curve, _ = train(1, out, fit=fit)
    assert sorted(curve) == [3, 6]
    for last, line in curve.items():
        steps = [expected[step]["loss"] for step in range(last - 2, last + 1)]
        assert line["loss"] == pytest.approx(sum(steps) / 3, rel=1e-5), last
        assert line["samples_per_s"] == pytest.approx(3 * FIT["batch_size"] / (3 * line["step_s"]), rel=0.5)


def test_accumulation_and_activation_checkpointing_do_not_change_the_curve(tmp_path, train, undisturbed):
    _, expected = undisturbed
    fit = FIT | {"micro_batch": 2, "activation_checkpointing": True}
    curve, _ = train(1, tmp_path / "accumulated", fit=fit)
    for step, line in expected.items():
        assert curve[step]["loss"] == pytest.approx(line["loss"], rel=1e-5), step


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, train):
    out = tmp_path / "damaged"
    train(1, out, fit=FIT | {"steps": 4})
    newest = sorted((out / "checkpoints").glob("step_*"))[-1]
    for shard in newest.glob("*.distcp"):
        shard.write_bytes(shard.read_bytes()[:100])
    (out / "losses.jsonl").unlink()
    curve, log = train(1, out, fit=FIT | {"steps": 4})
    assert min(curve) == 3, "went on from step 2, not from the damaged step 4"
    assert "cannot be read" in log
    assert newest.with_name(f"damaged_{newest.name}").is_dir()


def test_other_data_is_refused(tmp_path, train):
    out = tmp_path / "out"
    train(1, out, fit=FIT | {"steps": 2})
    with pytest.raises(AssertionError, match="trained on other shards"):
        train(1, out, fit=FIT | {"seed": 1})


def test_a_broken_scan_kernel_stops_training_before_its_first_step(tmp_path, train):
    with pytest.raises(AssertionError, match="do not train with this kernel"):
        train(1, tmp_path / "out", fit=FIT | {"steps": 2}, broken_kernel=True)
    assert not (tmp_path / "out" / "losses.jsonl").exists()


def test_next_stage_starts_from_the_last_with_grown_positions(tmp_path, train, undisturbed):
    folder, expected = undisturbed
    before = lingen.load(folder)
    curve, _ = train(1, tmp_path / "next", positions=[6, 8, 4], init=str(folder / "model"))
    after = lingen.load(tmp_path / "next")
    assert before.config.position_sizes == (4, 4, 4)
    assert after.config.position_sizes == (6, 8, 4)
    assert curve[1]["loss"] < expected[1]["loss"], "it did not start from random weights"
