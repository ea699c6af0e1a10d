from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def numbered_video() -> Callable[..., Path]:
    """A function that writes a video whose frame i is a flat grey of 16 + 18 i, at the given presentation times."""

    def write(path, times_ms, size=(64, 96), codec="libx264", rate=1000, **options):
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
            stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
            stream.codec_context.time_base = Fraction(1, rate)
            for i, ms in enumerate(times_ms):
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 16 + 18 * i, np.uint8), format="rgb24")
                frame.pts, frame.time_base = ms * rate // 1000, Fraction(1, rate)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return write
