"""Train the temporal autoencoder: python jobs/train_tae.py --curated DIR --output DIR --fit.preset tae_tiny"""

from pipelines import cli
from pipelines.training.tae import TrainTAEConfig, train_tae


def run(config: TrainTAEConfig) -> None:
    """Train the TAE and print its held-out quality."""
    outputs = train_tae(config)["outputs"]
    held_out = outputs["held_out"]
    rows = [("segments", outputs["windows"]), ("unreadable segments", outputs["unreadable"])]
    if count := outputs.get("internal_errors"):
        rows.append(("of these internal errors: a bug of ours, please report it (pixels/index.json)", count))
    for name, value in held_out.items():
        rows.append((f"held-out {name.replace('_', ' ')}{'' if name == 'ssim' else ' (dB)'}", value))
    print(cli.table(rows))
    print(f"\nTAE {outputs['tae']}: {config.output}   next: python jobs/encode.py --tae {config.output} ...")


if __name__ == "__main__":
    cli.main(TrainTAEConfig, run)
