"""Training the TAE on windows of pixels, images and videos mixed; a step is a function of (seed, step, weights).

Legend: B samples of this rank, T frames, H/W pixels.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lingen.tae.config import TAE_PRESETS
from lingen.tae.loss import PatchDiscriminator, PerceptualLoss, outlier_penalty, psnr, ssim
from lingen.tae.tae import TAE
from lingen.train.checkpoint import Checkpointer
from lingen.train.ema import EMA
from lingen.train.observers.lockstep import Lockstep
from lingen.train.observers.preemption import Notice

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEFitConfig:
    """How the TAE is trained: all that decides its weights."""

    preset: str = "tae_paper"
    """tae_paper (Movie Gen's shape) or tae_tiny (tests and demo)"""
    steps: int = 100_000
    """updates"""
    batch_size: int = 16
    """windows in a global batch"""
    crop: int = 256
    """side of the random square that is cut from a window, in pixels"""
    frames: int = 16
    """frames that are cut from a video window"""
    image_share: float = 0.25
    """share of the steps that train on images (single frames)"""
    lr: float = 1e-4
    """peak learning rate of AdamW; falls to 0 by a half-cosine"""
    warmup: int = 500
    """steps of linear warm-up"""
    outlier_weight: float = 1e-3
    """weight of the outlier penalty; Movie Gen's is 1e5 on sums, others measured lower PSNR with it, so small here"""
    perceptual: Path | None = None
    """file with the weights of torchvision's vgg16; without it there is no perceptual loss"""
    perceptual_weight: float = 0.1
    """weight of the perceptual loss"""
    adversarial_weight: float = 0.0
    """weight of the discriminator's verdict; 0 trains no discriminator"""
    adversarial_start: int = 0
    """step from which there is a discriminator: first a decoder that is worth judging"""
    ema_decay: float = 0.999
    """decay of the averaged weights"""
    seed: int = 0
    """of initial weights and crops"""
    log_every: int = 10
    """steps between reported metrics"""
    validate_every: int = 1000
    """steps between validations on held-out windows"""
    checkpoint_every: int = 1000
    """steps between checkpoints"""

    def __post_init__(self):
        if self.preset not in TAE_PRESETS:
            raise ValueError(f"fit.preset: {self.preset} is unknown; the presets are {', '.join(TAE_PRESETS)}")
        factor = TAE_PRESETS[self.preset].spatial_factor
        if self.crop < factor or self.crop % factor:
            raise ValueError(f"fit.crop: must be a multiple of {factor}, got {self.crop}")
        for name in ("steps", "batch_size", "frames", "log_every", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("outlier_weight", "perceptual_weight", "adversarial_weight", "adversarial_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"fit.{name}: must not be negative, got {getattr(self, name)}")
        if self.perceptual is not None and not self.perceptual.is_file():
            raise ValueError(f"fit.perceptual: there is no file {self.perceptual}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TAEHooks:
    """What the caller wants to hear; called by rank 0."""

    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None
    """once a step at most"""
    pictures: Callable[[int, list[np.ndarray]], None] = lambda step, videos: None
    """held-out windows beside their reconstructions, uint8 (T, H, 2 W, 3)"""
    notice: Callable[[], Notice] = lambda: Notice.NONE
    """asked every step; what it answers, all ranks do"""


Pixels = Sequence[Callable[[], np.ndarray]]
"""Windows as functions that read uint8 (T, H, W, 3); images have one frame."""


class Objective(nn.Module):
    """The whole loss as one forward pass, as DistributedDataParallel needs it.

    The discriminator's own loss is part of the sum: its gradient reaches the discriminator alone, and that of its
    verdict the TAE alone, so one backward pass and one optimizer train both.
    """

    def __init__(self, tae: TAE, config: TAEFitConfig):
        super().__init__()
        self.tae, self.config = tae, config
        self.perceptual = PerceptualLoss(config.perceptual) if config.perceptual and config.perceptual_weight else None
        self.discriminator = PatchDiscriminator() if config.adversarial_weight else None

    @property
    def trained(self) -> nn.Module:
        """What checkpoints hold."""
        if self.discriminator is None:
            return self.tae
        return nn.ModuleDict({"tae": self.tae, "discriminator": self.discriminator})

    def forward(self, video_B3THW: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        latent = self.tae.encode_raw(video_B3THW)
        decoded = self.tae.decode_raw(latent, video_B3THW.shape[2])
        parts = {"l1": (decoded - video_B3THW).abs().mean(), "outliers": outlier_penalty(latent)}
        loss = parts["l1"] + config.outlier_weight * parts["outliers"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(decoded, video_B3THW)
            loss = loss + config.perceptual_weight * parts["perceptual"]
        if self.discriminator is not None and step >= config.adversarial_start:
            parts["adversarial"] = self.discriminator.verdict(decoded)
            parts["discriminator"] = self.discriminator.loss(video_B3THW, decoded)
            loss = loss + config.adversarial_weight * parts["adversarial"] + parts["discriminator"]
        elif self.discriminator is not None:  # gradients of 0: optimizer and workers know it from the first step on
            loss = loss + 0 * sum(p.sum() for p in self.discriminator.parameters())
        return loss, {name: value.detach() for name, value in parts.items()}


def fit_tae(
    config: TAEFitConfig, videos: Pixels, images: Pixels, held_out: Pixels, output: Path, hooks: TAEHooks = TAEHooks()
) -> tuple[TAE, dict[str, float], bool]:
    """Train to the end, from the newest checkpoint in `output` if there is one. Needs an initialised process group.

    Returns (the TAE with averaged weights and measured shift and scale, the last validation, finished); finished is
    False when `hooks.notice` asked to stop: then there is a checkpoint and nothing else to use.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(config.seed)
    tae = TAE(TAE_PRESETS[config.preset])
    if tae.config.linear_shortcut:
        _start_from_data(tae, videos or images, config)
    objective = Objective(tae, config).to(device)
    if rank == 0 and objective.perceptual is None:
        log.info("no perceptual loss: fit.perceptual names no weights of torchvision's vgg16")
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    ema = EMA(tae, config.ema_decay)
    checkpointer = Checkpointer(output / "checkpoints", objective.trained, ema, optimizer)
    lockstep = Lockstep()
    meta = checkpointer.load_newest()
    start = meta["step"] if meta else 0
    parallel = DistributedDataParallel(objective) if world > 1 else objective

    if start == 0:
        report = validate(tae, ema, held_out)
        if rank == 0:
            hooks.log(0, report)
    began, since = time.perf_counter(), start
    for step in range(start, config.steps):
        lockstep.say(hooks.notice())
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(config, step)
        places = range(rank, config.batch_size, world)
        batch = torch.stack([_crop(config, videos, images, step, place) for place in places]).to(device)
        loss, parts = parallel(batch, step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(tae.parameters(), 1.0)
        if objective.discriminator is not None:
            norm = norm + 0 * nn.utils.clip_grad_norm_(objective.discriminator.parameters(), 1.0)  # nan if either is
        if torch.isfinite(norm):
            optimizer.step()
            ema.update(tae)
        optimizer.zero_grad()

        done = step + 1
        last = done == config.steps
        metrics = {}
        if done % config.log_every == 0 or last:
            seconds = (time.perf_counter() - began) / (done - since)
            began, since = time.perf_counter(), done
            metrics |= {name: value.item() for name, value in parts.items()}
            metrics |= {"grad_norm": norm.item(), "lr": _learning_rate(config, step), "step_s": seconds}
        if done % config.validate_every == 0 or last:
            report = validate(tae, ema, held_out)
            metrics |= report
            if rank == 0:
                hooks.pictures(done, reconstructions(tae, ema, held_out))
        if rank == 0 and metrics:
            hooks.log(done, metrics)
        (notice,) = lockstep.hear()
        if done % config.checkpoint_every == 0 or last or notice:
            checkpointer.save(done, {})
        if notice == Notice.STOP and not last:
            checkpointer.wait()
            return tae, {}, False
    checkpointer.wait()
    if start >= config.steps:
        report = validate(tae, ema, held_out)
    _take_average(tae, ema)
    measure_normalisation(tae, [*videos, *images])
    return tae.eval(), report, True


def validate(tae: TAE, ema: EMA, held_out: Pixels) -> dict[str, float]:
    """PSNR (dB) and SSIM of held-out windows with averaged weights; PSNR also above that of their mean colours."""
    gains, values, similar = [], [], []
    with ema.applied_to(tae), torch.no_grad():
        for read in held_out:
            video = _to_tensor(read())[None].to(next(tae.parameters()).device)
            decoded = tae.decode_raw(tae.encode_raw(video), video.shape[2])
            colour = video.mean((2, 3, 4), keepdim=True).expand_as(video)
            values.append(psnr(decoded, video).item())
            similar.append(ssim(decoded, video).item())
            gains.append(values[-1] - psnr(colour, video).item())
    if not values:
        return {}
    return {
        "held_out/psnr": float(np.mean(values)),
        "held_out/ssim": float(np.mean(similar)),
        "held_out/gain_over_mean_colour": float(np.mean(gains)),
        "held_out/smallest_gain": float(np.min(gains)),
    }


def reconstructions(tae: TAE, ema: EMA, held_out: Pixels, count: int = 4) -> list[np.ndarray]:
    """Some held-out windows, original on the left, decoded on the right; uint8 (T, H, 2 W, 3)."""
    from lingen.io.video import to_uint8

    pictures = []
    with ema.applied_to(tae), torch.no_grad():
        for read in held_out[:: max(1, len(held_out) // count)][:count]:
            video = _to_tensor(read())[None].to(next(tae.parameters()).device)
            decoded = tae.decode_raw(tae.encode_raw(video), video.shape[2])
            pictures.append(np.concatenate([to_uint8(video[0]), to_uint8(decoded[0])], axis=2))
    return pictures


@torch.no_grad()
def measure_normalisation(tae: TAE, windows: Pixels, limit: int = 256) -> None:
    """Set the TAE's shift and scale to mean and standard deviation of raw latents, per channel."""
    sums = None
    for read in windows[:: max(1, len(windows) // limit)][:limit]:
        latent = tae.encode_raw(_to_tensor(read())[None].to(next(tae.parameters()).device))
        flat = latent.transpose(0, 1).flatten(1).double()
        part = torch.stack([flat.sum(1), flat.square().sum(1), torch.full_like(flat[:, 0], flat.shape[1])])
        sums = part if sums is None else sums + part
    mean = sums[0] / sums[2]
    tae.set_normalisation(mean.float(), (sums[1] / sums[2] - mean.square()).clamp_min(0).sqrt().float())


def _start_from_data(tae: TAE, windows: Pixels, config: TAEFitConfig, limit: int = 128) -> None:
    chosen = windows[:: max(1, len(windows) // limit)][:limit]
    crops = [_cut(read(), config, np.random.default_rng([config.seed, i])) for i, read in enumerate(chosen)]
    tae.start_from_principal_components(torch.stack([_to_tensor(c) for c in crops]))


def _learning_rate(config: TAEFitConfig, step: int) -> float:
    rise = min(1.0, (step + 1) / max(config.warmup, 1))
    return config.lr * rise * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))


def _crop(config: TAEFitConfig, videos: Pixels, images: Pixels, step: int, place: int) -> Tensor:
    """The sample at a place of a step's global batch: a random cut of a random window; (3, T, H, W) in [-1, 1]."""
    draw = np.random.default_rng([config.seed, step])
    use_images = bool(images) and (not videos or draw.random() < config.image_share)
    windows = images if use_images else videos
    rng = np.random.default_rng([config.seed, step, place])
    return _to_tensor(_cut(windows[rng.integers(len(windows))](), config, rng))


def _cut(window_THW3: np.ndarray, config: TAEFitConfig, rng: np.random.Generator) -> np.ndarray:
    frames, height, width = window_THW3.shape[:3]
    length = min(config.frames, frames)
    t = rng.integers(frames - length + 1)
    side_h, side_w = min(config.crop, height), min(config.crop, width)
    y, x = rng.integers(height - side_h + 1), rng.integers(width - side_w + 1)
    cut = window_THW3[t : t + length, y : y + side_h, x : x + side_w]
    if cut.shape[1:3] != (config.crop, config.crop):  # a wide bucket is lower than the square crop: mirror it
        pad = ((0, 0), (0, config.crop - side_h), (0, config.crop - side_w), (0, 0))
        cut = np.pad(cut, pad, mode="symmetric")
    return cut[:, :, ::-1] if rng.random() < 0.5 else cut


def _to_tensor(frames_THW3: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(frames_THW3)).permute(3, 0, 1, 2).float() / 127.5 - 1


def _take_average(tae: TAE, ema: EMA) -> None:
    with torch.no_grad():
        for name, parameter in tae.named_parameters():
            parameter.copy_(ema.weights[name])
