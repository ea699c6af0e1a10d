"""SwiGLU against its formula, and its hidden width."""

import pytest
import torch
import torch.nn.functional as F

from lingen.model.ffn import SwiGLU, hidden_width


@pytest.mark.parametrize(("width", "ratio", "hidden"), [(2560, 8 / 3, 6848), (128, 4.0, 512), (48, 8 / 3, 128)])
def test_hidden_width_is_rounded_up_to_64(width, ratio, hidden):
    assert hidden_width(width, ratio) == hidden


def test_it_is_the_formula():
    ffn, x = SwiGLU(8, 24), torch.randn(2, 3, 8)
    gate, up = ffn.gate_up.weight[:24], ffn.gate_up.weight[24:]
    torch.testing.assert_close(ffn(x), (F.silu(x @ gate.T) * (x @ up.T)) @ ffn.down.weight.T)
