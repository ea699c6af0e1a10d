"""The whole loss of the TAE as one module: reconstruction, outliers, perceptual and adversarial terms.

Legend: B samples of this rank, T frames, H/W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn

from lingen.tae.loss import PatchDiscriminator, PerceptualLoss, outlier_penalty
from lingen.tae.tae import TAE
from lingen.train.tae.config import TAEFitConfig


class Objective(nn.Module):
    """The whole loss as one forward pass, as DistributedDataParallel needs it.

    The discriminator's own loss is part of the sum: its gradient reaches the discriminator alone, and that of the
    adversarial term the TAE alone, so that one backward pass and one optimizer train both.
    """

    def __init__(self, tae: TAE, config: TAEFitConfig):
        super().__init__()
        self.tae, self.config = tae, config
        self.perceptual = PerceptualLoss(config.perceptual) if config.perceptual and config.perceptual_weight else None
        self.discriminator = PatchDiscriminator() if config.adversarial_weight else None

    @property
    def trained(self) -> nn.Module:
        """What checkpoints hold: the TAE, with the discriminator where there is one."""
        if self.discriminator is None:
            return self.tae
        return nn.ModuleDict({"tae": self.tae, "discriminator": self.discriminator})

    def forward(self, video_B3THW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch in [-1, 1] at a step, and its parts without gradients."""
        config = self.config
        latent = self.tae.encode_raw(video_B3THW)
        decoded = self.tae.decode_raw(latent, video_B3THW.shape[2])
        parts = {"l1": (decoded - video_B3THW).abs().mean(), "outliers": outlier_penalty(latent)}
        loss = parts["l1"] + config.outlier_weight * parts["outliers"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(decoded, video_B3THW)
            loss = loss + config.perceptual_weight * parts["perceptual"]
        if self.discriminator is not None and step >= config.adversarial_start:
            parts["adversarial"] = self.discriminator.generator_loss(decoded)
            parts["discriminator"] = self.discriminator.loss(video_B3THW, decoded)
            loss = loss + config.adversarial_weight * parts["adversarial"] + parts["discriminator"]
        elif self.discriminator is not None:  # gradients of 0: optimizer and workers see it from the first step on
            loss = loss + 0 * sum(p.sum() for p in self.discriminator.parameters())
        return loss, {name: value.detach() for name, value in parts.items()}
