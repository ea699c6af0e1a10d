"""The denoiser as a whole: its contract, identity at the start, ablation switches, errors for bad input."""

import dataclasses
import json

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from lingen.model.denoiser import Denoiser, DenoiserConfig, initial_weights

SMALL = DenoiserConfig(
    width=48,
    depth=2,
    heads=2,
    latent_channels=4,
    text_dims=(12, 20),
    tesa_window=(4, 2, 2),
    review_pool=(2, 2, 2),
    mamba2_state=16,
    mamba1_state=4,
    ssm_head_dim=16,
    ssd_chunk=16,
    position_sizes=(4, 4, 4),
)
ABLATIONS = {
    "default": {},
    "no TESA": {"tesa": False},
    "no RMS": {"scan": "raster"},
    "Zigzag": {"scan": "zigzag"},
    "Hilbert": {"scan": "hilbert"},
    "Mamba-1": {"ma_branch": "mamba1"},
    "no MA-branch": {"ma_branch": "none"},
    "no review tokens": {"review_tokens": False},
    "DiT": {"mixer": "attention"},
    "review in one pass": {"review_both_passes": False},
    "adaLN per layer": {"adaln": "layer"},
}


def build(config=SMALL, seed=0, perturb=True) -> Denoiser:
    """A model; `perturb` moves the weights that start at zero, so that every part contributes."""
    torch.manual_seed(seed)
    model = Denoiser(config)
    if perturb:
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
    return model


def some_text(batch, dims=(12, 20), lengths=(5, 3), drop=()):
    text = []
    for dim, length in zip(dims, lengths):
        mask = torch.ones(batch, length, dtype=torch.bool)
        mask[list(drop)] = False
        text.append((torch.randn(batch, length, dim), mask))
    return text


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_trains_and_samples(name):
    torch.manual_seed(1)
    model = build(dataclasses.replace(SMALL, **ABLATIONS[name]), perturb=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    clean, noise = torch.randn(2, 2, 4, 3, 4, 6)
    text = some_text(2, drop=[1])
    losses = []
    for _ in range(25):
        t = torch.rand(2)
        mixed = t[:, None, None, None, None] * clean + (1 - t)[:, None, None, None, None] * noise
        loss = (model(mixed, t, text) - (clean - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not unused
    with torch.no_grad():
        x = torch.randn_like(clean)
        for i in range(4):
            x = x + model(x, torch.full((2,), i / 4), text) / 4
    assert x.shape == clean.shape
    assert x.isfinite().all()


def test_fresh_layers_are_the_identity_and_the_fresh_model_outputs_zero():
    model = build(perturb=False)
    x = torch.randn(2, 3, 2, 2, 48)
    text, mask = model.text(some_text(2))
    modulation = model.adaln(model.timestep(torch.rand(2)))
    for layer in model.layers:
        assert torch.equal(layer(x, modulation, model.positions(3, 2, 2), text, mask), x)
    assert model(torch.randn(1, 4, 2, 4, 4), torch.rand(1), some_text(1)).abs().max() == 0


def test_text_is_read_padding_is_not_and_null_text_ignores_everything():
    model = build()
    x, t = torch.randn(1, 4, 2, 4, 4), torch.rand(1)
    (a, ma), (b, mb) = some_text(1)
    base = model(x, t, [(a, ma), (b, mb)])
    assert not torch.allclose(model(x, t, [(a + 1, ma), (b, mb)]), base, atol=1e-3)
    padded = (torch.cat([a, torch.full((1, 2, 12), torch.nan)], 1), torch.cat([ma, torch.zeros(1, 2).bool()], 1))
    torch.testing.assert_close(model(x, t, [padded, (b, mb)]), base)
    one = model(x, t, some_text(1, drop=[0]))
    other = model(x, t, some_text(1, lengths=(9, 4), drop=[0]))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(one, base, atol=1e-3)


def test_one_row_does_not_touch_another():
    model = build()
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.rand(2), some_text(2)
    both = model(x, t, text)
    alone = model(x[1:], t[1:], [(e[1:], m[1:]) for e, m in text])
    torch.testing.assert_close(both[1:], alone, atol=2e-6, rtol=1e-5)


def test_an_image_is_a_one_frame_video():
    model = build()
    text = some_text(1)
    image = torch.randn(1, 4, 1, 4, 4)
    out = model(image, torch.rand(1), text)
    assert out.shape == image.shape
    out.sum().backward()
    assert model.positions.tables[0].grad[0].abs().sum() > 0
    assert model.positions.tables[0].grad[1:].abs().sum() == 0


def test_any_size_runs():
    x = torch.randn(1, 4, 6, 14, 10)
    assert build()(x, torch.rand(1), some_text(1)).shape == x.shape


@pytest.mark.parametrize("changes", ABLATIONS.values(), ids=ABLATIONS)
def test_the_weights_part_by_part_are_those_of_the_whole(changes):
    config = dataclasses.replace(SMALL, **changes)
    torch.manual_seed(5)
    whole = dict(Denoiser(config).named_parameters())
    torch.manual_seed(5)
    found = dict(initial_weights(config))
    assert sorted(found) == sorted(whole)
    assert all(torch.equal(found[name], p) for name, p in whole.items())


def test_the_initial_weights_depend_on_the_seed_alone():
    a, b, c = (build(seed=s, perturb=False).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_checkpointed_layers_give_the_same_gradients():
    x, t, text = torch.randn(1, 4, 3, 4, 6), torch.rand(1), some_text(1)
    plain, saving = build(), build()
    plain(x, t, text).square().sum().backward()
    for layer in saving.layers:
        forward = layer.forward
        layer.forward = lambda *a, forward=forward: checkpoint(forward, *a, use_reentrant=False)
    saving(x, t, text).square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("name", ABLATIONS)
def test_memory_for_the_backward_pass_is_linear_in_tokens(name):
    model = build(dataclasses.replace(SMALL, **ABLATIONS[name]))

    def saved_bytes(frames):
        storages = {}

        def keep(z):
            storages[z.untyped_storage().data_ptr()] = z.untyped_storage()
            return z

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda z: z):
            loss = model(torch.randn(1, 4, frames, 8, 8), torch.rand(1), some_text(1)).sum()
        assert loss.requires_grad
        return sum(s.nbytes() for s in storages.values())

    small, large, larger = (saved_bytes(frames) for frames in (16, 32, 48))
    assert larger - large == pytest.approx(large - small, rel=0.1)


@pytest.mark.parametrize("name", ABLATIONS)
def test_bf16_is_close_to_float32(name):
    model = build(dataclasses.replace(SMALL, **ABLATIONS[name]))
    x, t, text = torch.randn(2, 4, 5, 6, 6), torch.rand(2), some_text(2, drop=[0])
    full = model(x, t, text)
    with torch.autocast("cpu", torch.bfloat16):
        auto = model(x, t, text)
    half = model.to(torch.bfloat16)(x, t, text)
    for low in (auto, half):
        assert low.dtype == torch.float32  # the input's dtype
        assert (low - full).norm() / full.norm() < 0.05


def test_config_survives_json():
    config = dataclasses.replace(SMALL, scan="zigzag", ffn_ratio=4.0)
    assert DenoiserConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown field colour"):
        DenoiserConfig.from_dict({"colour": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "heads: 5 does not divide width 48"),
        ({"ssm_head_dim": 36}, "ssm_head_dim: 36 does not divide"),
        ({"ssd_backend": "cuda"}, "ssd_backend: 'cuda' is unknown"),
        ({"attention_backend": "magic"}, "attention_backend: 'magic' is unknown"),
        ({"scan": "spiral"}, "scan: 'spiral' is unknown"),
        ({"tesa": False, "ma_branch": "none"}, "tesa: with ma_branch none"),
        ({"patch": (1, 2)}, "patch: three numbers"),
        ({"review_pool": (0, 1, 1)}, "review_pool: 0 is too small"),
        ({"text_dims": ()}, "text_dims: at least one"),
    ],
)
def test_impossible_configurations_say_what_to_change(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_bad_input_names_the_field():
    model, t, text = build(), torch.rand(1), some_text(1)
    with pytest.raises(ValueError, match="H = 5 is not a positive multiple of the patch size 2"):
        model(torch.randn(1, 4, 2, 5, 4), t, text)
    with pytest.raises(ValueError, match="latent_channels must match"):
        model(torch.randn(1, 3, 2, 4, 4), t, text)
    with pytest.raises(ValueError, match="1 encoder outputs given"):
        model(torch.randn(1, 4, 2, 4, 4), t, text[:1])
    with pytest.raises(ValueError, match="width 20 where text_dims has 12"):
        model(torch.randn(1, 4, 2, 4, 4), t, text[::-1])
