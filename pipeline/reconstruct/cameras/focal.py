"""A focal length that the images hardly determine is drawn towards the one EXIF tells.

A survey that looks straight down on flat ground fits almost as well with any focal length: the
cameras only fly higher. The least error then chooses one by small systematic errors, as of the
shutter or the lens.

model after adjustment, focal lengths of EXIF → how much worse the model fits with EXIF's → weighted
mean of both focal lengths → model adjusted with it

The weight does not come from the covariance of the adjustment. It takes all residuals for
independent, and was 9 times too sure on a survey of 18 photographs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.reconstruct.cameras.adjust import adjust_robustly, used_cameras

# Standard deviation of EXIF's focal length, as a share of it. It is a name of the lens, rounded.
SPREAD = 0.05
# So many residuals of an image count as independent. The errors of neighbouring points agree.
INDEPENDENT = 10


@dataclass(frozen=True)
class FocalDecision:
    """What became of the focal length of one model. Pixels, medians of the cameras with a prior."""

    model: int  # number of the model
    told: float  # by EXIF
    found: float  # by the images alone
    kept: float
    spread: float  # standard deviation of `found`, as a share of it

    def text(self) -> str:
        """One sentence for the report."""
        share = "more than half of it" if self.spread > 0.5 else f"{self.spread:.0%}"
        return (
            f"model {self.model}: its images determine the focal length to {share}: "
            f"{self.found:.0f} px by themselves, {self.told:.0f} px by EXIF, and the mean of both "
            f"by their spreads is {self.kept:.0f} px."
        )


def steady_focal(
    model: Any,
    priors: Mapping[int, float],
    keep: Collection[int],
    scale: float,
    threads: int = 1,
    number: int = 0,
    independent: float = INDEPENDENT,
) -> FocalDecision | None:
    """Draw the focal length of an adjusted model towards its priors, where it is far from them.

    model: `pycolmap.Reconstruction`, adjusted with free focal lengths. It changes in place.
    priors: focal lengths in pixels that EXIF tells, by the number of the camera.
    keep: numbers of known cameras, which stay exactly as they are.
    scale, threads: see `adjust_robustly`.
    number: of the model, for the sentence.
    independent: residuals of an image that count as independent.

    All focal lengths with a prior are multiplied by one factor, because EXIF errs for all of one
    camera alike and the images determine their ratios well.

    Returns None and changes nothing where no camera has a prior, or where both agree within SPREAD,
    or where the images determine the focal length better than EXIF does.
    """
    cameras = used_cameras(model) & priors.keys() - {*keep}
    if not cameras:
        return None
    found = {camera: model.cameras[camera].mean_focal_length() for camera in cameras}
    apart = float(np.median([math.log(priors[camera] / found[camera]) for camera in cameras]))
    if abs(apart) < SPREAD:
        return None
    # The last adjustment may have stopped before its end, and both have to be alike.
    free = adjust_robustly(_copy(model), scale, threads, keep)
    moved = _copy(model)
    forced = _adjust_with_factor(moved, cameras, math.exp(apart), keep, scale, threads)
    # A likelihood of residuals of unknown size falls by the power of their number over two.
    worse = math.log(max(forced, free) / free) if free > 0 else math.inf
    precision = independent * model.num_reg_images() * worse / apart**2
    spread = 1 / math.sqrt(precision) if precision > 0 else math.inf
    if spread < SPREAD:
        return None
    towards = apart / (1 + SPREAD**2 * precision)
    _adjust_with_factor(model, cameras, math.exp(towards), keep, scale, threads)
    told = float(np.median([priors[camera] for camera in cameras]))
    median = float(np.median([*found.values()]))
    return FocalDecision(number, told, median, median * math.exp(towards), spread)


def _adjust_with_factor(
    model: Any,
    cameras: Collection[int],
    factor: float,
    keep: Collection[int],
    scale: float,
    threads: int,
) -> float:
    """Multiply the focal lengths of cameras and adjust the rest; returns the cost.

    The cameras on a sphere around a scene do not change, but those of a survey rise with the focal
    length. The adjustment finds that by itself.
    """
    for number in cameras:
        camera = model.cameras[number]
        params = camera.params.copy()
        params[list(camera.focal_length_idxs())] *= factor
        camera.params = params
    cost = adjust_robustly(model, scale, threads, keep, refine_focal=False)
    others = used_cameras(model) - {*cameras, *keep}
    if others:  # cameras without a prior find their focal lengths beside these
        cost = adjust_robustly(model, scale, threads, {*cameras, *keep})
    return cost


def _copy(model: Any) -> Any:
    return import_pycolmap().Reconstruction(model)
