"""Overlapping images, cut from photographs or generated textures, and which of them to match."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

Pairs = list[tuple[int, int]]


class PairsToMatch(NamedTuple):
    """What to cut, `each` windows `step` pixels apart from every one of `pictures` photographs, and
    which to match.
    """

    pictures: int
    each: int
    step: int
    pairs: Pairs


def all_pairs(pictures: int, each: int = 2, step: int = 320) -> PairsToMatch:
    return PairsToMatch(pictures, each, step, list(combinations(range(pictures * each), 2)))


def near_pairs(images: int, nearest: int, pictures: int = 1, step: int = 64) -> PairsToMatch:
    near = [(i, j) for i, j in combinations(range(images), 2) if j - i <= nearest]
    return PairsToMatch(
        pictures,
        images,
        step,
        [(k + i, k + j) for k in range(0, images * pictures, images) for i, j in near],
    )


def windows(folder: Path | None, height: int, width: int, what: PairsToMatch) -> np.ndarray:
    """(pictures · each, H, W) uint8. Raises SystemExit where there are too few photographs."""
    wide = width + (what.each - 1) * what.step
    if folder is None:
        pictures = [texture(height, wide, seed) for seed in range(what.pictures)]
    else:
        paths = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        if len(paths) < what.pictures:
            raise SystemExit(
                f"{folder} holds {len(paths)} photographs; give one of at least {what.pictures}"
            )
        pictures = [photograph(path, height, wide) for path in paths[: what.pictures]]
    starts = [what.step * k for k in range(what.each)]
    return np.stack([picture[:, start : start + width] for picture in pictures for start in starts])


def texture(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W) uint8: noise of three sizes."""
    rng = np.random.default_rng(seed)
    octaves = [
        rng.integers(0, 256, (height // s + 1, width // s + 1), dtype=np.uint8) for s in (4, 16, 64)
    ]
    layers = [
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        for noise in octaves
    ]
    return np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0).astype(np.uint8)


def photograph(path: Path, height: int, width: int) -> np.ndarray:
    """(H, W) uint8: the middle of a photograph in the shape asked for, scaled to fill it."""
    with Image.open(path) as image:
        return np.asarray(
            ImageOps.fit(image.convert("L"), (width, height), Image.Resampling.LANCZOS)
        )
