"""Merging does not depend on the order that pairs come in, to the last bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reconstruct.merging.keypoints import merge_keypoints, merge_matches

IMAGES = 3
SEEDS = st.integers(0, 2**32 - 1)


def observations(seed: int, count: int, crowded: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """image (N,), xy (N, 2), scores (N,); crowded: on a grid, where bins and distances tie."""
    rng = np.random.default_rng(seed)
    xy = rng.integers(0, 8, (count, 2)) / 2 if crowded else rng.uniform(0, 20, (count, 2))
    scores = rng.integers(0, 3, count) / 2 if crowded else rng.uniform(0, 1, count)
    return rng.integers(0, IMAGES, count), xy.astype(np.float32), scores.astype(np.float32)


@given(SEEDS, st.integers(0, 80), st.booleans())
def test_observations_in_any_order_give_the_same_keypoints_to_the_last_bit(
    seed: int, count: int, crowded: bool
) -> None:
    image, xy, scores = observations(seed, count, crowded)
    radius = np.array([1.0, 2.0, 0.7])
    order = np.random.default_rng(seed + 1).permutation(count)
    merged = merge_keypoints(image, xy, scores, radius)
    again = merge_keypoints(image[order], xy[order], scores[order], radius)
    for name in ("xy", "spread", "count", "offsets"):
        assert getattr(again, name).tobytes() == getattr(merged, name).tobytes(), name
    np.testing.assert_array_equal(again.index, merged.index[order])
    assert merged.count.sum() == count


@given(SEEDS, st.integers(0, 60))
def test_matches_in_any_order_leave_the_same_matches(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    pair, first, second = rng.integers(0, [[3], [6], [6]], (3, count))
    scores = rng.permutation(count) / max(
        count, 1
    )  # equal scores of equal keypoints could not be told apart
    order = rng.permutation(count)
    rows = merge_matches(pair, first, second, scores)
    again = order[merge_matches(pair[order], first[order], second[order], scores[order])]
    np.testing.assert_array_equal(again, rows)
    for side in (first, second):
        assert len({*zip(pair[rows], side[rows], strict=True)}) == len(rows)
