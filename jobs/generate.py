"""Generate a video: python jobs/generate.py --checkpoint DIR --prompt "..." --output out.mp4 [--seconds 17]"""

from lingen.generate.pipeline import GenerateConfig, generate
from pipelines import cli


def run(config: GenerateConfig) -> None:
    made = generate(config)
    size = f"{made.frames} frames of {made.height}x{made.width} at {made.fps:g} fps"
    print(f'{made.path}: "{made.prompt}"\n{size}, prompt encoded by {made.text_encoder}')


if __name__ == "__main__":
    cli.main(GenerateConfig, run)
