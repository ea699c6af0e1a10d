"""Review tokens: means over boxes, also where the pooling does not divide the grid."""

import pytest
import torch

from lingen.model.review import review_grid, review_tokens


@pytest.mark.parametrize("pool", [(2, 2, 2), (3, 2, 4), (8, 4, 4)])
@pytest.mark.parametrize("grid", [(5, 3, 7), (1, 4, 4), (8, 4, 8), (9, 1, 5)])
def test_review_tokens_average_the_tokens_of_their_box(grid, pool):
    x = torch.randn(2, *grid, 3)
    got = review_tokens(x, pool)
    assert got.shape == (2, *review_grid(grid, pool), 3)
    T, H, W = (-(-n // p) for n, p in zip(grid, pool))
    for t in range(T):
        for h in range(H):
            for w in range(W):
                box = x[:, t * pool[0] :][:, : pool[0], h * pool[1] :][:, :, : pool[1], w * pool[2] :][
                    ..., : pool[2], :
                ]
                torch.testing.assert_close(got[:, t, h, w], box.mean((1, 2, 3)), atol=1e-6, rtol=1e-5)
