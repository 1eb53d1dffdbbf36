"""The cameras of a run: which image has which, and what is known of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.photos.cameras.intrinsics import intrinsics_of_images
from pipeline.photos.exif import DEFAULT_FOCAL
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.cameras.sharing import alike_without_exif, group_images

# What mapping takes where the model is `auto`. Richer ones gave wrong focal lengths, or models in
# parts, where few images share a camera.
MAPPING_MODEL = "SIMPLE_RADIAL"
FISHEYE = "FISHEYE"  # in the names of the models whose rays are not those of a pinhole


@dataclass(frozen=True)
class SharedCamera:
    """A camera of several images, or one whose intrinsics were given."""

    camera: int  # its number in the database
    images: int
    why: str
    given: bool  # its intrinsics
    fixed: bool


@dataclass(frozen=True)
class AssignedCameras:
    """The cameras of N images. Numbers of cameras are rows + 1, ordered by their first images.

    of_image: (N,) row of each image's camera.
    rows: the `pycolmap.Camera`s.
    given: (N,) bool, whether the intrinsics of an image were given. known: (N,) bool, whether
    verification knew them. guessed: numbers of cameras whose prior focal length is a guess.
    """

    of_image: np.ndarray
    rows: list[Any]
    given: np.ndarray
    known: np.ndarray
    shared: list[SharedCamera]
    notes: list[str]
    guessed: tuple[int, ...] = ()

    def same_as_verified(self, images: StoredImages) -> np.ndarray:
        """Whether an image's camera is the one its matches were verified with: (N,) bool."""
        default = DEFAULT_FOCAL * np.maximum(images.width, images.height)
        assumed = np.where(np.isnan(images.focal), default, images.focal)
        focal = np.array([camera.mean_focal_length() for camera in self.rows])
        bent = np.array([FISHEYE in camera.model_name for camera in self.rows])
        same = np.isclose(focal[self.of_image], assumed, rtol=1e-3) & ~self.given
        verified: np.ndarray = (same & ~bent[self.of_image]) | self.known
        return verified


def start_focal(model: str, width: int, height: int) -> float:
    """The focal length in pixels that mapping begins with where nothing tells one.

    A fisheye is taken to see 180 degrees along its longer side, with equal angles in equal steps.
    """
    share = 1 / math.pi if FISHEYE in model else DEFAULT_FOCAL
    return share * max(width, height)


def assign_cameras(images: StoredImages, options: CameraOptions) -> AssignedCameras:
    """Give every image a camera.

    Raises ReconstructionError where intrinsics or a list of cameras do not fit the images.
    """
    pycolmap = import_pycolmap()
    sizes = list(zip(images.stored_width.tolist(), images.stored_height.tolist(), strict=True))
    given = intrinsics_of_images(options.intrinsics, images.names.tolist(), sizes)
    of_image, cameras, shared = np.empty(len(sizes), np.int64), [], []
    guessed: list[int] = []
    for number, group in enumerate(group_images(images, options, given), 1):
        rows = list(group.rows)
        of_image[rows] = number - 1
        width, height = sizes[rows[0]]
        known = images.focal[rows][~np.isnan(images.focal[rows])]
        focal = float(np.median(known)) if len(known) else start_focal(options.model, width, height)
        entry = options.intrinsics[group.given] if group.given >= 0 else None
        model = MAPPING_MODEL if options.model == "auto" else options.model
        camera = pycolmap.Camera.create_from_model_name(
            number, entry.model if entry else model, focal, width, height
        )
        if entry:
            camera.params = list(entry.params)
        camera.has_prior_focal_length = bool(entry) or len(known) > 0
        if FISHEYE in camera.model_name and not camera.has_prior_focal_length:
            # The mapper leaves out pairs of fisheyes whose focal length nothing tells.
            camera.has_prior_focal_length = True
            guessed.append(number)
        cameras.append(camera)
        if entry or len(rows) > 1:
            fixed = entry is not None and entry.fixed
            shared.append(SharedCamera(number, len(rows), group.why, entry is not None, fixed))
    notes = alike_without_exif(images) if options.sharing == "auto" and (given < 0).all() else []
    known = np.array([*(entry.known for entry in options.intrinsics), False])[given]
    return AssignedCameras(of_image, cameras, given >= 0, known, shared, notes, tuple(guessed))
