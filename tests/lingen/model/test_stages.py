"""The paper's stages as data: shapes that the latent grid and the patch divide."""

from lingen.model.presets import PRESETS
from lingen.model.stages import STAGES


def test_stages_are_the_papers():
    assert [stage.latent_shape[0] for stage in STAGES] == [1, 34, 34, 68, 136]
    assert [round(stage.seconds) for stage in STAGES] == [0, 17, 17, 34, 68]
    assert sum(stage.steps for stage in STAGES) == 295_000
    assert sum(stage.h100_days for stage in STAGES) == 9_405
    for stage in STAGES:
        assert stage.height % 16 == 0
        assert stage.width % 16 == 0
        assert min(PRESETS["lingen_4b"].token_grid(stage.latent_shape)) >= 1
