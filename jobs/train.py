"""Train one stage of a recipe: python jobs/train.py --stage NAME --shards DIR --output DIR [--init DIR]"""

from pipelines import cli
from pipelines.overview import CHANGES, changes
from pipelines.recipes import find_stage
from pipelines.training.config import TrainConfig
from pipelines.training.dry_run import dry_run
from pipelines.training.stage import train


def defaults(arguments: list[str]) -> dict:
    """Use the stage's settings as defaults of --fit, so that --help shows them and flags override single ones."""
    for before, after in zip(["", *arguments], [*arguments, ""]):
        name = after if before == "--stage" else before.partition("--stage=")[2]
        if name and not name.startswith("--"):
            return {"fit": find_stage(name)[1].fit}
    return {}


def run(config: TrainConfig) -> None:
    """Train the stage and print what it changed, or with --dry-run what it would take."""
    if config.dry_run:
        dry_run(config)
        return
    manifest = train(config)
    outputs = manifest["outputs"]
    rows = [("stage", config.stage), ("started from", config.init or "random weights"), ("steps", outputs["steps"])]
    rows += [(name, change) for name, change in zip(CHANGES, changes(outputs))]
    print(cli.table([*rows, ("seconds", manifest.get("seconds", 0))]))
    print(f"\nmodel: {config.output}/model")
    print(f"next: python jobs/generate.py --checkpoint {config.output} --prompt ... , or --init of a later stage")


if __name__ == "__main__":
    cli.main(TrainConfig, run, defaults=defaults)
