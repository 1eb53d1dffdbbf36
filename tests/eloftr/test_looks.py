"""Further looks at a pair: the homography that matches tell, the warped image, and what a second
look finds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import texture, views
from PIL import Image

from eloftr import Matcher, load_matcher
from eloftr.errors import ArgumentError
from eloftr.matching.looks import (
    LEAST_MATCHES,
    MOST_STRETCH,
    SEEN_WELL,
    Rectification,
    mapped,
    rectification,
    warped,
)
from eloftr.matching.matches import Matches
from eloftr.model import ImageFeatures

TO0 = np.array([[0.9, 0.15, 12.0], [-0.1, 1.1, -8.0], [4e-4, 2e-4, 1.0]])
SLANTED = np.array([[0.4, 0.1, 40.0], [0.2, 1.05, 10.0], [-9e-4, 1e-4, 1.0]])  # 0 to 1


def told(count: int, wrong: int = 0, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Matches by TO0, the first `wrong` of them at random."""
    rng = np.random.default_rng(count)
    points1 = rng.uniform((0, 0), (600, 440), (count, 2))
    points0 = mapped(TO0, points1) + rng.normal(0, noise, (count, 2))
    points0[:wrong] = rng.uniform((0, 0), (600, 440), (wrong, 2))
    return points0.astype(np.float32), points1.astype(np.float32)


def by_hand(points0: np.ndarray, points1: np.ndarray) -> np.floating[Any]:
    """How far these points are from being shifted alone."""
    spread0, spread1 = points0 - points0.mean(axis=0), points1 - points1.mean(axis=0)
    return np.sqrt(np.square(spread1 - spread0).sum() / np.square(spread0).sum())


@pytest.mark.parametrize(("wrong", "noise"), [(0, 0.0), (300, 0.0), (300, 1.0)])
def test_most_matches_tell_the_homography(wrong: int, noise: float) -> None:
    points0, points1 = told(400, wrong, noise)
    view = rectification(points0, points1, 10)
    assert view is not None
    grid = np.stack(np.meshgrid([50, 300, 550], [50, 220, 390]), -1).reshape(-1, 2).astype(float)
    off = np.linalg.norm(mapped(view.to0, grid) - mapped(TO0, grid), axis=1)
    assert off.max() < 0.01 + 2 * noise
    np.testing.assert_allclose(mapped(view.to1, mapped(view.to0, grid)), grid, atol=1e-6)
    assert 400 - wrong <= view.agreeing <= 400 - wrong + 12  # some agree by chance
    assert view.change == pytest.approx(float(by_hand(points0[wrong:], points1[wrong:])), rel=0.1)
    again = rectification(points0, points1, 10)
    assert again is not None
    np.testing.assert_array_equal(view.to0, again.to0)


def test_where_matches_tell_no_sane_view_there_is_none() -> None:
    points0, points1 = told(400)
    few = LEAST_MATCHES - 1
    mirrored = points0 * [-1, 1] + [600, 0]
    on_a_line = np.column_stack([np.linspace(0, 500, 40), np.linspace(0, 300, 40)])
    rng = np.random.default_rng(0)
    nothing = rng.uniform(0, 600, (2, 60, 2))
    at_one_place = np.ones((50, 2))
    for one, other in (
        (points0[:few], points1[:few]),
        (mirrored, points1),
        (on_a_line, on_a_line),
        (at_one_place, at_one_place),
        (nothing[0], nothing[1]),
        (8 * points0, points1),  # far too large
        (points0, 8 * points1),
        (points0[:0], points1[:0]),
    ):
        assert rectification(one, other, 10) is None


@given(
    st.integers(LEAST_MATCHES, 60),
    st.sampled_from([2, 5, 40]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_matches_on_a_grid_tell_a_view_or_none(
    count: int, side: int, seed: int, alike: bool
) -> None:
    """Many lie on one line or at one place, as cells do."""
    rng = np.random.default_rng(seed)
    points0 = 8.0 * rng.integers(0, side, (count, 2))
    points1 = points0 if alike else 8.0 * rng.integers(0, side, (count, 2))
    view = rectification(points0, points1, 10)
    if view is not None:
        assert np.isfinite(view.to0).all()
        assert np.isfinite(view.to1).all()
        assert view.agreeing >= LEAST_MATCHES
        assert view.stretch <= MOST_STRETCH


def test_an_image_is_warped_to_where_its_points_belong() -> None:
    def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 0.5 + 0.25 * np.sin(x / 9) + 0.25 * np.cos(y / 7)

    y, x = np.mgrid[:120, :160].astype(float)
    to1 = np.linalg.inv(TO0)
    view = Rectification(TO0, to1, 1.2, 0, 0.3)
    found = warped(torch.tensor(waves(x, y)), view, (96, 128)).numpy()
    y, x = np.mgrid[:96, :128].astype(float)
    at = mapped(to1, np.stack([x.ravel(), y.ravel()], axis=1)).reshape(96, 128, 2)
    inside = (at >= 0).all(-1) & (at[..., 0] <= 159) & (at[..., 1] <= 119)
    assert 0.3 < inside.mean() < 1
    np.testing.assert_allclose(found[inside], waves(at[..., 0], at[..., 1])[inside], atol=0.01)
    outside = (at < -1).any(-1) | (at[..., 0] > 160) | (at[..., 1] > 120)
    assert not found[outside].any()


def test_what_a_view_shows_smaller_does_not_alias() -> None:
    stripes = torch.zeros(64, 64)
    stripes[:, ::2] = 1
    to1 = np.diag([4.0, 4.0, 1.0])
    found = warped(stripes, Rectification(np.linalg.inv(to1), to1, 4.0, 0, 3.0), (16, 16))
    assert (found[2:-2, 2:-2] - 0.5).abs().max() < 0.01


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return load_matcher("small", "cpu")


@pytest.fixture(scope="module")
def slanted() -> tuple[np.ndarray, np.ndarray]:
    """A texture, and the same as a camera sees it from the side."""
    ground = texture(320, 256, 3)
    seen = Image.fromarray(np.asarray(ground)).transform(
        (288, 224),
        Image.Transform.PERSPECTIVE,
        (np.linalg.inv(SLANTED) / np.linalg.inv(SLANTED)[2, 2]).ravel()[:8].tolist(),
        Image.Resampling.BICUBIC,
    )
    return np.asarray(ground), np.asarray(seen)


def right(found: Matches) -> int:
    off = np.linalg.norm(mapped(SLANTED, found.keypoints0.astype(float)) - found.keypoints1, axis=1)
    return int((off < 3).sum())


def test_a_second_look_finds_more_that_is_right(
    matcher: Matcher, slanted: tuple[np.ndarray, np.ndarray]
) -> None:
    ground, seen = slanted
    (first,), (second,) = (matcher.match([ground], [seen], looks=looks) for looks in (1, 2))
    assert right(second) > 1.3 * right(first) > 50
    assert right(second) / len(second) > right(first) / len(first)
    assert (second.keypoints1 >= -0.5).all()
    assert (second.keypoints1 <= [287.5, 223.5]).all()
    assert second.keypoints1.dtype == second.keypoints0.dtype == np.float32
    (third,) = matcher.match([ground], [seen], looks=3)
    assert right(third) >= right(second)


def test_pairs_of_a_batch_have_looks_of_their_own(
    matcher: Matcher, slanted: tuple[np.ndarray, np.ndarray]
) -> None:
    ground, seen = slanted
    blank = np.full_like(seen, 128)
    alone = [matcher.match([ground], [one], looks=2)[0] for one in (seen, blank)]
    together = matcher.match([ground, ground, ground], [seen, blank, seen], looks=2)
    assert len(together[1]) == len(alone[1])
    for found in (together[0], together[2]):
        assert len(found) == len(alone[0])
        np.testing.assert_allclose(found.keypoints1, alone[0].keypoints1, atol=0.01)


def test_later_looks_begin_in_kept_places_alone(
    matcher: Matcher, slanted: tuple[np.ndarray, np.ndarray]
) -> None:
    ground, seen = slanted
    features0, features1 = (matcher.encode(image[None]) for image in (ground, seen))
    kept = np.ones((1, 32, 40), bool), np.ones((1, 28, 36), bool)
    kept[0][:, :, :20] = False
    (found,) = matcher.match_features(features0, features1, kept=kept, looks=2)
    (whole,) = matcher.match_features(features0, features1, looks=2)
    assert 20 < len(found) < len(whole)
    assert (found.keypoints0[:, 0] >= 20 * 8 - 8).all()  # a window of refinement


def test_a_guide_takes_the_place_of_a_first_look(
    matcher: Matcher, slanted: tuple[np.ndarray, np.ndarray]
) -> None:
    ground, seen = slanted
    features = [matcher.encode(image[None].repeat(2, axis=0)) for image in (ground, seen)]
    behind = np.diag([1.0, 1.0, -1.0])
    (once, _) = matcher.match_features(*features)
    for sign in (1, -1):  # of one homography
        guides = np.stack([sign * SLANTED, behind])
        (first, nothing) = matcher.match_features(*features, guides=guides)
        assert right(first) > 1.5 * right(once)
        assert len(nothing) == 0
    (third, nothing) = matcher.match_features(*features, guides=guides, looks=3)
    assert right(third) >= right(first)
    assert len(nothing) == 0
    assert first.keypoints0.dtype == nothing.keypoints0.dtype == np.float32
    nothing, _ = matcher.match_features(*features, guides=np.stack([0 * SLANTED, behind]))
    assert len(nothing) == 0


def test_a_pair_that_is_seen_well_or_is_only_shifted_has_one_look(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = np.asarray(texture(640, 512, 3))
    shifted = ground[40:296, 200:520], ground[60:316, 296:616]
    turned = np.asarray(Image.fromarray(ground).rotate(10, Image.Resampling.BICUBIC))
    seen_well = ground[128:384, 160:480], turned[128:384, 160:480]
    hidden = shifted[1].copy()
    hidden[:, 60:] = 128  # what is left has few matches
    encoded: list[int] = []
    encode = matcher._encoded

    def counted(grey: torch.Tensor) -> ImageFeatures:
        encoded.append(len(grey))
        return encode(grey)

    monkeypatch.setattr(matcher, "_encoded", counted)
    for pair, few in ((shifted, False), (seen_well, False), ((shifted[0], hidden), True)):
        (once,) = matcher.match([pair[0]], [pair[1]], looks=1)
        assert (len(once) < SEEN_WELL * 32 * 40) == few
        assert len(once) > LEAST_MATCHES
        encoded.clear()
        (thrice,) = matcher.match([pair[0]], [pair[1]], looks=3)
        assert encoded == [1, 1]
        np.testing.assert_array_equal(once.keypoints1, thrice.keypoints1)


def test_one_look_is_the_default_and_views_alike_lose_nothing(matcher: Matcher) -> None:
    images = [np.asarray(view) for view in views(2, (256, 192))]
    (default,) = matcher.match(images[:1], images[1:])
    (once,) = matcher.match(images[:1], images[1:], looks=1)
    np.testing.assert_array_equal(default.keypoints1, once.keypoints1)
    (twice,) = matcher.match(images[:1], images[1:], looks=2)
    assert len(twice) >= 0.9 * len(once)


@pytest.mark.parametrize("looks", [0, -1, 1.5, "2", True, None])
def test_a_number_of_looks_that_cannot_be_is_refused(matcher: Matcher, looks: object) -> None:
    image = np.zeros((64, 64), np.uint8)
    with pytest.raises(ArgumentError, match=r"looks=.*give at least one look"):
        matcher.match([image], [image], looks=looks)  # type: ignore[arg-type]
