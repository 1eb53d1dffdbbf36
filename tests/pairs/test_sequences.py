from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import PairListError
from pipeline.pairs.descriptors import Descriptors
from pipeline.pairs.sequential import closures, overlaps, sequences


def test_numbers_in_names_are_ordered_by_value_and_folders_apart() -> None:
    names = sorted(
        ["left/f10.jpg", "left/f9.jpg", "left/f1.jpg", "right/2b.jpg", "right/10a.jpg", "x.jpg"]
    )
    ordered = [[names[index] for index in indices] for indices in sequences(names)]
    assert ordered == [
        ["left/f1.jpg", "left/f9.jpg", "left/f10.jpg"],
        ["right/2b.jpg", "right/10a.jpg"],
        ["x.jpg"],
    ]
    (whole,) = sequences(names, across_folders=True)
    assert [names[index] for index in whole] == [name for folder in ordered for name in folder]


def test_names_that_differ_in_digits_other_than_ascii_are_ordered() -> None:
    assert len(sequences(sorted(["a²", "a1", "1a", "٣", "", "7"]))[0]) == 6


def test_every_image_is_paired_with_those_that_follow() -> None:
    found = overlaps([np.arange(6)], 2)
    assert found.pairs.tolist() == [[i, j] for i in range(6) for j in range(i + 1, min(i + 3, 6))]
    assert found.scores is None


def test_pairs_do_not_cross_sequences() -> None:
    assert overlaps([np.array([3, 0]), np.array([1, 2]), np.array([4])], 5).pairs.tolist() == [
        [0, 3],
        [1, 2],
    ]


def test_quadratic_overlap_adds_distances_that_double() -> None:
    found = overlaps([np.arange(100)], 5, quadratic=True)
    assert sorted({j - i for i, j in found.pairs.tolist()}) == [1, 2, 3, 4, 5, 8, 16]
    assert len(found.pairs) == sum(100 - step for step in (1, 2, 3, 4, 5, 8, 16))
    far = overlaps([np.arange(20)], 60, quadratic=True)  # 2⁵⁹ images on there is none
    assert len(far.pairs) == 190


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(PairListError, match="pairs nothing"):
        overlaps([np.arange(3)], 0)


def test_places_seen_again_are_closed_and_neighbours_are_not() -> None:
    """A walk of 40 images around a circle of 20 places, twice."""
    names = [f"{k:02}.jpg" for k in range(40)]
    places = 2 * np.pi * (np.arange(40) % 20) / 20
    vectors = np.stack([np.cos(places), np.sin(places)], axis=1).astype(np.float32)
    described = Descriptors(names, vectors)
    found = closures(sequences(names), names, described, top_k=1, every=4, gap=5)
    assert found.pairs.tolist() == [[k, k + 20] for k in range(0, 20, 4)]
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)
    every = closures(sequences(names), names, described, top_k=1, every=1, gap=5)
    assert every.pairs.tolist() == [[k, k + 20] for k in range(20)]


def test_images_without_a_descriptor_are_closed_with_nothing() -> None:
    names = ["a/0", "a/1", "b/0", "b/1"]
    vectors = np.array([[1, 0], [0, 1], [1, 0.1]], np.float32)
    found = closures(sequences(names), names, Descriptors(["a/0", "a/1", "b/1"], vectors), 1, 1, 1)
    assert found.pairs.tolist() == [[0, 3], [1, 3]]


@pytest.mark.parametrize(("top_k", "every", "gap"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_closures_without_sense_are_refused(top_k: int, every: int, gap: int) -> None:
    described = Descriptors(["a", "b"], np.eye(2, dtype=np.float32))
    with pytest.raises(PairListError, match="loop closure"):
        closures(sequences(["a", "b"]), ["a", "b"], described, top_k, every, gap)
