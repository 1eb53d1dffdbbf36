from __future__ import annotations

import numpy as np
import pytest

from pipeline.reconstruct.merging import keypoints
from pipeline.reconstruct.merging.keypoints import MergedKeypoints, merge_keypoints, merge_matches


def observations(
    rng: np.random.Generator,
    images: int = 3,
    places: int = 40,
    repeats: int = 12,
    noise: float = 0.3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places on a 10-pixel grid, each seen several times: image, xy, weights, and the place of
    each.
    """
    image = np.repeat(np.arange(images), places * repeats)
    place = np.tile(np.repeat(np.arange(places), repeats), images)
    xy = np.stack([place % 8 * 10.0, place // 8 * 10.0], axis=1) + rng.normal(
        0, noise, (len(place), 2)
    )
    return image, xy, rng.uniform(0.2, 1, len(place)), place


def greedy(xy: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What `_suppress` promises, as the loop it replaces."""
    winners: list[int] = []
    for row in np.argsort(-weights, kind="stable"):
        if all(((xy[row] - xy[other]) ** 2).sum() > 1 for other in winners):
            winners.append(int(row))
    return np.sort(winners)


def test_nearby_observations_become_one_keypoint_at_their_weighted_mean() -> None:
    image, xy, weights, place = observations(np.random.default_rng(0))
    merged = merge_keypoints(image, xy, weights, np.full(3, 2.0))
    assert merged.offsets.tolist() == [0, 40, 80, 120]
    for i in range(3):
        for p in range(40):
            rows = (image == i) & (place == p)
            (index,) = set(merged.index[rows].tolist())
            mean = np.average(xy[rows], axis=0, weights=weights[rows])
            row = merged.offsets[i] + index
            assert merged.xy[row] == pytest.approx(mean, abs=1e-4)
            spread = np.sqrt(((xy[rows] - mean) ** 2).sum(1).mean())
            assert merged.spread[row] == pytest.approx(spread, rel=1e-3)
            assert merged.count[row] == 12


def test_order_of_the_input_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(1)
    image, xy, weights = (
        rng.integers(0, 4, 5000),
        rng.uniform(0, 60, (5000, 2)),
        rng.uniform(0, 1, 5000),
    )
    xy[:500] = xy[500:1000] = np.round(xy[:500])  # ties
    weights[:500] = weights[500:1000]
    merged = merge_keypoints(image, xy, weights, np.full(4, 1.7))
    for _ in range(5):
        order = rng.permutation(5000)
        again = merge_keypoints(image[order], xy[order], weights[order], np.full(4, 1.7))
        assert np.array_equal(again.xy, merged.xy)
        assert np.array_equal(again.spread, merged.spread)
        assert np.array_equal(again.index, merged.index[order])


def test_an_image_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(2)
    image, xy, weights = (
        rng.integers(0, 3, 3000),
        rng.uniform(0, 60, (3000, 2)),
        rng.uniform(0, 1, 3000),
    )
    together = merge_keypoints(image, xy, weights, np.array([1.0, 2.0, 3.0]))
    for i, radius in enumerate([1.0, 2.0, 3.0]):
        rows = image == i
        alone = merge_keypoints(np.zeros(rows.sum()), xy[rows], weights[rows], np.array([radius]))
        part = slice(together.offsets[i], together.offsets[i + 1])
        assert np.array_equal(alone.xy, together.xy[part])
        assert np.array_equal(alone.index, together.index[rows])


@pytest.mark.parametrize("density", [0.2, 2.0, 12.0])
def test_parallel_suppression_equals_the_greedy_loop(
    density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keypoints, "CHUNK", 500)  # several chunks
    rng = np.random.default_rng(3)
    xy = rng.uniform(0, np.sqrt(400 / density), (400, 2))
    weights = np.round(rng.uniform(0, 1, 400), 2)  # with ties
    cells = np.floor(xy).astype(np.int64)
    xy = xy[np.lexsort((cells[:, 0], cells[:, 1]))]
    cells = np.floor(xy).astype(np.int64) + 1
    winners, nearest = keypoints._suppress(cells[:, 1] * keypoints.BELOW + cells[:, 0], xy, weights)
    assert np.array_equal(winners, greedy(xy, weights))
    distances = np.linalg.norm(xy[:, None] - xy[winners], axis=2)
    assert np.array_equal(nearest, distances.argmin(axis=1))


def test_every_observation_joins_a_keypoint_near_it() -> None:
    rng = np.random.default_rng(4)
    xy = rng.uniform(0, 100, (4000, 2))
    merged = merge_keypoints(np.zeros(4000, int), xy, rng.uniform(0, 1, 4000), np.array([2.0]))
    # At most a radius and half a bin to the winner, and the mean no further than that from it.
    assert np.linalg.norm(merged.xy[merged.index] - xy, axis=1).max() < 2 * (2 + 2 * np.sqrt(2) / 8)
    assert merged.count.sum() == 4000


def test_radius_scales_with_the_image() -> None:
    image, xy, weights, _ = observations(np.random.default_rng(5), images=1)
    small = merge_keypoints(image, xy, weights, np.array([2.0]))
    large = merge_keypoints(image, xy * 8, weights, np.array([16.0]))
    assert np.array_equal(small.index, large.index)
    assert large.xy == pytest.approx(small.xy * 8, abs=1e-3)


def test_no_observations_give_no_keypoints() -> None:
    merged = merge_keypoints(np.zeros(0, int), np.zeros((0, 2)), np.zeros(0), np.full(3, 2.0))
    assert isinstance(merged, MergedKeypoints)
    assert merged.xy.shape == (0, 2)
    assert merged.offsets.tolist() == [0, 0, 0, 0]


def test_weights_of_zero_still_merge() -> None:
    merged = merge_keypoints(
        np.zeros(2, int), np.array([[1.0, 1], [1.5, 1]]), np.zeros(2), np.array([2.0])
    )
    assert merged.xy.tolist() == [[1.25, 1.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xy": np.array([[np.nan, 0.0]])}, "finite"),
        ({"weights": np.array([-1.0])}, "not negative"),
        ({"weights": np.array([np.inf])}, "finite"),
        ({"image": np.array([2])}, "0…0"),
        ({"image": np.array([-1])}, "0…0"),
        ({"radius": np.array([0.0])}, "radius"),
        ({"radius": np.array([np.nan])}, "radius"),
        ({"xy": np.zeros((2, 2))}, "disagree"),
        ({"xy": np.array([[1e9, 0.0]])}, "far outside"),
    ],
)
def test_bad_numbers_are_refused(change: dict, message: str) -> None:
    good = {
        "image": np.array([0]),
        "xy": np.zeros((1, 2)),
        "weights": np.ones(1),
        "radius": np.array([2.0]),
    }
    with pytest.raises(ValueError, match=message):
        merge_keypoints(**(good | change))


def test_matches_become_one_to_one_by_score() -> None:
    pair = np.array([0, 0, 0, 0, 1, 1])
    index0 = np.array([5, 5, 5, 7, 5, 6])
    index1 = np.array([3, 3, 4, 4, 3, 3])
    scores = np.array([0.5, 0.6, 0.9, 0.4, 0.1, 0.2])
    # In pair 0, keypoint 5 goes to 4, the best of both; in pair 1, 3 goes to 6.
    assert merge_matches(pair, index0, index1, scores).tolist() == [2, 5]


def test_merged_matches_are_unique_and_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(6)
    pair, index0, index1 = (
        rng.integers(0, 20, 3000),
        rng.integers(0, 90, 3000),
        rng.integers(0, 90, 3000),
    )
    scores = np.round(rng.uniform(0, 1, 3000), 2)
    kept = merge_matches(pair, index0, index1, scores)
    rows = np.stack([pair, index0, index1], axis=1)
    for side in (1, 2):
        assert len(np.unique(rows[kept][:, [0, side]], axis=0)) == len(kept)
    order = rng.permutation(3000)
    again = merge_matches(*(column[order] for column in (pair, index0, index1, scores)))
    assert np.array_equal(rows[order][again], rows[kept])
    assert np.array_equal(rows[kept], rows[kept][np.lexsort((rows[kept][:, 1], rows[kept][:, 0]))])


def test_no_matches_stay_none() -> None:
    nothing = np.zeros(0, int)
    assert merge_matches(nothing, nothing, nothing, np.zeros(0)).shape == (0,)
