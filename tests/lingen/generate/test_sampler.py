"""The sampler: Euler steps along known fields, guidance, spacing of the steps, errors."""

import pytest
import torch

from lingen.generate.sampler import SamplerConfig, sample, step_times


def exact_model(data):
    """The true velocity field for a data set of one point."""
    return lambda x, t, text: (data - x) / (1 - t.view(-1, 1, 1, 1, 1)).clamp_min(1e-6)


@pytest.mark.parametrize("timesteps", ["linear", "linear-quadratic"])
def test_euler_reaches_the_data_of_a_known_field(timesteps):
    data, noise = torch.randn(1, 4, 1, 3, 3), torch.randn(1, 4, 1, 3, 3)
    text = [(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))]
    out = sample(exact_model(data), noise, text, SamplerConfig(steps=20, guidance=1.0, timesteps=timesteps))
    torch.testing.assert_close(out, data, atol=1e-3, rtol=1e-3)


def test_guidance_moves_away_from_the_unconditional_prediction():
    def model(x, t, text):
        return torch.ones_like(x) if text[0][1].any() else torch.zeros_like(x)

    text = [(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))]
    seen = []
    out = sample(model, torch.zeros(1, 1, 1, 1, 1), text, SamplerConfig(steps=4, guidance=3.0), seen.append)
    assert out.item() == pytest.approx(3.0)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("steps", [1, 2, 5, 50, 51])
def test_timesteps_cover_zero_to_one(steps):
    for timesteps in ("linear", "linear-quadratic"):
        times = step_times(SamplerConfig(steps=steps, timesteps=timesteps))
        assert len(times) == steps + 1
        assert times[0] == 0
        assert times[-1] == pytest.approx(1.0)
        assert (times.diff() > 0).all()
    if steps == 50:
        assert times[25] == pytest.approx(0.025), "dense near the noise"


@pytest.mark.parametrize("bad", [{"steps": 0}, {"guidance": -1.0}, {"timesteps": "karras"}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"sampler.{next(iter(bad))}"):
        SamplerConfig(**bad)
