"""The definition of the scan, by hand."""

import torch

from lingen.ssd import ssd


def test_the_definition_by_hand():
    one = torch.ones(1, 3, 1)
    y, final = ssd(
        torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1, 1), one, -torch.tensor([0.5]), one, 3 * one, backend="reference"
    )
    decay = torch.tensor(-0.5).exp()
    torch.testing.assert_close(y.flatten(), 3 * torch.stack([one[0, 0, 0], decay, decay**2 + 2]))
    torch.testing.assert_close(final.flatten()[0], decay**2 + 2)
