"""Cards by name and by description."""

import pytest

from lingen.plan.gpus import GPUS, parse_gpu


def test_a_plan_fills_72_of_80_gib_and_assumes_the_rates_of_the_notes():
    h100 = parse_gpu("h100")
    assert h100.usable_gib == pytest.approx(72)
    assert h100.gemm_tflops == pytest.approx(650, rel=0.001)
    assert h100.stream_gbps == pytest.approx(2800, rel=0.001)
    assert set(GPUS) == {"a100-80", "h100", "h200", "b200"}


def test_a_card_can_be_described():
    card = parse_gpu("mi300x:192:1307:5300")
    assert (card.name, card.memory_gib, card.tflops, card.gbps) == ("mi300x", 192, 1307, 5300)


@pytest.mark.parametrize(
    "text", ["h101", "mine:80:900", "mine:80:900:x", "mine:0:900:3000", ":80:900:3000", "m:1:2:nan"]
)
def test_anything_else_is_refused_with_the_names(text):
    with pytest.raises(ValueError, match=r"--gpu: .* use a100-80, h100, h200, b200, or name:GB:TFLOPS:GBps"):
        parse_gpu(text)
