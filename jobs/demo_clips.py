"""Make the demo's clips from photographs in installed packages: python jobs/demo_clips.py --output DIR"""

from data_prep.demo.footage import DemoClipsConfig, make_demo_clips
from lingen.io.manifest import OutputFolder, file_digest
from pipelines import cli


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
