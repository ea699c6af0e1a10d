import numpy as np
import pytest

from data_prep.media.hdr import hlg_to_nits, pq_to_nits, to_sdr


def test_pq_and_hlg_pass_through_the_points_of_their_standards():
    assert pq_to_nits(np.array([0.0, 0.508078, 0.751827, 1.0])) == pytest.approx([0, 100, 1000, 10000], rel=1e-4)
    # BT.2408: diffuse white at 75% of the signal is 203 cd/m2 on a display of 1000.
    assert hlg_to_nits(np.array([[0.0] * 3, [0.75] * 3, [1.0] * 3]))[:, 0] == pytest.approx([0, 203, 1000], abs=1)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_greys_stay_grey_and_in_order(transfer):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)
    shown = to_sdr(np.repeat(ramp[None, :, None], 3, 2), transfer)
    assert shown.dtype == np.uint8
    assert np.ptp(shown.astype(int), axis=-1).max() <= 1
    assert (np.diff(shown[0, :, 1].astype(int)) >= 0).all()
    assert shown[0, 0].max() == 0
    assert shown[0, -1].min() == 255


def test_diffuse_white_is_bright_and_leaves_room_for_highlights():
    white = np.full((1, 1, 3), round(0.75 * 65535), np.uint16)
    assert 170 < to_sdr(white, "hlg").min() <= to_sdr(white, "hlg").max() < 240
