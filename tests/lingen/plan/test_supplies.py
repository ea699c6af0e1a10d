"""Samples and bytes by hand."""

import pytest

from lingen.data.buckets import Bucket
from lingen.plan.supplies import storage, supplies
from lingen.train.config import FitConfig

VIDEO = Bucket("video", 192, 352, 272)


def test_one_sample_in_101_is_an_image():
    images, videos = supplies(FitConfig(steps=101, batch_size=10), VIDEO, 16.0)
    assert (images.needed, videos.needed) == (10, 1000)
    assert videos.hours_needed == pytest.approx(1000 * 17 / 3600)
    assert (images.hours_needed, videos.there, videos.passes) == (0, None, None)


def test_passes_over_what_is_there():
    there = {"image_192x352": 4, "video_192x352_272f": 100, "video_256x256_272f": 300}
    found = {s.name: s for s in supplies(FitConfig(steps=101, batch_size=40), VIDEO, 16.0, there)}
    assert {name: s.needed for name, s in found.items()} == {
        "image_192x352": 40,
        "video_192x352_272f": 1000,
        "video_256x256_272f": 3000,
    }
    assert found["video_192x352_272f"].passes == 10
    assert found["video_192x352_272f"].hours_there == pytest.approx(100 * 17 / 3600)


def test_curated_clips_count_by_medium():
    images, videos = supplies(FitConfig(steps=101, batch_size=10), VIDEO, 16.0, {"videos": 250, "images": 0})
    assert (videos.passes, images.there, images.passes) == (4, 0, None)


def test_bytes_of_latents_text_and_checkpoints():
    fit = FitConfig(steps=1000, keep_checkpoints=2, keep_every=250)
    store = storage(fit, parameters=1000, latent_shape=(34, 24, 44), channels=16, text=((77, 512), (100, 10)))
    assert store.latent == 2 * 16 * 34 * 24 * 44
    assert store.text == 2 * (77 * 512 + 1000)
    assert (store.checkpoint, store.checkpoints, store.export) == (16_000, 3 + 4, 8_000)
    assert store.samples(3) == 3 * (store.latent + store.text)
