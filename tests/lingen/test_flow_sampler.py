import pytest
import torch

from lingen.generate.sampler import SamplerConfig, sample, step_times
from lingen.train.flow import SIGMA_MIN, draw_noise_and_times, interpolate, per_sample_loss


def test_path_starts_at_noise_and_ends_at_data():
    data, noise = torch.randn(2, 4, 1, 3, 3), torch.randn(2, 4, 1, 3, 3)
    start, velocity = interpolate(data, noise, torch.tensor([0.0, 0.0]))
    end, _ = interpolate(data, noise, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(start, noise)
    torch.testing.assert_close(end, data + SIGMA_MIN * noise)
    # The velocity is the path's derivative.
    a, _ = interpolate(data, noise, torch.tensor([0.3, 0.7]))
    b, _ = interpolate(data, noise, torch.tensor([0.4, 0.8]))
    torch.testing.assert_close((b - a) / 0.1, velocity, atol=1e-4, rtol=1e-4)


def test_noise_belongs_to_the_sample_not_to_the_batch():
    together, times = draw_noise_and_times([5, 6, 7], (2, 1, 4, 4))
    alone, time = draw_noise_and_times([6], (2, 1, 4, 4))
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)
    assert times[1] == time[0]


def test_times_are_logit_normal():
    _, times = draw_noise_and_times(range(4000), (1,))
    logits = torch.logit(times)
    assert abs(logits.mean()) < 0.08
    assert abs(logits.std() - 1) < 0.05


def test_loss_is_per_sample():
    target = torch.zeros(2, 3, 1, 2, 2)
    velocity = torch.stack([torch.zeros(3, 1, 2, 2), torch.full((3, 1, 2, 2), 2.0)])
    assert per_sample_loss(velocity, target).tolist() == [0.0, 4.0]


def exact_model(data):
    """The true velocity field for a data set of one point."""
    return lambda x, t, text: (data - x) / (1 - t.view(-1, 1, 1, 1, 1)).clamp_min(1e-6)


@pytest.mark.parametrize("schedule", ["linear", "linear-quadratic"])
def test_euler_reaches_the_data_of_a_known_field(schedule):
    data, noise = torch.randn(1, 4, 1, 3, 3), torch.randn(1, 4, 1, 3, 3)
    text = [(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))]
    out = sample(exact_model(data), noise, text, SamplerConfig(steps=20, guidance=1.0, schedule=schedule))
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
def test_schedules_cover_zero_to_one(steps):
    for schedule in ("linear", "linear-quadratic"):
        times = step_times(SamplerConfig(steps=steps, schedule=schedule))
        assert len(times) == steps + 1
        assert times[0] == 0
        assert times[-1] == pytest.approx(1.0)
        assert (times.diff() > 0).all()
    if steps == 50:
        assert times[25] == pytest.approx(0.025), "dense near the noise"


@pytest.mark.parametrize("bad", [{"steps": 0}, {"guidance": -1.0}, {"schedule": "karras"}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=f"sampler.{next(iter(bad))}"):
        SamplerConfig(**bad)
