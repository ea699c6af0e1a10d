"""Training the temporal autoencoder (TAE) on segments of pixels, images and videos mixed."""

from lingen.train.tae.config import TAEFitConfig
from lingen.train.tae.fit import TAEHooks, fit_tae

__all__ = ["TAEFitConfig", "TAEHooks", "fit_tae"]
