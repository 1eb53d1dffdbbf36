"""Adjust the bundle of a measured scene, and leave out the observations that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.reconstruct.cameras.adjust import PriorPlace, adjust_robustly
from pipeline.reconstruct.cameras.focal import steady_focal
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel

# The adjustment ends where a step lowers the cost by less than this share. ROUGH_GAIN is for one
# after which observations are left out: it leaves out the same ones, and takes half of the time.
LEAST_GAIN = 1e-6
ROUGH_GAIN = 1e-4
# Residuals of an image that count as independent; see `focal`. Observations that were measured one
# by one have less in common than those that the pairs of an image share. On a survey of 18
# photographs the model with the images' own focal length was closer to GPS (0.36 m) than the one
# with the mean that 10 gives (0.51 m).
INDEPENDENT = 30


@dataclass(frozen=True)
class Freedom:
    """What may change beside poses and points. Cameras are named by their numbers.

    fixed: cameras whose intrinsics stay. given: cameras whose intrinsics the user described; they
    are refined, but get no other model and are shared with no others.
    principal: cameras whose principal point is free. Of the others, only focal length and
    distortion are. share: whether cameras may become one. richer: whether they may get another
    model. priors: focal lengths in pixels that EXIF tells. still: whether all poses stay.
    places: where images were taken, by their names; see `adjust_robustly`.
    threads: with one the result is the same every time; −1 takes all cores.
    """

    fixed: frozenset[int] = frozenset()
    given: frozenset[int] = frozenset()
    principal: frozenset[int] = frozenset()
    share: bool = True
    richer: bool = True
    priors: Mapping[int, float] = field(default_factory=dict)
    threads: int = 1
    still: bool = False
    places: Mapping[str, PriorPlace] = field(default_factory=dict)


def adjusted(
    scene: SparseModel, loss: float, freedom: Freedom, least_gain: float = LEAST_GAIN
) -> SparseModel:
    """The scene after bundle adjustment. Observations stay as they are.

    loss: pixels where the soft-L1 loss turns from squared to straight.
    least_gain: share of the cost that a step has to save, LEAST_GAIN or ROUGH_GAIN.
    """
    cameras = scene.views.cameras.keys()
    others = cameras - freedom.principal
    passes = []  # the cameras that stay, and whether principal points change
    if others:
        passes.append((freedom.fixed, False))
    if freedom.principal & cameras:
        passes.append((freedom.fixed | others, True))
    for keep, principal in passes:
        model = scene.made()
        still = model.reg_image_ids() if freedom.still else ()
        adjust_robustly(
            *(model, loss, freedom.threads, keep),
            principal=principal,
            least_gain=least_gain,
            still=still,
            places=freedom.places,
        )
        scene = _taken_over(scene, model)
    return scene


def _taken_over(scene: SparseModel, model: Any) -> SparseModel:
    """The scene with the poses, cameras and points of the model that was made of it."""
    points = model.points3D
    xyz = [points[number].xyz for number in sorted(model.point3D_ids())]
    return replace(scene, views=ModelViews.of(model), xyz=np.array(xyz).reshape(-1, 3))


def steadied(scene: SparseModel, loss: float, freedom: Freedom) -> tuple[SparseModel, list[str]]:
    """The scene with a focal length between that of the images and that of EXIF; see `focal`.

    Poses that stay determine it by themselves. Returns a line for the report where EXIF's counted.
    """
    if freedom.still:
        return scene, []
    model = scene.made()
    keep = freedom.fixed | freedom.given
    decision = steady_focal(
        model, freedom.priors, keep, loss, freedom.threads, independent=INDEPENDENT
    )
    if decision is None:
        return scene, []
    text = f"focal length {decision.found:.0f} px by the images, {decision.told:.0f} px by EXIF"
    return _taken_over(scene, model), [f"{text}: {decision.kept:.0f} px"]


def fitting(scene: SparseModel, limit: np.ndarray, angle: float) -> SparseModel:
    """Without observations that are off by more than their view's limit (V,), in pixels.

    Points whose rays meet under less than `angle` degrees are left out too.
    """
    scene = scene.keep(scene.errors() < limit[scene.view])
    return scene.keep((scene.angles() >= np.deg2rad(angle))[scene.point])


def cost(scene: SparseModel, loss: float) -> float:
    """The sum of the soft-L1 losses of all observations, in squares of `loss` pixels."""
    return soft_l1(scene.errors(), loss)


def soft_l1(errors: np.ndarray, loss: float) -> float:
    """The sum of the losses of errors in pixels, in squares of `loss` pixels."""
    off = np.minimum(errors / loss, 1e6)
    return float((2 * (np.sqrt(1 + off**2) - 1)).sum())
