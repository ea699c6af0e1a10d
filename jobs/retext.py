"""Embed the captions of encoded shards again, with another text encoder; the latents stay as they are."""

from data_prep.encode_summary import EncodeSummary
from data_prep.retext import RetextConfig, retext
from pipelines.cli import main


def run(config: RetextConfig) -> None:
    retext(config)
    samples = EncodeSummary.of_folder(config.output).samples
    print(f"{samples} captions embedded again in {config.output}; latents shared with {config.shards}")


if __name__ == "__main__":
    main(RetextConfig, run)
