"""The configuration of jobs/train.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lingen.generate.sampler import SamplerConfig
from lingen.train.config import FitConfig
from pipelines.ray_train import TrainWorkers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train one stage of a recipe under Ray Train; the same command resumes it after an interruption."""

    stage: str
    """stage of a recipe, such as demo_t2v_64p_1s or t2v_256p_17s; sets the defaults of --fit"""
    shards: Path
    """output folder of jobs/encode.py"""
    output: Path
    """folder for checkpoints, samples and the trained model; the same command resumes in it"""
    init: Path | None = None
    """output folder of the previous stage; its weights are the start"""
    quality: Path | None = None
    """a reviewed quality.csv (jobs/curate.py --quality.count): train only on the clips it keeps (quality tuning)"""
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    """how the stage is trained (defaults: the stage's)"""
    prompts: tuple[str, ...] = ()
    """prompts of the sample videos; default: the first two captions of the shards"""
    sampler: SamplerConfig = dataclasses.field(default_factory=lambda: SamplerConfig(steps=20, guidance=4.0))
    """how sample videos are sampled"""
    workers: TrainWorkers = dataclasses.field(default_factory=TrainWorkers)
    """the training workers"""
    mlflow: str | None = None
    """MLflow tracking URI; default: MLFLOW_TRACKING_URI, else mlflow.db beside the output folder"""
    record_samples: bool = False
    """write the samples of every step to samples/ in the output folder, one file of JSON lines per worker"""
    dry_run: bool = False
    """print what the stage takes on these workers (memory, time, data, storage), traced without a GPU, and train
    nothing; exit code 2 if it does not fit"""
    gpu: str = "h100"
    """card of --dry-run: a100-80, h100, h200, b200, or name:GB:TFLOPS:GBps"""
    price: float | None = None
    """price of a card for an hour, for --dry-run"""
    overwrite: bool = False
    """replace an output folder made with other settings"""
