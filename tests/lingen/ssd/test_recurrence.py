"""The linear recurrence against a plain loop."""

import pytest
import torch

from lingen.ssd.recurrence import linear_recurrence


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 10, 17])
def test_linear_recurrence(steps, reverse):
    decay, value, initial = torch.rand(2, steps, 3, 1), torch.randn(2, steps, 3, 4), torch.randn(2, 3, 4)
    before, last = linear_recurrence(decay, value, initial, reverse)
    state = initial
    for c in reversed(range(steps)) if reverse else range(steps):
        torch.testing.assert_close(before[:, c], state)
        state = decay[:, c] * state + value[:, c]
    torch.testing.assert_close(last, state)
