"""Embed captions with other text encoders: python jobs/retext.py --shards DIR --text ENCODER ... --output DIR"""

from data_prep.encode.retext import RetextConfig, retext
from pipelines.cli import main


def run(config: RetextConfig) -> None:
    """Embed the captions and print what is new and what is shared."""
    done = retext(config)
    print(f"{done.samples} captions embedded by {', '.join(done.embedded) or 'no new encoder'} in {config.output}")
    print(f"shared with {config.shards}: {', '.join(['latents', *(f'text of {name}' for name in done.shared)])}")


if __name__ == "__main__":
    main(RetextConfig, run)
