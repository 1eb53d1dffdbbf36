"""Which camera a query may have: given, one of the model, of its EXIF data, or to be estimated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.photos.cameras.intrinsics import Intrinsics, camera_by_name
from pipeline.photos.exif import DEFAULT_FOCAL
from pipeline.reconstruct.cameras.assign import MAPPING_MODEL
from pipeline.reconstruct.cameras.sharing import SAME_FOCAL_RATIO
from pipeline.reconstruct.tracks.scene import ModelCamera
from pipeline.vocabulary import CameraSource


@dataclass(frozen=True)
class FileFacts:
    """What a file tells of its camera.

    size: stored width and height. focal: pixels, NaN where EXIF gives none. maker: make and model
    by EXIF, or "".
    """

    size: tuple[int, int]
    focal: float
    maker: str

    def same_camera(self, other: FileFacts) -> bool:
        """Whether EXIF says that one camera took both, at one focal length."""
        if not self.maker or self.maker != other.maker or self.size != other.size:
            return False
        low, high = sorted((self.focal, other.focal))
        return bool(high <= low * SAME_FOCAL_RATIO)


@dataclass(frozen=True)
class QueryCamera:
    """A camera that may have taken a query.

    free: whether the focal length and the distortion follow from the query itself.
    estimated: whether the focal length is not even a start.
    """

    camera: ModelCamera
    source: CameraSource
    free: bool
    estimated: bool = False


def cameras_of_query(
    name: str,
    facts: FileFacts,
    given: tuple[Intrinsics, ...],
    images: list[tuple[FileFacts, ModelCamera]],
) -> list[QueryCamera]:
    """The cameras to try, the most trusted first.

    name: of the query in its folder. given: known cameras. images: of the model, those that match
    the query best first.
    """
    entry = camera_by_name(given, name, facts.size)
    if entry is not None:
        camera = ModelCamera(entry.model, *facts.size, entry.params)
        return [QueryCamera(camera, CameraSource.GIVEN, free=not entry.fixed)]
    for other, camera in images:
        if facts.same_camera(other):
            return [QueryCamera(camera, CameraSource.MODEL, free=False)]
    if np.isfinite(facts.focal):
        return [QueryCamera(_plain(facts, facts.focal), CameraSource.EXIF, free=True)]
    start = DEFAULT_FOCAL * max(facts.size)
    free = QueryCamera(_plain(facts, start), CameraSource.ESTIMATED, free=True, estimated=True)
    # Files without EXIF of one size may be of one camera. The query tells, see `accepted_pose`.
    alike = [camera for other, camera in images if other.size == facts.size and not other.maker]
    if facts.maker or not alike:
        return [free]
    return [QueryCamera(alike[0], CameraSource.MODEL, free=False), free]


def _plain(facts: FileFacts, focal: float) -> ModelCamera:
    width, height = facts.size
    return ModelCamera(MAPPING_MODEL, width, height, (focal, width / 2, height / 2, 0.0))
