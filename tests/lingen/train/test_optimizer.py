"""AdamW: weight decay on matrices alone."""

from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.train.config import FitConfig
from lingen.train.optimizer import build_optimizer, parameter_groups

TINY = DenoiserConfig(
    width=32, depth=2, heads=2, mamba2_state=8, ssm_head_dim=16, text_dims=(8, 6), position_sizes=(4, 4, 4)
)


def test_every_parameter_is_in_one_group_and_only_matrices_decay():
    model = Denoiser(TINY)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, rest = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.1))
    assert sorted([*decayed, *rest]) == sorted(names.values())
    shapes = {name: p.ndim for name, p in model.named_parameters()}
    assert all(shapes[name] >= 2 for name in decayed)
    tables = {name for name in rest if shapes[name] >= 2}
    assert any("positions" in name for name in tables)
    assert any("modulation" in name for name in tables)
    assert all("positions" in name or "modulation" in name for name in tables)


def test_the_settings_reach_the_optimizer():
    groups = build_optimizer(Denoiser(TINY), FitConfig(lr=3e-4, beta2=0.9, weight_decay=0.2)).param_groups
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in groups] == [(3e-4, (0.9, 0.9), w) for w in (0.2, 0.0)]
