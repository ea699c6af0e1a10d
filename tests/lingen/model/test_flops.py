"""FLOPs: the formulas against PyTorch's counter and the paper's equations; parameters; the stage table."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lingen.model import flops
from lingen.model.denoiser import Denoiser, DenoiserConfig
from lingen.model.flops import forward_flops, mixer_flops, parameter_count, peak_flops, stage_table
from lingen.model.presets import PRESETS

SMALL = DenoiserConfig(
    width=256,
    depth=2,
    heads=4,
    text_dims=(64, 32),
    tesa_window=(4, 2, 2),
    review_pool=(2, 2, 2),
    mamba2_state=32,
    ssm_head_dim=32,
)
VARIANTS = {
    "default": {},
    "E = 2": {"ssm_expand": 2},
    "Mamba-1": {"ma_branch": "mamba1"},
    "Mamba-1, E = 2": {"ma_branch": "mamba1", "ssm_expand": 2},
    "no MA-branch": {"ma_branch": "none"},
    "no TESA": {"tesa": False},
    "no review tokens": {"review_tokens": False},
    "review in one pass": {"review_both_passes": False},
    "adaLN per layer": {"adaln": "layer"},
    "Zigzag": {"scan": "zigzag"},
    "DiT": {"mixer": "attention", "ffn_ratio": 4.0},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("latents", [(5, 12, 14), (1, 16, 16)])
def test_formulas_agree_with_the_counter_within_one_percent(name, latents):
    config = dataclasses.replace(SMALL, **VARIANTS[name])
    model = Denoiser(config)
    lengths = (9, 4)
    text = [(torch.randn(1, n, d), torch.ones(1, n, dtype=torch.bool)) for n, d in zip(lengths, config.text_dims)]
    # The counter does not support the CPU's fused attention, only the plain one.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.randn(1, config.latent_channels, *latents), torch.rand(1), text)
    ours = sum(forward_flops(config, latents, sum(lengths), executed=True).values())
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("E", [1, 2])
def test_mamba2_is_the_papers_equation_1_to_3(E):
    c, N, d, d_s, d_h, K = dataclasses.replace(PRESETS["lingen_4b"], ssm_expand=E), 143_616, 2560, 128, 64, 4
    cost = flops.mamba2_flops(c, N, R=0, after=0)
    equation_1 = (6 + 2 / d_h) * E * N * d**2 + 4 * N * d_s * d
    assert cost["projections"] == pytest.approx(equation_1)
    assert flops.bimamba_flops(N, d, E, d_s, d_h) == pytest.approx(equation_1)
    assert cost["conv"] == 2 * (2 * E * K * (N + K - 1) * d)
    assert cost["ssm"] == 2 * (4 * E * N * d_s * d + 2 * E * N * d)


def matmul(rows, inner, columns):
    return 2 * rows * inner * columns


@pytest.mark.parametrize("E", [1, 2])
def test_a_mamba2_with_review_tokens_by_hand(E):
    """The directions scan R + N tokens; the tokens after the video are projected, not scanned."""
    c = dataclasses.replace(SMALL, ssm_expand=E)
    N, R, after, inner = 50, 6, 3, 256 * E
    cost = flops.mamba2_flops(c, N, R, after)
    z_x_B_C_dt = inner + inner + 32 + 32 + inner // 32
    assert cost["projections"] == matmul(R + N + after, 256, z_x_B_C_dt) + matmul(N, inner, 256)
    assert cost["conv"] == 2 * (2 * E * c.ssm_conv * (56 + c.ssm_conv - 1) * 256)
    assert cost["ssm"] == 2 * (4 * E * 56 * 32 * 256 + 2 * E * 56 * 256)


@pytest.mark.parametrize("E", [1, 2])
def test_a_mamba1_with_review_tokens_by_hand(E):
    """Of each direction its own: from x to dt (rank d / 16), B and C; and from that rank to dt of every channel."""
    c = dataclasses.replace(SMALL, ma_branch="mamba1", ssm_expand=E, mamba1_state=8)
    N, R, after, inner, rank = 50, 6, 3, 256 * E, 16
    cost = flops.mamba1_flops(c, N, R, after)
    shared = matmul(R + N + after, 256, 2 * inner) + matmul(N, inner, 256)
    each = matmul(R + N, inner, rank + 8 + 8) + matmul(R + N, rank, inner)
    assert cost["projections"] == shared + 2 * each
    assert cost["conv"] == 2 * (2 * E * c.ssm_conv * (56 + c.ssm_conv - 1) * 256)
    assert cost["ssm"] == 2 * (4 * E * 56 * 8 * 256 + 2 * E * 56 * 256)


@pytest.mark.parametrize("E", [1, 2])
def test_executed_convolutions_take_one_product_per_token_channel_and_tap(E):
    """Of Mamba-2, B and C (32 each) are convolved as well as x; of Mamba-1, x alone. There are two directions."""
    c = dataclasses.replace(SMALL, ssm_expand=E, ssm_conv=3)
    for cost, channels in ((flops.mamba2_flops, 256 * E + 32 + 32), (flops.mamba1_flops, 256 * E)):
        assert cost(c, 50, 6, 3, executed=True)["conv"] == 2 * (2 * 3 * 56 * channels)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_second_layers_windows_are_shifted(depth):
    c, latents = dataclasses.replace(SMALL, depth=depth), (5, 12, 14)
    plain, shifted = (flops.window_pairs(c.token_grid(latents), c.tesa_window, s) for s in (False, True))
    assert plain != shifted
    expected = matmul(1, 256, 1) * 2 * sum([plain, shifted, plain][:depth])
    assert forward_flops(c, latents)["tesa.attention"] == expected


@pytest.mark.parametrize(("adaln", "modulations"), [("single", 1), ("layer", 2)])
def test_the_parts_that_are_no_mixer_by_hand(adaln, modulations):
    """A tiny DiT of two layers and 3 x 4 x 5 tokens."""
    c = dataclasses.replace(SMALL, mixer="attention", ffn_ratio=4.0, adaln=adaln)
    tokens, d, text = math.prod(c.token_grid((3, 8, 10))), 256, 7
    assert tokens == 60
    parts = forward_flops(c, (3, 8, 10), text_tokens=text)
    attention = matmul(tokens, d, text + 1) + matmul(tokens, text + 1, d)  # one more: the null token
    cross = 2 * matmul(tokens, d, d) + 2 * matmul(text + 1, d, d) + attention
    assert parts["cross_attention"] == 2 * cross
    assert parts["ffn"] == 2 * 3 * matmul(tokens, d, c.ffn_hidden)
    assert parts["self_attention.projections"] == 2 * 4 * matmul(tokens, d, d)
    assert parts["self_attention.attention"] == 2 * 2 * matmul(tokens, d, tokens)
    patches = 2 * matmul(tokens, c.latent_channels * math.prod(c.patch), d)  # in and out
    timestep = matmul(1, 256, d) + matmul(1, d, d) + modulations * matmul(1, d, 6 * d)
    assert parts["embeddings"] == patches + timestep + matmul(text, 64 + 32, d)
    assert flops.training_flops(c, (3, 8, 10), text) == 3 * sum(parts.values())


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(34, 24, 44), (1, 16, 16), (7, 5, 3)])
@pytest.mark.parametrize("window", [(16, 4, 4), (5, 3, 7)])
def test_window_pairs_by_counting(grid, window, shifted):
    pairs = 1
    for n, w in zip(grid, window):
        ids = torch.div(torch.arange(n) + (w // 2 if shifted else 0), w, rounding_mode="floor")
        pairs *= (ids[:, None] == ids[None]).sum().item()
    assert flops.window_pairs(grid, window, shifted) == pairs


def test_parameters_are_counted_not_estimated():
    assert parameter_count(PRESETS["tiny"]) == sum(p.numel() for p in Denoiser(PRESETS["tiny"]).parameters())


def test_stage_table():
    table = stage_table()
    rows = {row["stage"]: row for row in table["stages"]}
    assert [row["tokens"] for row in table["stages"]] == [256, 8_976, 35_904, 71_808, 143_616]
    assert 14 < rows["t2v_512p_68s"]["mixer_only_ratio"] < 16
    assert rows["t2v_512p_68s"]["whole_model_ratio"] < 8  # the paper's 15 is not a whole-model count
    for row in table["stages"]:
        for model in table["models"]:
            assert sum(row[model]["parts"].values()) == pytest.approx(row[model]["flops"])
    # Linear in the length: four times the tokens of 256p at 512p.
    assert rows["t2v_512p_68s"]["lingen_4b"]["flops"] / rows["t2v_512p_17s"]["lingen_4b"]["flops"] < 4.01


def test_self_attention_dominates_dit_at_length():
    parts = forward_flops(PRESETS["dit_4b"], (136, 48, 88))
    assert parts["self_attention.attention"] == 32 * 4 * math.pow(143_616, 2) * 2560
    assert mixer_flops(parts) == parts["self_attention.attention"] + parts["self_attention.projections"]


def test_command_line(capsys):
    flops.main(["--stages", "--json"])
    assert json.loads(capsys.readouterr().out)["stages"][4]["stage"] == "t2v_512p_68s"
    flops.main(["--stages"])
    readable = capsys.readouterr().out
    assert "143,616" in readable
    assert "mixers only" in readable
    with pytest.raises(SystemExit):
        flops.main([])
    assert "--stages" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        flops.main(["--stages", "--dit", "huge"])
    assert wrong.value.code == 2
    assert "'huge' is unknown" in capsys.readouterr().err


def test_the_table_in_the_docs_is_this_one():
    page = (Path(__file__).parents[3] / "docs" / "model.md").read_text()
    for row in stage_table()["stages"]:
        a, b = (f"{row[model]['flops'] / 1e12:,.1f}" for model in ("lingen_4b", "dit_4b"))
        ratios = f"{row['whole_model_ratio']:.2f}x | {row['mixer_only_ratio']:.2f}x"
        assert f"| {row['stage']} | {row['tokens']:,} | {a} | {b} | {ratios} |" in page


def test_peaks_are_found_by_the_devices_own_names():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("Radeon") is None
