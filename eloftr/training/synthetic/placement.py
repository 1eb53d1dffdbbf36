"""Random two-view scenes: two cameras over a photograph, hills on it and patches before it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from eloftr.training.synthetic.cameras import (
    Camera,
    Cameras,
    Raster,
    affine,
    on_device,
    rotation,
)
from eloftr.training.synthetic.patches import random_patch
from eloftr.training.synthetic.relief import meet_plane, random_relief
from eloftr.training.synthetic.two_view import TwoViewScene

MAX_TILT = math.radians(60)
# Share of the pairs whose turn and zoom are spread evenly, however easy they are otherwise.
# Photographs are turned and scaled for reasons of their own.
SPREAD = 0.5
SPREAD_TURN = 60.0  # degrees, to either side
SPREAD_ZOOM = 1.2  # octaves, either view closer


@dataclass(frozen=True)
class Change:
    """How the cameras of a pair differ about the viewing axis.

    turn: degrees, of one view against the other. zoom: octaves by which view 1 is closer. first:
    whether view 0 is the turned one.
    """

    turn: float
    zoom: float
    first: bool


def random_change(rng: np.random.Generator) -> Change | None:
    """A change out of the even spread, or None where it follows the ease of the pair."""
    if rng.random() >= SPREAD:
        return None
    return Change(
        rng.uniform(-SPREAD_TURN, SPREAD_TURN),
        rng.uniform(-SPREAD_ZOOM, SPREAD_ZOOM),
        rng.random() < 0.5,
    )


def random_plane(
    rng: np.random.Generator,
    extents: np.ndarray,
    raster: Raster,
    ease: float,
    change: Change | None = None,
) -> TwoViewScene:
    """Two cameras over flat ground.

    ease: in (0, 1]; it shrinks the difference between the cameras. change: their turn and zoom
    where these do not depend on the ease. extents: (photographs, 2) widths and heights.
    """
    change = change or _eased_change(rng, ease)
    photograph = int(rng.integers(len(extents)))
    extent = extents[photograph]
    side = max(raster.height, raster.width)
    # Photograph pixels per view pixel: from about 1, or views blur, to what still lies on the
    # photograph.
    zoom = change.zoom
    widest = 1.1 * extent.min() / side / 2 ** (abs(zoom) / 2)
    finest = min(0.85 * 2 ** (abs(zoom) / 2), widest)
    density = rng.uniform(finest, max(finest, min(widest, 1.8)))
    densities = density * 2 ** (zoom / 2), density / 2 ** (zoom / 2)
    reach = side * min(densities)  # world: what the closer camera sees

    room = np.maximum(extent - 0.8 * reach, 0) / 2
    target = rng.uniform(-room, room)
    heading = rng.uniform(0, 2 * math.pi)
    step = ease * rng.uniform(0, 0.65) * reach * np.array([math.cos(heading), math.sin(heading)])
    targets = target - step / 2, target + step / 2

    # A survey turns both photographs of a pair alike, so many pairs stand at any angle.
    roll = rng.normal(0, 10) if rng.random() < 0.6 else rng.uniform(-180, 180)
    rolls = (roll + change.turn, roll) if change.first else (roll, roll + change.turn)
    focals = side * np.exp(rng.uniform(math.log(0.8), math.log(1.8)) + rng.normal(0, 0.1, 2))
    tilts, azimuths = _directions(rng, ease)
    # No ray may come near the horizon of the ground.
    corners = np.arctan(math.hypot(raster.height, raster.width) / 2 / focals)
    tilts = np.minimum(tilts, math.radians(81) - corners)
    camera0, camera1 = (
        _camera(raster, targets[v], densities[v], focals[v], tilts[v], azimuths[v], rolls[v])
        for v in (0, 1)
    )
    flip = rng.choice([-1.0, 1.0])
    texture = np.array([[flip * 2 / extent[0], 0, 0], [0, 2 / extent[1], 0]])
    return TwoViewScene((camera0, camera1), photograph, texture, None, [])


def well_placed(scene: TwoViewScene, raster: Raster, overlap: float, on_photograph: float) -> bool:
    """Whether the cameras see enough of each other's view and of the photograph, on flat ground.

    overlap: share of the closer view that the other one must see. on_photograph: share of each view
    that must lie on the photograph.
    """
    cameras = Cameras.of(scene.cameras)
    grounds = meet_plane(cameras, raster)
    texture = on_device(scene.texture[None], None)
    on = (affine(texture, grounds).abs() <= 1).all(1).float().mean((1, 2))
    points, _ = cameras[torch.tensor([1, 0])].project(grounds)
    seen = raster.inside(points).float().mean((1, 2))
    return bool(on.min() >= on_photograph and seen.max() >= overlap)


def furnish(
    rng: np.random.Generator, scene: TwoViewScene, extents: np.ndarray, raster: Raster, ease: float
) -> TwoViewScene:
    """The scene with a relief, or patches, or both, or neither.

    ease: in (0, 1]; it also slows moving patches.
    """
    relief, patches = None, []
    size = raster.height, raster.width
    if rng.random() < 0.5:
        relief = random_relief(rng, scene.cameras, raster)
    if rng.random() < 0.6:
        depths = np.sort(rng.uniform(0.04, 0.5, rng.integers(1, 5)))
        motion = ease if rng.random() < 0.4 else 0.0
        patches = [
            random_patch(rng, scene.cameras, size, extents, depth, motion) for depth in depths
        ]
    return replace(scene, relief=relief, patches=patches)


def _eased_change(rng: np.random.Generator, ease: float) -> Change:
    """Mostly a small one; the ease shrinks it."""
    limit = rng.choice([30, 90, 180], p=[0.86, 0.11, 0.03])
    turn = rng.triangular(-30, 0, 30) if limit == 30 else rng.uniform(-limit, limit)
    return Change(ease * turn, ease * rng.uniform(-1, 1), first=False)


def _directions(rng: np.random.Generator, ease: float) -> tuple[np.ndarray, np.ndarray]:
    """Tilts from the vertical and azimuths (2,) of the viewing directions, at most 66° apart."""
    while True:
        tilts = ease * MAX_TILT * rng.beta(1, 1.7, 2)
        azimuths = rng.uniform(0, 2 * math.pi) + np.array([0, rng.uniform(-math.pi, math.pi)])
        sights = [
            np.array([math.sin(t) * math.cos(a), math.sin(t) * math.sin(a), math.cos(t)])
            for t, a in zip(tilts, azimuths, strict=True)
        ]
        if sights[0] @ sights[1] > 0.4:
            return tilts, azimuths


def _camera(
    raster: Raster,
    target: np.ndarray,
    density: float,
    focal: float,
    tilt: float,
    azimuth: float,
    roll: float,
) -> Camera:
    """A camera looking at `target` on the ground, where its pixels are `density` wide.

    Angles are in radians, roll in degrees.
    """
    about_axis = rotation(np.array([0, 0, 1.0]), math.radians(roll))
    turned = about_axis @ rotation(np.array([math.cos(azimuth), math.sin(azimuth), 0]), tilt)
    centre = np.append(target, 0) - density * focal * turned[2]
    calibration = np.array(
        [[focal, 0, (raster.width - 1) / 2], [0, focal, (raster.height - 1) / 2], [0, 0, 1]]
    )
    return Camera(calibration, turned, centre)
