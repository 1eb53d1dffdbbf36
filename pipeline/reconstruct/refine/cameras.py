"""Decide by the observations which views share a camera, and which of its parameters are free.

Photographs of one camera and one setting share its intrinsics. Then the principal point and the
distortion of higher order can be determined too, which single photographs do not tell. Every step
is tried on a part of the scene. Distortion is taken where it lowers the cost, the sum of the robust
losses, by more than LEAST_SHARE. Sharing may raise the cost by that much, because it takes
parameters away. A principal point is taken where it lowers the cost by nearly as much, and each
half of the points tells about the same one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from pipeline.events import counted
from pipeline.reconstruct.refine.adjust import Freedom, adjusted, cost
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel

LEAST_SHARE = 0.05
# What two halves of the points tell about a principal point differs by at most this share of its
# distance from the centre. On a turntable they differed by 67 of 67 px, elsewhere by 1 of 14.
AGREEING = 1 / 2
LEAST_POINTS = 50  # of the part of the scene
LEAST_VIEWS = 5  # of a camera whose principal point or higher distortion is determined
MOST_SPREAD = 1.05  # of the largest to the least focal length of views that may share a camera
TRIED_VIEWS, TRIED_POINTS = 30, 4000  # of the part of the scene that the decisions are tried on
FLAT = 0.02  # median distance from the plane by the median distance from the views
# Camera models, and the next richer one. Parameters keep their places; new ones are zero.
RICHER = {"SIMPLE_PINHOLE": "SIMPLE_RADIAL", "SIMPLE_RADIAL": "RADIAL"}
PRINCIPAL, MODEL = "principal point", "model"
# How much a step lowers the cost at least. The noise that no camera explains counts, too: the cost
# of one scene, matched in two ways, fell by 5.5 and by 4.9 % for the same principal point.
LEAST_GAIN = {PRINCIPAL: 0.04, MODEL: LEAST_SHARE}


@dataclass(frozen=True)
class CameraGroup:
    """Cameras that may be one, by their numbers, and the rows of their views."""

    cameras: tuple[int, ...]
    views: tuple[int, ...]

    @property
    def number(self) -> int:
        """The number of the camera that stays."""
        return self.cameras[0]


def decide_cameras(
    scene: SparseModel, loss: float, freedom: Freedom
) -> tuple[SparseModel, Freedom, list[str]]:
    """Share cameras and free their parameters where the observations determine them.

    loss: pixels, of `adjusted`.

    Returns the scene with its cameras, not adjusted yet, the freedom of its next adjustment, and a
    line for every decision.
    """
    lines: list[str] = []
    for group in _groups(scene, freedom):
        part = sample(scene, group.views)
        if len(part.xyz) < LEAST_POINTS:
            continue
        single = _shared(part, group)
        before = now = cost(adjusted(part, loss, freedom), loss)
        if len(group.cameras) > 1:  # else it is the same part
            now = cost(adjusted(single, loss, freedom), loss)
        free = freedom
        taken: list[str] = []
        for step in () if is_flat(part) else (PRINCIPAL, MODEL):
            trial, allowed = _richer(single, group, free, step)
            if trial is None:
                continue
            trial = adjusted(trial, loss, allowed)
            less = cost(trial, loss)
            if less < (1 - LEAST_GAIN[step]) * now and (
                step == MODEL or is_determined(single, group.number, loss, allowed)
            ):
                single, free, now = trial, allowed, less
                model = single.views.cameras[group.number].model
                taken.append(step if step == PRINCIPAL else model)
        if len(group.cameras) > 1 and now > (1 + LEAST_SHARE) * before:
            continue
        scene, freedom = _taken(scene, group, single.views.cameras[group.number]), free
        if taken or len(group.cameras) > 1:
            lines.append(_line(group, single.views.cameras[group.number], taken, now / before))
    return scene, freedom, lines


def _groups(scene: SparseModel, freedom: Freedom) -> list[CameraGroup]:
    """Groups of at least LEAST_VIEWS views.

    They are views of one camera; or of one size and folder and about one focal length, where EXIF
    tells nothing of their cameras.
    """
    by_key: dict[object, list[int]] = defaultdict(list)
    for view, name in enumerate(scene.views.names):
        number = int(scene.views.camera[view])
        camera = scene.views.cameras[number]
        if number in freedom.fixed | freedom.given:
            continue
        size = camera.width, camera.height
        alike = freedom.share and number not in freedom.priors
        key = (name.rpartition("/")[0], camera.model, size) if alike else number
        by_key[key].append(view)
    groups = []
    focal = scene.views.focal()
    for views in by_key.values():
        cameras = tuple(sorted(set(scene.views.camera[views].tolist())))
        of_group = focal[views]
        if of_group.min() <= 0 or of_group.max() > MOST_SPREAD * of_group.min():
            continue
        if len(views) >= LEAST_VIEWS:
            groups.append(CameraGroup(cameras, tuple(views)))
    return groups


def sample(scene: SparseModel, views: tuple[int, ...]) -> SparseModel:
    """A part of the scene: some of the views, those that share most points, and some points."""
    chosen = np.zeros(len(scene.views), bool)
    seen = np.zeros(len(scene.xyz), bool)
    left = set(views)
    while left and chosen.sum() < TRIED_VIEWS:
        counts = np.bincount(
            scene.view[seen[scene.point]] if seen.any() else scene.view, minlength=len(chosen)
        )
        best = max(left, key=lambda view: (counts[view], -view))
        left.remove(best)
        chosen[best] = True
        seen[scene.point[scene.view == best]] = True
    lengths = np.bincount(scene.point[chosen[scene.view]], minlength=len(scene.xyz))
    points = np.flatnonzero(lengths >= 2)
    points = points[np.linspace(0, len(points) - 1, min(len(points), TRIED_POINTS)).astype(int)]
    stays = np.zeros(len(scene.xyz), bool)
    stays[points] = True
    return restricted(scene.keep(chosen[scene.view] & stays[scene.point]), chosen)


def restricted(scene: SparseModel, chosen: np.ndarray) -> SparseModel:
    """Only the chosen views (V,) bool; no others may have observations."""
    rows = np.flatnonzero(chosen)
    views = scene.views
    used = set(views.camera[rows].tolist())
    return replace(
        scene,
        view=(np.cumsum(chosen) - 1)[scene.view],
        views=replace(
            views,
            names=[views.names[row] for row in rows],
            numbers=views.numbers[rows],
            camera=views.camera[rows],
            rotation=views.rotation[rows],
            shift=views.shift[rows],
            cameras={number: camera for number, camera in views.cameras.items() if number in used},
            rigs=tuple(rig for rig in views.rigs if rig.reference in used),
            frame=None if views.frame is None else views.frame[rows],
        ),
    )


def is_flat(scene: SparseModel) -> bool:
    """Whether the points lie on a plane, as seen from the views.

    A plane can bend to the errors of a lens, and the views to the bent plane. So photographs of it
    fit a wrong distortion and a wrong principal point as well as the right ones. How far the points
    spread on the plane does not count here, in contrast to the planes of `depth`.
    """
    middle = np.median(scene.xyz, axis=0)
    normal = np.linalg.svd(scene.xyz - middle, full_matrices=False)[2][2]
    away = np.median(np.abs((scene.xyz - middle) @ normal))
    rays = scene.views.centres()[scene.view] - scene.xyz[scene.point]
    return bool(away < FLAT * np.median(np.linalg.norm(rays, axis=1)))


def _shared(scene: SparseModel, group: CameraGroup) -> SparseModel:
    """The scene with one camera for the group, whose parameters are the medians."""
    cameras = [scene.views.cameras[n] for n in group.cameras if n in scene.views.cameras]
    params = np.median([camera.params for camera in cameras], axis=0)
    camera = replace(cameras[0], params=tuple(params.tolist()))
    return _taken(scene, group, camera)


def _taken(scene: SparseModel, group: CameraGroup, camera: ModelCamera) -> SparseModel:
    """The scene with this camera for all views of the group."""
    views = scene.views
    number = np.where(np.isin(views.camera, group.cameras), group.number, views.camera)
    cameras = {n: other for n, other in views.cameras.items() if n not in group.cameras}
    cameras[group.number] = camera
    return replace(
        scene, views=replace(views, camera=number, cameras=dict(sorted(cameras.items())))
    )


def _richer(
    scene: SparseModel, group: CameraGroup, freedom: Freedom, step: str
) -> tuple[SparseModel | None, Freedom]:
    """The scene with one more thing free, or None where there is none."""
    if step == PRINCIPAL:
        return scene, replace(freedom, principal=freedom.principal | {group.number})
    camera = scene.views.cameras[group.number]
    if camera.model not in RICHER or not freedom.richer:
        return None, freedom
    richer = replace(camera, model=RICHER[camera.model], params=(*camera.params, 0.0))
    return _taken(scene, group, richer), freedom


def is_determined(scene: SparseModel, number: int, loss: float, freedom: Freedom) -> bool:
    """Whether two halves of the points tell about the same principal point of a camera.

    freedom: lets it change.
    """
    from_centre = []
    for half in (0, 1):
        of_half = np.arange(len(scene.xyz)) % 2 == half
        found = adjusted(scene.keep(of_half[scene.point]), loss, freedom)
        camera = found.views.cameras[number].made()
        place = camera.principal_point_x, camera.principal_point_y
        from_centre.append(np.array(place) - (camera.width / 2, camera.height / 2))
    first, second = from_centre
    apart, away = (float(np.linalg.norm(way)) for way in (first - second, (first + second) / 2))
    return apart <= AGREEING * away


def _line(group: CameraGroup, camera: ModelCamera, taken: list[str], share: float) -> str:
    views = counted(len(group.views), "image")
    text = f"{views} of {camera.width}×{camera.height} px"
    text += " share one camera" if len(group.cameras) > 1 else f": camera {group.number}"
    if taken:
        text += f", {' and '.join(taken)} determined"
    return f"{text} (cost {share:.3f} of that before)"
