"""Drawings: what must be seen is there, and strange input is drawn too."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.report.models import FRUSTUM, draw_reconstruction
from pipeline.report.pictures import BAD, GOOD, draw_matches

WIDE, TALL = np.full((60, 120), 90, np.uint8), np.full((200, 100, 3), 40, np.uint8)


def has(image: Image.Image, colour: tuple[int, int, int], tolerance: int = 40) -> int:
    """How many pixels are near a colour."""
    return int((np.abs(np.asarray(image, int) - colour).max(-1) <= tolerance).sum())


def test_images_of_any_size_and_kind_are_drawn_side_by_side() -> None:
    points = np.array([[10.0, 10], [100, 50]])
    image = draw_matches(WIDE, Image.fromarray(TALL), points, points, height=240)
    assert image.mode == "RGB"
    assert image.size == (480 + 6 + 120, 28 + 240)
    pixels = np.asarray(image)
    assert (pixels[200, 300] == 90).all()
    assert (pixels[200, 560] == 40).all()


def test_a_line_ends_at_its_keypoints() -> None:
    image = draw_matches(
        WIDE, WIDE, np.array([[30.0, 20]]), np.array([[90.0, 40]]), np.array([True]), height=240
    )
    pixels = np.asarray(image, int)
    for x, y in ((30.5 * 4, 28 + 20.5 * 4), (486 + 90.5 * 4, 28 + 40.5 * 4)):
        assert (np.abs(pixels[int(y), int(x)] - GOOD).max()) < 40


def test_verified_matches_are_green_and_the_others_red() -> None:
    points = np.random.default_rng(0).uniform(5, 55, (40, 2))
    inliers = np.arange(40) < 20
    both = draw_matches(WIDE, WIDE, points, points, inliers)
    assert has(both, GOOD) > 100
    assert has(both, BAD) > 100
    assert has(draw_matches(WIDE, WIDE, points, points, np.ones(40, bool)), BAD) == 0


def test_many_matches_are_sampled_the_same_way_every_time() -> None:
    points = np.random.default_rng(0).uniform(0, 59, (5000, 2))
    first, again = (draw_matches(WIDE, WIDE, points, points, most=50) for _ in range(2))
    assert first.tobytes() == again.tobytes()
    fewer = draw_matches(WIDE, WIDE, points, points, most=5)
    assert (np.asarray(fewer) == 90).sum() > (np.asarray(first) == 90).sum()


def test_no_match_at_all_is_drawn() -> None:
    nothing = np.empty((0, 2), np.float32)
    image = draw_matches(WIDE, TALL, nothing, nothing, np.empty(0, bool), title="наклейка – a.jpg")
    assert image.size[1] == 508


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one row a match"):
        draw_matches(WIDE, WIDE, np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="one row a match"):
        draw_matches(WIDE, WIDE, np.zeros((3, 2)), np.zeros((3, 2)), np.ones(2, bool))


def cloud(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A red sheet before a blue one, both upright, and three cameras in front of them that look
    along y.
    """
    rng = np.random.default_rng(0)
    sheet = np.stack([rng.uniform(-1, 1, count), np.zeros(count), rng.uniform(-1, 1, count)], -1)
    points = np.concatenate([sheet + np.array([0, distance, 0]) for distance in (3, 4)])
    colours = np.repeat(np.array([[230, 30, 30], [30, 30, 230]], np.uint8), count, axis=0)
    centres = np.array([[-0.8, 0, 0.1], [0, 0, 0], [0.8, 0, 0.1]])
    looks_along_y = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return points, colours, centres, np.tile(looks_along_y, (3, 1, 1))


def test_points_and_cameras_are_drawn_in_both_views() -> None:
    image = draw_reconstruction(*cloud(), panel=(400, 300))
    assert image.size == (802, 330)
    for left in (0, 402):
        part = image.crop((left, 60, left + 400, 330))
        assert has(part, (200, 30, 30), 60) > 100
        assert has(part, FRUSTUM) > 50


def test_nearer_points_hide_farther_ones() -> None:
    points, colours, centres, rotations = cloud(20000)
    image = draw_reconstruction(points, colours, centres, rotations, panel=(400, 300))
    oblique = image.crop((0, 60, 400, 330))
    assert has(oblique, (200, 30, 30), 60) > 2 * has(oblique, (30, 30, 190), 60) > 0


def test_the_frame_and_scale_of_the_reconstruction_do_not_matter() -> None:
    points, colours, centres, rotations = cloud()
    image = draw_reconstruction(points, colours, centres, rotations, panel=(400, 300))
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    Q *= np.sign(np.linalg.det(Q))
    moved = draw_reconstruction(
        50 * points @ Q.T + 9, colours, 50 * centres @ Q.T + 9, rotations @ Q.T, panel=(400, 300)
    )
    assert np.abs(np.asarray(image, int) - np.asarray(moved)).mean() < 4


def test_a_few_wild_points_do_not_spoil_the_scale() -> None:
    points, colours, centres, rotations = cloud()
    before = has(draw_reconstruction(points, colours, centres, rotations), (200, 30, 30), 60)
    points[:20] = np.random.default_rng(0).normal(0, 1e4, (20, 3))
    points[20] = np.nan
    after = has(draw_reconstruction(points, colours, centres, rotations), (200, 30, 30), 60)
    assert after > 0.8 * before


def test_cameras_alone_are_drawn_and_none_are_refused() -> None:
    _, _, centres, rotations = cloud()
    nothing = np.empty((0, 3))
    assert has(draw_reconstruction(nothing, nothing, centres[:1], rotations[:1]), FRUSTUM) > 50
    with pytest.raises(ValueError, match="one or more"):
        draw_reconstruction(nothing, nothing, nothing, np.empty((0, 3, 3)))
