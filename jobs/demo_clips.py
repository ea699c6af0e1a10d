"""Make the demo's clips from photographs in installed packages: python jobs/demo_clips.py --output DIR"""

import dataclasses
from pathlib import Path

from data_prep.demo.footage import make_demo_clips
from lingen.io.manifest import OutputFolder, file_digest
from pipelines import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoClipsConfig:
    """Make small clips (camera moves, moving objects) with a manifest, including some that curation must drop."""

    output: Path
    """Folder for the clips."""
    videos: int = 32
    """Good videos to make."""
    seed: int = 0
    """Seed of lengths and noise."""


def run(config: DemoClipsConfig) -> None:
    """Make the clips, unless the folder is finished."""
    folder = OutputFolder.open(config.output, "demo_clips", {"videos": config.videos, "seed": config.seed}, {})
    if not folder.finished:
        manifest = make_demo_clips(config.output, config.seed, config.videos)
        folder.publish({"manifest.csv": file_digest(manifest)})
    print(f"clips: {config.output}/manifest.csv")


if __name__ == "__main__":
    cli.main(DemoClipsConfig, run)
