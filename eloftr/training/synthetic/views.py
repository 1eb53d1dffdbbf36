"""Synthetic training pairs: two grey views of real photographs with exact dense correspondence.

Every pair is a small 3D scene seen by two pinhole cameras. The ground is a photograph on the plane
Z = 0, flat or bent into a smooth relief; in front of it hang up to four planar patches of other
photographs, cut to random outlines, which hide what lies behind them and sometimes move on their
own between the views. The cameras differ in viewpoint (tilt up to 60°), distance, focal length and
roll. Both views are rendered from the photographs, so neither is the privileged, unresampled one;
then each gets its own exposure, light, blur, noise and compression.

A scene is drawn on the CPU, where a coarse look tells whether it will do. All pixels of a batch are
made at once, on the device that trains.

Units: the world's unit is one pixel of the ground photograph, X right, Y down, Z away from the
cameras. Pixel centres are at integers, the top-left one at (0, 0).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eloftr.errors import ArgumentError
from eloftr.training.synthetic.cameras import Raster
from eloftr.training.synthetic.photometric import Appearance, develop, random_appearance
from eloftr.training.synthetic.placement import (
    Change,
    furnish,
    random_change,
    random_plane,
    well_placed,
)
from eloftr.training.synthetic.pyramid import load_photographs
from eloftr.training.synthetic.two_view import SceneBatch, TwoViewScene

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
HELD_OUT_EVERY = 20
MIN_VISIBLE = 0.07  # share of image 0 that image 1 must see
# Share of the closer view's flat ground that the other one must see.
MIN_OVERLAP = 0.2
# Share of each view's ground inside the photograph, not in its mirror images.
MIN_ON_PHOTOGRAPH = 0.75
# Grey levels: mean step between a photograph's pixels below which a view of it is mostly sky.
MIN_TEXTURE = 1.5
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
    1 of every pixel of image 0, also where it is hidden or outside (1e5 where it is behind camera
    1). `visible`: (H, W) bool, the point is inside image 1 and not hidden there.
    """

    image0: Tensor
    image1: Tensor
    flow: Tensor
    visible: Tensor


@dataclass(frozen=True)
class RandomPair:
    """What a pair will show, and what happens to its views: nothing without `appearances`."""

    scene: TwoViewScene
    appearances: tuple[Appearance, Appearance] | None


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


class Draws:
    """Pairs that are drawn and not yet rendered; pair `index` depends on `seed` and `index` only.

    It works on the CPU alone, in any process. Its arguments are those of Views.
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
        change: Change | None = None,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 32:
            raise ArgumentError(f"size {height}x{width}: views need at least 32 pixels a side.")
        if not photographs:
            raise ArgumentError("photographs: the list is empty; give at least one image.")
        self.size = height, width
        self.photographs = load_photographs(photographs, longest)
        self._seed = seed
        self._photometric = photometric
        self._easy = easy
        self._change = change
        self._raster = Raster(height, width).coarse
        self._extents = self.photographs.sizes.double().numpy()

    @torch.inference_mode()
    def pair(self, index: int) -> RandomPair:
        """The pair with this index; the same in any order and any process."""
        rng = np.random.default_rng([self._seed, index])
        raster, extents = self._raster, self._extents
        difficulty = self._difficulty(rng)
        change, faint = self._change or random_change(rng), rng.random() < FAINT
        texture = FAINT_TEXTURE if faint else MIN_TEXTURE
        for attempt in itertools.count():  # every attempt is a little easier, so the loop ends
            ease = difficulty * 0.85**attempt
            strict = attempt < STRICT_ATTEMPTS
            scene = random_plane(rng, extents, raster, ease, change)
            if not well_placed(scene, raster, MIN_OVERLAP, MIN_ON_PHOTOGRAPH if strict else 0):
                continue
            scene = furnish(rng, scene, extents, raster, ease)
            batch = SceneBatch([scene], raster)
            sights = batch.look(0), batch.look(1)
            _, visible = batch.flow_and_visibility(*sights)
            if visible.float().mean() < MIN_VISIBLE:
                continue
            if not strict or all(
                batch.detail(sight, self.photographs) >= texture for sight in sights
            ):
                break
        if not self._photometric:
            return RandomPair(scene, None)
        one, other = (random_appearance(rng, difficulty, faint) for _ in range(2))
        return RandomPair(scene, (one, other))

    def _difficulty(self, rng: np.random.Generator) -> float:
        """0 to 1: what the differences of a pair are multiplied with."""
        if self._easy and rng.random() < self._easy:
            return rng.uniform(0.1, 0.7) ** 2
        return rng.uniform(0.2, 1) ** 2 if rng.random() < GENTLE else 1.0


class Views:
    """Pairs of views of `photographs` on `device`; pair `index` depends on `seed` and `index` only.

    size: the views' side or (height, width) in pixels. photometric: False leaves out exposure,
    light, blur, noise and compression, so that the two images differ by geometry and resampling
    alone. easy: share of the pairs that are easier than all others, as neighbours among real
    photographs are. change: the turn and zoom of all pairs, in place of random ones.
    Photographs are kept in memory as grey pyramids whose longer side is at most `longest` pixels:
    0.5 MB each, on the device and on the CPU.
    Noise is drawn by the device, so that a CPU and a GPU give the same geometry and other noise.
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
        change: Change | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.draws = Draws(
            photographs,
            size,
            seed,
            photometric=photometric,
            longest=longest,
            easy=easy,
            change=change,
        )
        device = torch.device(device)
        self._photographs = self.draws.photographs.to(device)
        self._raster = Raster(*self.draws.size, device)

    @torch.no_grad()
    def render(self, drawn: Sequence[RandomPair]) -> Pair:
        """A batch of the pairs that were drawn.

        image0, image1 and visible are (B, H, W), flow is (B, H, W, 2).
        """
        batch = SceneBatch([pair.scene for pair in drawn], self._raster)
        sights = batch.look(0), batch.look(1)
        flow, visible = batch.flow_and_visibility(*sights)
        images = torch.cat([batch.render(sight, self._photographs) for sight in sights])
        appearances = [
            pair.appearances[view] for view in (0, 1) for pair in drawn if pair.appearances
        ]
        if appearances:
            images = develop(images, appearances)
        image0, image1 = (images + 0.5).clamp(0, 255).to(torch.uint8).split(len(drawn))
        return Pair(image0, image1, flow, visible)

    def batch(self, indices: Iterable[int]) -> Pair:
        """The pairs with these indices, as `render` gives them."""
        return self.render([self.draws.pair(index) for index in indices])

    def pair(self, index: int) -> Pair:
        """The pair with this index, without the axis of a batch."""
        batch = self.batch([index])
        return Pair(*(getattr(batch, field.name)[0] for field in fields(Pair)))
