"""Flow matching: the path from noise to data, its velocity, noise and times of a sample, the loss."""

import torch

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


def test_the_velocity_is_the_difference_of_the_paths_ends_to_the_last_digit():
    """X_1 - (1 - sigma_min) X_0 is what the path travels from t = 0 to t = 1; sigma_min shows in float64 only."""
    data, noise = torch.randn(2, 4, 1, 3, 3, dtype=torch.float64), torch.randn(2, 4, 1, 3, 3, dtype=torch.float64)
    (start, velocity), (end, _) = (interpolate(data, noise, torch.full((2,), t).double()) for t in (0.0, 1.0))
    torch.testing.assert_close(end - start, velocity, rtol=0, atol=1e-12)


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
    assert per_sample_loss(velocity, velocity).tolist() == [0.0, 0.0]
    assert per_sample_loss(velocity, velocity - 3).tolist() == [9.0, 9.0]
