"""The stages as data: shapes that the latent grid and the patch divide, and names that state the resolution."""

from lingen.model.presets import PRESETS
from lingen.model.stages import ALL_STAGES, DEMO_STAGES, STAGES, TUNING_STAGES


def test_stages_are_the_papers():
    assert [stage.latent_shape[0] for stage in STAGES] == [1, 34, 34, 68, 136]
    assert [round(stage.seconds) for stage in STAGES] == [0, 17, 17, 34, 68]
    assert sum(stage.steps for stage in STAGES) == 295_000
    assert sum(stage.h100_days for stage in STAGES) == 9_405
    for stage in STAGES:
        assert stage.height % 16 == 0
        assert stage.width % 16 == 0
        assert min(PRESETS["lingen_4b"].token_grid(stage.latent_shape)) >= 1


def test_names_are_unique_and_state_the_resolution():
    assert len(ALL_STAGES) == len(STAGES) + len(TUNING_STAGES) + len(DEMO_STAGES)
    assert [ALL_STAGES[name].resolution for name in ("t2i_256p", "tune_512p_68s", "demo_t2v_96p_1s")] == [256, 512, 96]
    for stage in ALL_STAGES.values():
        assert abs(stage.height * stage.width / stage.resolution**2 - 1) < 0.1
        assert (stage.seconds == 0) == (stage.frames == 1)
