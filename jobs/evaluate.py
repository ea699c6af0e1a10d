"""Score how models follow prompts about shapes: python jobs/evaluate.py --checkpoints RUN ... --output DIR"""

from __future__ import annotations

from data_prep.demo.evaluation import EvaluateConfig, score_models
from data_prep.demo.following import CHANCE
from pipelines import cli
from pipelines.overview import EVALUATION, SHEET, followed, score_rows
from pipelines.tracking import log_outcome


def run(config: EvaluateConfig) -> None:
    """Score every model, draw the sheet, log to MLflow and print the table."""
    evaluation, names = score_models(config), list(config.models())
    scores = evaluation["stages"][names[-1]]
    params = {"prompts": config.prompts, "checkpoints": " ".join(names)}
    files = [config.output / EVALUATION, config.output / SHEET]
    run_name = f"evaluate {names[0]}" if len(names) == 1 else None  # its folder may have the name of the stage's
    log_outcome(config.output, "lingen-evaluate", params, followed(scores), files, name=run_name)
    print(report(evaluation))
    print(f"\n{config.output / SHEET}: prompts, what the models made of them, and real clips")


def report(evaluation: dict) -> str:
    """The table of all stages, and one line of the last."""
    header, *rows = score_rows(evaluation["stages"], evaluation["chance"])
    last = list(evaluation["stages"].values())[-1]["trained"]
    followed = ", ".join(f"{name} {last[name]:.0%} (guessing: {chance:.0%})" for name, chance in CHANCE.items())
    return f"{cli.table(rows, [str(name) for name in header])}\n\nprompts followed: {followed}"


if __name__ == "__main__":
    cli.main(EvaluateConfig, run)
