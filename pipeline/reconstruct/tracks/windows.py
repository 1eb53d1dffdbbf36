"""Measure windows of a reference image in other images, by `eloftr.least_squares` in batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from eloftr.least_squares import (
    MOVED_AT_ONCE,
    Deviations,
    align,
    cut_patches,
    cut_windows,
)

# The prior: how far the model's prediction may be off, in pixels and in the numbers of the map.
PRIOR = Deviations(1.0, 0.2)
SLACK = 5  # pixels that a window may move inside of its patch


class Measured(NamedTuple):
    """Where windows were found. xy: (m, 2) pixels. moved: (m,) pixels. correlation: (m,)."""

    xy: np.ndarray
    moved: np.ndarray
    correlation: np.ndarray


class Reference:
    """Windows of one image, to be found in others.

    image: (H, W) uint8. xy: (n, 2) pixels, COLMAP's origin. radius: pixels.
    """

    def __init__(self, image: np.ndarray, xy: np.ndarray, radius: int, device: str = "cpu") -> None:
        self.radius, self.device = radius, device
        pixels, keypoints = self._tensor(image), torch.from_numpy(xy - 0.5).float().to(device)
        none = torch.zeros(len(xy), dtype=torch.long, device=device)
        with torch.inference_mode():
            parts = [
                cut_windows(pixels, none[: len(part)], part, radius, PRIOR)
                for part in keypoints.split(self._at_once())
            ]
        self.windows = parts[0]._replace(
            template=torch.cat([part.template for part in parts]),
            weighted=torch.cat([part.weighted for part in parts]),
            inverse=torch.cat([part.inverse for part in parts]),
        )

    def find(
        self, image: np.ndarray, rows: np.ndarray, places: np.ndarray, maps: np.ndarray, steps: int
    ) -> Measured:
        """Find windows in another image.

        image: (H, W) uint8. rows: (m,) which windows. places: (m, 2) where they are expected,
        pixels, COLMAP's origin. maps: (m, 2, 2) from pixels of the reference to pixels here.
        """
        # Windows of one size lie side by side, so that the patch of each batch is no larger than
        # it must be.
        extent = np.abs(maps).sum(axis=2).max(axis=1, initial=0)
        order = np.argsort(extent, kind="stable")
        pixels = self._tensor(image)
        xy, moved, correlation = np.empty((len(rows), 2)), np.empty(len(rows)), np.empty(len(rows))
        with torch.inference_mode():
            for begin in range(0, len(rows), self._at_once()):
                part = order[begin : begin + self._at_once()]
                reach = int(np.ceil(self.radius * extent[part].max())) + SLACK
                windows = self.windows.of(torch.from_numpy(rows[part]).to(self.device))
                keypoints = torch.from_numpy(places[part] - 0.5).to(self.device)
                centre = keypoints.round()
                start = (keypoints - centre).float()
                none = torch.zeros(len(part), dtype=torch.long, device=self.device)
                around = cut_patches(pixels, none, centre.long(), reach)
                first = torch.from_numpy(maps[part]).float().to(self.device)
                found = align(windows, around, start, first, steps)
                xy[part] = (centre + found.shift + 0.5).cpu().numpy()
                moved[part] = (found.shift - start).norm(dim=1).cpu().numpy()
                correlation[part] = windows.correlation(found.seen).cpu().numpy()
        return Measured(xy, moved, correlation)

    def _at_once(self) -> int:
        return MOVED_AT_ONCE.get(self.device, MOVED_AT_ONCE["cpu"])

    def _tensor(self, image: np.ndarray) -> torch.Tensor:
        pixels = torch.tensor(image, device=self.device)  # a copy, as Pillow's pixels are read-only
        return pixels[None, None].float() / 255
