"""Make the demo's clips from photographs in installed packages: python jobs/demo_clips.py --output DIR"""

import dataclasses
from pathlib import Path

from data_prep.demo.footage import make_demo_clips
from lingen.io.manifest import OutputFolder, file_digest
from pipelines import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoClipsConfig:
    """Make small clips (moving shapes, camera moves) with a manifest, including some that curation must drop."""

    output: Path
    """Folder for the clips."""
    scenes: int = 1000
    """Videos of moving shapes."""
    stills: int = 90
    """Pictures of shapes."""
    videos: int = 8
    """Camera moves over photographs."""
    seed: int = 0
    """Seed of scenes, lengths and noise."""


def run(config: DemoClipsConfig) -> None:
    """Make the clips, unless the folder is finished."""
    numbers = {name: getattr(config, name) for name in ("scenes", "stills", "videos", "seed")}
    folder = OutputFolder.open(config.output, "demo_clips", numbers, {})
    if not folder.finished:
        manifest = make_demo_clips(config.output, **numbers)
        folder.publish({"manifest.csv": file_digest(manifest)})
    print(f"clips: {config.output}/manifest.csv")


if __name__ == "__main__":
    cli.main(DemoClipsConfig, run)
