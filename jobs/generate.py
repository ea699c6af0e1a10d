"""Generate a video: python jobs/generate.py --checkpoint DIR --prompt "..." --output out.mp4 [--seconds 17]"""

from lingen.generate.pipeline import GenerateConfig, generate
from lingen.io.redact import printable
from pipelines import cli


def run(config: GenerateConfig) -> None:
    """Generate and say where the video is."""
    made = generate(config)
    size = f"{made.frames} frames of {made.height}x{made.width} at {made.fps:g} fps"
    print(f'{made.path}: "{printable(made.prompt)}"\n{size}, prompt encoded by {made.text_encoder}')


if __name__ == "__main__":
    cli.main(GenerateConfig, run)
