"""The TAE's validation: quality of reconstructions, against an autoencoder whose reconstructions are known."""

import numpy as np
import pytest
import torch

from lingen.train.tae.validation import Reconstruction

CPU = torch.device("cpu")


class MeanColour:
    """Decodes every video to its mean colour."""

    def encode_raw(self, video):
        return video.mean((2, 3, 4), keepdim=True).expand_as(video)

    def decode_raw(self, latent, frames):
        return latent[:, :, :frames]


class Perfect:
    def encode_raw(self, video):
        return video

    def decode_raw(self, latent, frames):
        return latent[:, :, :frames]


def test_quality_is_measured_against_the_mean_colour(pixels):
    quality = Reconstruction(pixels.held_out)
    values = quality(MeanColour(), CPU)
    assert values["held_out/gain_over_mean_colour"] == values["held_out/smallest_gain"] == 0
    assert 5 < values["held_out/psnr"] < 20
    best = quality(Perfect(), CPU)
    assert best["held_out/ssim"] == pytest.approx(1.0)
    assert best["held_out/psnr"] - values["held_out/psnr"] == pytest.approx(best["held_out/gain_over_mean_colour"])
    assert Reconstruction([])(Perfect(), CPU) == {}


def test_pictures_have_the_original_on_the_left_and_its_reconstruction_on_the_right(pixels):
    pictures = Reconstruction(pixels.held_out).pictures(MeanColour(), CPU, count=2)
    assert len(pictures) == 2
    assert pictures[0].shape == (12, 32, 64, 3)
    assert np.array_equal(pictures[0][:, :, :32], pixels.held_out[0]())
    assert np.ptp(pictures[0][:, :, 32:].reshape(-1, 3), axis=0).max() == 0
