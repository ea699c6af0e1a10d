"""The limit of kernels with 32-bit offsets."""

import pytest

from lingen.ssd import int32_headroom, max_tokens


def test_headroom_counts_the_papers_longest_stage():
    shape = {"heads": 80, "head_dim": 64, "state": 128}  # E = 2
    used = int32_headroom("mamba_ssm", batch=1, length=143_616, **shape)
    assert used == pytest.approx(143_616 * 5120 / 2**31, rel=1e-3)
    assert int32_headroom("mamba_ssm", batch=4, length=143_616, **shape) > 1
    longest = max_tokens("mamba_ssm", batch=1, **shape)
    assert 410_000 < longest < 420_000  # notes/training.md: about 419k tokens x batch when contiguous
    assert int32_headroom("mamba_ssm", batch=1, length=longest, **shape) <= 1
    assert max_tokens("fla", batch=8, **shape) is None
    with pytest.raises(ValueError, match="lower the batch"):
        max_tokens("mamba_ssm", batch=10_000, **shape)
