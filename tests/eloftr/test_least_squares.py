"""Least-squares matching: exact where grey values tell, and without effect where they do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pictures import views
from PIL import Image
from torch import Tensor

from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, load_matcher
from eloftr.least_squares import FARTHEST, least_squares

HEIGHT, WIDTH, RADIUS = 96, 128, 5


def texture(x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    """Grey values 0…1 of a smooth pattern at any places, so that a warp of it is exact."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.full_like(x, 0.5)
    for _ in range(12):
        length, angle, phase = torch.rand(3, generator=generator).tolist()
        length, angle = 5 + 10 * length, 2 * math.pi * angle
        along = x * math.cos(angle) + y * math.sin(angle)
        value = value + 0.04 * (2 * math.pi * (along / length + phase)).sin()
    return value


def image(matrix: Tensor, shift: Tensor, seed: int = 0) -> Tensor:
    """(1, 1, HEIGHT, WIDTH): the texture, laid down so that its place p is seen at matrix · p +
    shift.
    """
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    places = (torch.stack([x, y], dim=-1) - shift) @ torch.linalg.inv(matrix).mT
    return texture(*places.unbind(-1), seed)[None, None]


def grid() -> Tensor:
    y, x = torch.meshgrid(torch.arange(24.5, 72, 8), torch.arange(24.5, 104, 8), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


@pytest.mark.parametrize(("turn", "zoom"), [(0.0, 1.0), (4.0, 1.0), (-5.0, 1.08), (0.0, 0.9)])
def test_finds_the_place_under_turn_zoom_and_another_exposure(turn: float, zoom: float) -> None:
    c, s = zoom * math.cos(math.radians(turn)), zoom * math.sin(math.radians(turn))
    matrix = torch.tensor([[c, -s], [s, c]])
    centre = torch.tensor([WIDTH / 2, HEIGHT / 2])
    shift = centre - matrix @ centre + torch.tensor([0.37, -0.21])
    images0, images1 = image(torch.eye(2), torch.zeros(2)), 0.8 * image(matrix, shift) + 0.07
    keypoints0 = grid()
    truth = keypoints0 @ matrix.mT + shift
    given = truth + 0.4 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    pair = torch.zeros(len(truth), dtype=torch.long)
    error = (least_squares(images0, images1, pair, keypoints0, given, RADIUS) - truth).norm(dim=1)
    assert error.median() < 0.01
    assert error.quantile(0.9) < 0.03
    assert (given - truth).norm(dim=1).median() > 0.3


def test_a_flat_patch_stays_and_an_edge_moves_across_only() -> None:
    x = torch.arange(WIDTH).expand(HEIGHT, WIDTH)[None, None]
    flat = torch.full_like(x, 0.3, dtype=torch.float32)
    edge0, edge1 = (torch.sigmoid((x - at) / 1.5) for at in (64.0, 64.6))
    keypoints0 = torch.tensor([[64.5, 48.5]])
    given = torch.tensor([[64.6, 48.9]])
    pair = torch.zeros(1, dtype=torch.long)
    assert torch.equal(least_squares(flat, flat, pair, keypoints0, given, RADIUS), given)
    moved = least_squares(edge0, edge1, pair, keypoints0, given, RADIUS)
    torch.testing.assert_close(moved, torch.tensor([[65.1, 48.9]]), rtol=0, atol=0.03)


def test_nothing_goes_far_and_nothing_is_lost_at_the_edge_of_the_image() -> None:
    images0, images1 = (
        image(torch.eye(2), torch.zeros(2)),
        image(torch.eye(2), torch.zeros(2), seed=1),
    )
    y, x = torch.meshgrid(torch.arange(0.0, HEIGHT, 5), torch.arange(0.0, WIDTH, 5), indexing="ij")
    keypoints = torch.stack([x, y], dim=-1).flatten(0, 1)
    pair = torch.zeros(len(keypoints), dtype=torch.long)
    moved = least_squares(images0, images1, pair, keypoints, keypoints, RADIUS)
    assert moved.isfinite().all()
    assert (moved - keypoints).norm(dim=1).max() < FARTHEST
    assert least_squares(
        images0, images1, pair[:0], keypoints[:0], keypoints[:0], RADIUS
    ).shape == (0, 2)


def test_a_match_reads_the_images_of_its_own_pair() -> None:
    shifts = [torch.tensor([0.3, 0.2]), torch.tensor([-0.4, 0.1])]
    images0 = torch.cat([image(torch.eye(2), torch.zeros(2), seed) for seed in (2, 3)])
    images1 = torch.cat(
        [image(torch.eye(2), shift, seed) for shift, seed in zip(shifts, (2, 3), strict=True)]
    )
    keypoints = grid()
    pair = torch.arange(len(keypoints)) % 2
    together = least_squares(images0, images1, pair, keypoints, keypoints, RADIUS)
    assert (together - keypoints - torch.stack(shifts)[pair]).norm(dim=1).median() < 0.01
    for n in (0, 1):
        own = pair == n
        alone = least_squares(
            images0[n : n + 1],
            images1[n : n + 1],
            pair[own] * 0,
            keypoints[own],
            keypoints[own],
            RADIUS,
        )
        torch.testing.assert_close(together[own], alone, rtol=0, atol=1e-4)


def test_the_bundled_matcher_moves_only_image_1_and_closer_to_the_truth() -> None:
    grey = np.asarray(views(1)[0].resize((320, 256)))
    turned = np.asarray(Image.fromarray(grey).rotate(3, Image.Resampling.BICUBIC))
    (found,), (network,) = (
        load_matcher("small", least_squares=radius).match([grey], [turned]) for radius in (None, 0)
    )
    np.testing.assert_array_equal(found.keypoints0, network.keypoints0)
    np.testing.assert_array_equal(found.scores, network.scores)
    centre = (np.array(grey.shape[::-1]) - 1) / 2
    c, s = math.cos(math.radians(3)), math.sin(math.radians(3))
    truth = (found.keypoints0 - centre) @ np.array([[c, -s], [s, c]]) + centre
    before, after = (
        np.median(np.linalg.norm(m.keypoints1 - truth, axis=1)) for m in (network, found)
    )
    assert len(found) > 100
    assert after < 0.7 * before


def test_the_published_configuration_is_without_and_a_negative_radius_is_refused() -> None:
    assert EfficientLoFTRConfig().fine_matching_least_squares_radius == 0
    small = EfficientLoFTRForKeypointMatching.from_pretrained("small")
    assert small.config.fine_matching_least_squares_radius == 5
    with pytest.raises(ValueError, match="least_squares_radius=-1: pixels, 0 for none"):
        EfficientLoFTRConfig(fine_matching_least_squares_radius=-1)
    with pytest.raises(ValueError, match="least_squares=-1: a radius in pixels"):
        load_matcher("small", least_squares=-1)
