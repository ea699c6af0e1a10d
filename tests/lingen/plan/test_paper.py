"""What the paper's Table 5 implies."""

import pytest

from lingen.model.flops import training_flops
from lingen.model.presets import preset
from lingen.plan.paper import h100_days, implied_mfu


def test_the_mfu_of_the_first_stage_by_hand():
    flops = training_flops(preset("lingen_4b"), (1, 32, 32), 77) * 8192 * 118_000
    assert implied_mfu("t2i_256p", preset("lingen_4b"), 77) == pytest.approx(flops / (1189 * 86_400 * 989e12))
    assert h100_days("t2v_512p_68s") == 1307


def test_stages_that_the_paper_does_not_have_imply_nothing():
    assert implied_mfu("tune_512p_17s", preset("lingen_4b"), 77) is None
    assert h100_days("mine") is None
