"""Synthetic training pairs: two grey views of real photographs with exact dense correspondence.

Every pair is a small 3D scene seen by two pinhole cameras. The ground is a photograph on the plane
Z = 0,
flat or bent into a smooth relief; in front of it hang up to four planar patches of other
photographs, cut to
random outlines, which hide what lies behind them and sometimes move on their own between the views.
The
cameras differ in viewpoint (tilt up to 60°), distance, focal length and roll. Both views are
rendered from
the photographs, so neither is the privileged, unresampled one; then each gets its own exposure,
light, blur,
noise and compression.

Units: the world's unit is one pixel of the ground photograph, X right, Y down, Z away from the
cameras. Pixel
centres are at integers, the top-left one at (0, 0).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from eloftr.errors import ArgumentError
from eloftr.training.synthetic.cameras import Raster
from eloftr.training.synthetic.photometric import photometric
from eloftr.training.synthetic.placement import furnish, random_change, random_plane, well_placed
from eloftr.training.synthetic.pyramid import load_pyramid
from eloftr.training.synthetic.two_view import flow_and_visibility, look, render_view

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
HELD_OUT_EVERY = 20
MIN_VISIBLE = 0.07  # share of image 0 that image 1 must see
# Share of the closer view's flat ground that the other one must see.
MIN_OVERLAP = 0.2
# Share of each view's ground inside the photograph, not in its mirror images.
MIN_ON_PHOTOGRAPH = 0.75
MIN_TEXTURE = 1.5  # grey levels: mean step between neighbours below which a view is mostly sky
# Share of the pairs in haze, or of fields and water: low contrast, and any texture will do.
FAINT = 0.15
FAINT_TEXTURE = 0.5  # grey levels, in place of MIN_TEXTURE
# Share of the pairs that are easier: as real pairs are, and as sub-pixel accuracy is learned from.
GENTLE = 0.8
# After so many attempts any place and texture will do: some lists hold nothing but tiny or empty
# photographs.
STRICT_ATTEMPTS = 8


@dataclass(frozen=True)
class Pair:
    """One training pair, or a batch of them with a leading axis B on every field.

    `image0`, `image1`: (H, W) uint8. `flow`: (H, W, 2) float32, the exact (x, y) position in image
    1 of every
    pixel of image 0, also where it is hidden or outside (1e5 where it is behind camera 1).
    `visible`: (H, W)
    bool, the point is inside image 1 and not hidden there.
    """

    image0: np.ndarray
    image1: np.ndarray
    flow: np.ndarray
    visible: np.ndarray


def list_photographs(folder: Path) -> list[Path]:
    """All images under `folder`, recursively, in sorted order.

    Raises ArgumentError when there are none.
    """
    paths = sorted(
        p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
    )
    if not paths:
        raise ArgumentError(
            f"{folder}: no photographs found; give a folder with {', '.join(sorted(SUFFIXES))} "
            "files."
        )
    return paths


def split(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """(training, held-out) photographs: every 20th is held out."""
    held_out = list(paths[::HELD_OUT_EVERY])
    return [p for i, p in enumerate(paths) if i % HELD_OUT_EVERY], held_out


class Views:
    """Pairs of views of `photographs`; pair `index` depends on `seed` and `index` only.

    size: the views' side or (height, width) in pixels. photometric: False leaves out exposure,
    light, blur, noise and compression, so that the two images differ by geometry and resampling
    alone. easy: share of the pairs that are easier than all others, as neighbours among real
    photographs are.
    Photographs are kept in memory as grey pyramids whose longer side is at most `longest` pixels:
    0.4 MB for 640×480.
    Raises ArgumentError for no photographs or too small a size, ImageReadError for one that is not
    readable.
    """

    def __init__(
        self,
        photographs: Sequence[Path],
        size: int | tuple[int, int],
        seed: int,
        *,
        photometric: bool = True,
        longest: int = 640,
        easy: float = 0.0,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 32:
            raise ArgumentError(f"size {height}x{width}: views need at least 32 pixels a side.")
        if not photographs:
            raise ArgumentError("photographs: the list is empty; give at least one image.")
        self.seed = seed
        self.photometric = photometric
        self.easy = easy
        self._raster = Raster(height, width)
        self._pyramids = [load_pyramid(path, longest) for path in photographs]
        self._extents = np.array(
            [pyramid[0].shape[::-1] for pyramid in self._pyramids], dtype=float
        )

    @torch.inference_mode()
    def pair(self, index: int) -> Pair:
        """The pair with this index; the same arrays in any order and any process."""
        rng = np.random.default_rng([self.seed, index])
        raster, extents = self._raster, self._extents
        difficulty = self._difficulty(rng)
        change, faint = random_change(rng), rng.random() < FAINT
        texture = FAINT_TEXTURE if faint else MIN_TEXTURE
        for attempt in itertools.count():  # every attempt is a little easier, so the loop ends
            ease = difficulty * 0.85**attempt
            strict = attempt < STRICT_ATTEMPTS
            scene = random_plane(rng, extents, raster, ease, change)
            if not well_placed(scene, raster, MIN_OVERLAP, MIN_ON_PHOTOGRAPH if strict else 0):
                continue
            scene = furnish(rng, scene, extents, raster, ease)
            sight0, sight1 = look(scene, 0, raster), look(scene, 1, raster)
            flow, visible = flow_and_visibility(scene, sight0, sight1, raster)
            if visible.float().mean() < MIN_VISIBLE:
                continue
            images = [render_view(scene, sight, self._pyramids) for sight in (sight0, sight1)]
            if not strict or min(float(image.diff().abs().mean()) for image in images) >= texture:
                break
        if self.photometric:
            arrays = [photometric(rng, image.numpy(), difficulty, faint) for image in images]
        else:
            arrays = [image.numpy() for image in images]
        image0, image1 = (np.clip(array + 0.5, 0, 255).astype(np.uint8) for array in arrays)
        return Pair(image0, image1, flow.numpy(), visible.numpy())

    def _difficulty(self, rng: np.random.Generator) -> float:
        """0 to 1: what the differences of a pair are multiplied with."""
        if self.easy and rng.random() < self.easy:
            return rng.uniform(0.1, 0.7) ** 2
        return rng.uniform(0.2, 1) ** 2 if rng.random() < GENTLE else 1.0

    def batch(self, indices: Iterable[int]) -> Pair:
        """The pairs with these indices, stacked.

        image0, image1 and visible are (B, H, W), flow is (B, H, W, 2).
        """
        pairs = [self.pair(index) for index in indices]
        return Pair(
            *(np.stack([getattr(pair, field.name) for pair in pairs]) for field in fields(Pair))
        )
