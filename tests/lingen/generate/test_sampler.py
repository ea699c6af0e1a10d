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


@pytest.mark.parametrize(("guidance", "expected", "calls"), [(0.0, -1.0, 2), (1.0, 3.0, 1), (2.0, 7.0, 2)])
def test_guidance_goes_from_the_unconditional_prediction_through_the_conditional_one(guidance, expected, calls):
    seen = []

    def model(x, t, text):
        (words, mask), seen_t = text[0], t.tolist()
        seen.append((seen_t, bool(mask.any()), words.shape))
        return torch.full_like(x, 3.0 if mask.any() else -1.0)

    text = [(torch.ones(2, 2, 3), torch.ones(2, 2, dtype=torch.bool))]
    out = sample(model, torch.zeros(2, 1, 1, 1, 1), text, SamplerConfig(steps=4, guidance=guidance))
    assert out.flatten().tolist() == pytest.approx([expected] * 2)
    assert [t for t, with_text, _ in seen if with_text] == [[i / 4] * 2 for i in range(4)], "velocity at each start"
    assert len(seen) == 4 * calls
    assert {shape for _, _, shape in seen} == {(2, 2, 3)}


@pytest.mark.parametrize(("steps", "emulated"), [(4, 1000), (5, 1000), (50, 1000), (51, 100), (40, 10)])
def test_linear_quadratic_starts_like_many_linear_steps_and_then_grows_quadratically(steps, emulated):
    times = step_times(SamplerConfig(steps=steps, timesteps="linear-quadratic"), emulated)
    first = 1 / max(emulated, steps)
    half = steps // 2
    assert times[: half + 1].tolist() == pytest.approx([k * first for k in range(half + 1)])
    widths = times.diff()
    growth = widths[half - 1 :].diff()  # the first is from the last linear step: half of the others
    assert growth[1:].tolist() == pytest.approx([2 * growth[0].item()] * (len(growth) - 1))
    assert times[-1].item() == pytest.approx(1.0)
    assert growth.min() > -1e-12


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_even(steps):
    times = step_times(SamplerConfig(steps=steps, timesteps="linear-quadratic"))
    assert times.tolist() == pytest.approx([i / steps for i in range(steps + 1)])


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


@pytest.mark.parametrize("bad", [{"steps": 0}, {"guidance": -0.1}, {"timesteps": "karras"}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"sampler.{next(iter(bad))}"):
        SamplerConfig(**bad)
