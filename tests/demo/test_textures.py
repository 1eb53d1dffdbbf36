"""Textures look natural in numbers: spectra like those of photographs, and no part that repeats
another.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from pipeline.demo import textures

SHAPE = (256, 384)
Painter = Callable[[np.random.Generator], np.ndarray]
PAINTERS: dict[str, Painter] = {
    "plaster": lambda rng: textures.plaster(SHAPE, rng, (0.8, 0.72, 0.58)),
    "bricks": lambda rng: textures.bricks(SHAPE, rng, 16, (0.55, 0.3, 0.23)),
    "crumbling": lambda rng: textures.crumbling(SHAPE, rng, 14, (0.55, 0.3, 0.23), (0.8, 0.7, 0.6)),
    "stones": lambda rng: textures.stones(SHAPE, rng, 36, (0.6, 0.56, 0.5)),
    "planks": lambda rng: textures.planks(SHAPE, rng, 30, (0.5, 0.36, 0.24)),
    "upright planks": lambda rng: textures.planks(SHAPE, rng, 30, (0.5, 0.36, 0.24), upright=True),
    "leaves": lambda rng: textures.leaves(SHAPE, rng, (0.3, 0.4, 0.2), 3, 40),
    "painted": lambda rng: textures.painted(SHAPE, rng, (0.8, 0.75, 0.6), (0.6, 0.15, 0.1), 40),
}


@pytest.fixture(scope="module", params=list(PAINTERS))
def painter(request: pytest.FixtureRequest) -> Painter:
    return PAINTERS[request.param]


def test_a_texture_is_colour_of_the_size_asked_for_and_uses_its_range(painter: Painter) -> None:
    picture = painter(np.random.default_rng(0))
    assert picture.shape == (*SHAPE, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 8
    assert ((picture == 0) | (picture == 255)).mean() < 0.1


def test_a_texture_depends_on_its_generator_only(painter: Painter) -> None:
    first, again, other = (painter(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_amplitude_falls_with_frequency_as_in_photographs(painter: Painter) -> None:
    grey = painter(np.random.default_rng(3)).mean(-1)
    window = np.hanning(SHAPE[0])[:, None] * np.hanning(SHAPE[1])
    spectrum = np.abs(np.fft.fft2((grey - grey.mean()) * window))
    frequency = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1]))
    edges = np.geomspace(0.015, 0.4, 9)
    rings = [spectrum[(frequency >= a) & (frequency < b)].mean() for a, b in pairwise(edges)]
    slope = np.polyfit(np.log(edges[:-1]), np.log(rings), 1)[0]
    assert -1.9 < slope < -0.6


def test_no_part_repeats_another(painter: Painter) -> None:
    grey = painter(np.random.default_rng(4)).mean(-1)
    # What a matcher sees: the fine structure, without the large-scale light and dark.
    y, x = np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1])
    spectrum = np.fft.fft2(grey - grey.mean()) * (np.hypot(x, y) > 0.03)
    correlation = np.fft.ifft2(np.abs(spectrum) ** 2).real
    correlation /= correlation[0, 0]
    lag = np.maximum(np.abs(y * SHAPE[0]), np.abs(x * SHAPE[1]))
    assert (
        correlation[lag > 48].max() < 0.65
    )  # boards are alike along their grain; a copy would give 1


def test_fractal_noise_has_unit_variance_and_follows_its_stretch() -> None:
    noise = textures.fractal((128, 200), np.random.default_rng(0), 1.0, (8.0, 1.0))
    assert noise.shape == (128, 200)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(noise, axis=0)).mean() < 0.5 * np.abs(np.diff(noise, axis=1)).mean()
