"""A stage's plan from its real flags and shards, instead of training it."""

from __future__ import annotations

import dataclasses

from pipelines.plan.config import PlanConfig
from pipelines.plan.report import make_plan, refuse, report
from pipelines.plan.stages import of_shards, text_of
from pipelines.training.config import TrainConfig
from pipelines.training.prepare import prepare

GPUS_PER_NODE = 8


def dry_run(config: TrainConfig) -> None:
    """Print the plan of a stage.

    Raises:
        ValueError: bad configuration, or the stage does not fit on the card; the message names the setting that helps.
    """
    prepared = prepare(config)
    stage = dataclasses.replace(
        of_shards(prepared.stage, prepared.train, text_of(("--text", *prepared.encoded["config"]["text"]))),
        architecture=prepared.architecture,
        fit=config.fit,
    )
    count = config.workers.count
    per_node = count if count <= GPUS_PER_NODE else (GPUS_PER_NODE if count % GPUS_PER_NODE == 0 else 1)
    machines = PlanConfig(gpu=config.gpu, nodes=count // per_node, gpus_per_node=per_node, price=config.price)
    plans = make_plan([stage], machines)
    print(report(plans, config.price), flush=True)
    refuse(plans)
