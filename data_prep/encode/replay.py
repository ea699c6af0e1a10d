"""Do again what made an internal error: the command that the row of errors.parquet ends with.

    python -m data_prep.encode.replay frames URI --bucket BUCKET --start-s S --fps FPS [--tae DIR]
    python -m data_prep.encode.replay text FOLDER --bucket BUCKET --key KEY --encoder ENCODER

In one process, so that the traceback is whole and a debugger can be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from data_prep.encode.latents import PIECE
from data_prep.encode.segment_frames import is_long
from data_prep.media.fetch import local_copy
from data_prep.media.frames import read_frames, read_frames_in_pieces
from data_prep.media.probe import probe
from lingen.data.buckets import Bucket
from lingen.data.shard_index import BucketIndex
from lingen.io.byte_ranges import ByteRanges
from lingen.text.encoders import build_text_encoder, parse_text_encoders


def frames(
    uri: Annotated[str, tyro.conf.Positional],
    bucket: str,
    start_s: float,
    fps: float,
    tae: str | None = None,
) -> str:
    """Read a segment's frames, and encode them.

    Args:
        uri: of the clip.
        bucket: name of the segment's bucket.
        start_s: time of its first frame, seconds.
        fps: frames per second; 0 for images.
        tae: folder of the TAE to encode with; None: the frames are only read.
    """
    shape = Bucket.parse(bucket)
    size = (shape.height, shape.width)
    times_s = [start_s + i / fps if i else start_s for i in range(shape.frames)]
    with local_copy(uri) as path:
        known = probe(path)
        if is_long(bucket):
            pieces = list(read_frames_in_pieces(path, times_s, size, PIECE, known, 1))
        else:
            pieces = [read_frames(path, times_s, size=size, threads=1, known=known)]
    found = f"{sum(map(len, pieces))} frames of {shape.height}x{shape.width}"
    return f"{found}, latent {list(_encode(tae, np.concatenate(pieces)).shape)}" if tae else found


def text(folder: Annotated[Path, tyro.conf.Positional], bucket: str, key: str, encoder: str) -> str:
    """Embed a sample's caption.

    Args:
        folder: the encoded folder.
        bucket: name of the sample's bucket.
        key: the sample.
        encoder: written as for jobs/encode.py.
    """
    index = BucketIndex(Bucket.parse(bucket), ByteRanges.open(folder), encoders=[])
    caption = index.metadata(index.row(key))["caption"]
    ((name, config),) = parse_text_encoders([encoder]).items()
    (tokens_LD,) = build_text_encoder(config).encode([caption])
    return f"{name}: {len(tokens_LD)} tokens, finite: {bool(tokens_LD.isfinite().all())}"


def _encode(tae: str, frames_NHW3: np.ndarray) -> np.ndarray:
    import torch

    from lingen.tae.pretrained import load_tae
    from lingen.tae.tiling import TilingConfig

    with torch.inference_mode():
        video_B3NHW = torch.from_numpy(frames_NHW3).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        latents = list(load_tae(tae).encode_stream(video_B3NHW.split(PIECE, dim=2), TilingConfig()))
        return torch.cat(latents, dim=2)[0].numpy()


if __name__ == "__main__":
    print(tyro.extras.subcommand_cli_from_dict({"frames": frames, "text": text}))
