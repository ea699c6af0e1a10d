import numpy as np
import torch

from lingen.io.video import to_uint8
from lingen.tae.config import TAEConfig
from lingen.tae.frames import decoded_frames
from lingen.tae.tae import TAE
from lingen.tae.tiling import TilingConfig

CONFIG = TAEConfig(channels=(4, 8), blocks=1, decoder_blocks=1, time_levels=1, latent_channels=4, attention_reach=1)


def test_pieces_are_the_decoded_video_for_any_type_of_latent():
    torch.manual_seed(0)
    tae = TAE(CONFIG).eval()
    tae.requires_grad_(False)
    latent = torch.randn(4, 30, 2, 3).half()
    pieces = list(decoded_frames(tae, latent, 57, TilingConfig(frames=4)))
    assert len(pieces) > 2
    video = np.concatenate(pieces)
    assert (video.shape, video.dtype) == ((57, 4, 6, 3), np.uint8)
    expected = to_uint8(tae.decode(latent[None].float(), 57)[0])
    assert np.abs(video.astype(int) - expected).max() <= 1, "but for rounding"
