"""Where photographs were taken and how they were turned, in the axes of COLMAP.

The camera has x to the right, y down and z forward. A pose maps the world to the camera, which sees
a point X at R · X + t. It is the pose of the photograph as it is stored, without
the turn of its EXIF data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.pairs.poses.frame import LocalFrame
from pipeline.photos.cameras.intrinsics import Intrinsics

UNIT = 1e-12  # a quaternion whose length is 1 up to so much stays to the last bit
FLIP = np.diag([1.0, -1.0, -1.0])  # from the axes of OpenGL to those of COLMAP, and back


@dataclass(frozen=True)
class Poses:
    """Poses of n images, world to camera. NaN where an image has none.

    quaternion: (n, 4) w, x, y, z, of length 1. shift: (n, 3).
    """

    quaternion: np.ndarray
    shift: np.ndarray

    @classmethod
    def of_quaternions(cls, quaternion: np.ndarray, shift: np.ndarray) -> Poses:
        """Poses of quaternions (n, 4) of any length above 0."""
        length = np.linalg.norm(quaternion, axis=1, keepdims=True)
        is_unit = np.abs(length - 1) <= UNIT
        with np.errstate(invalid="ignore", divide="ignore"):
            return cls(np.where(is_unit, quaternion, quaternion / length), shift)

    @classmethod
    def of_rotations(cls, rotation: np.ndarray, centres: np.ndarray) -> Poses:
        """Poses of rotations (n, 3, 3), world to camera, and of where the cameras are, (n, 3)."""
        quaternion = np.full((len(rotation), 4), np.nan)
        rows = np.flatnonzero(np.isfinite(rotation).all(axis=(1, 2)))
        if len(rows):
            quaternion[rows] = Rotation.from_matrix(rotation[rows]).as_quat()[:, [3, 0, 1, 2]]
        return cls(quaternion, -np.einsum("nij,nj->ni", rotation, centres))

    def known(self) -> np.ndarray:
        """Which images have a pose: (n,) bool."""
        both = np.column_stack([self.quaternion, self.shift])
        found: np.ndarray = np.isfinite(both).all(axis=1)
        return found

    def rotations(self) -> np.ndarray:
        """World to camera: (n, 3, 3)."""
        rotation = np.full((len(self.quaternion), 3, 3), np.nan)
        rows = np.flatnonzero(self.known())
        if len(rows):
            rotation[rows] = Rotation.from_quat(self.quaternion[rows][:, [1, 2, 3, 0]]).as_matrix()
        return rotation

    def centres(self) -> np.ndarray:
        """Where the cameras are: (n, 3)."""
        centres: np.ndarray = -np.einsum("nji,nj->ni", self.rotations(), self.shift)
        return centres

    def of(self, rows: np.ndarray) -> Poses:
        """The poses of some images."""
        return Poses(self.quaternion[rows], self.shift[rows])


@dataclass(frozen=True)
class KnownPoses:
    """The poses of n images that a file holds, or their positions alone.

    file: how messages call it. names: (n,) unique. centres: (n, 3) where the cameras are. poses:
    None where the file tells only positions. convention: how the file was understood. others: what
    the poses are in other conventions that files of this kind are often in, by a text for a
    sentence. intrinsics: cameras that the file knows. error: (n, 3) by which centres err, 1 sigma,
    NaN where the file does not tell. frame: of the poses. notes:
    sentences about rows that do not count.
    """

    file: str
    names: list[str]
    centres: np.ndarray
    poses: Poses | None
    convention: str
    frame: LocalFrame
    others: Mapping[str, Poses] = field(default_factory=dict)
    intrinsics: tuple[Intrinsics, ...] = ()
    error: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)


def in_conventions(
    matrices: np.ndarray, to_world: bool, opengl: bool
) -> tuple[Poses, str, dict[str, Poses]]:
    """Poses of matrices (n, 4, 4) in a convention, its text, and poses in the other three.

    to_world: the matrices map the camera to the world. opengl: the camera has the axes of OpenGL: x
    to the right, y up, and it looks along −z.
    """
    found = {
        _text(*kind): _poses(matrices, *kind)
        for kind in [(world, gl) for world in (False, True) for gl in (False, True)]
    }
    convention = _text(to_world, opengl)
    return found.pop(convention), convention, found


def in_turns(rotation: np.ndarray, centres: np.ndarray) -> tuple[Poses, str, dict[str, Poses]]:
    """As `in_conventions`, of rotations (n, 3, 3), world to camera, of cameras at centres (n, 3).

    In every convention the cameras stay where they are.
    """
    found = {
        _text(to_world, opengl): Poses.of_rotations(
            (FLIP if opengl else np.eye(3))
            @ (rotation.transpose(0, 2, 1) if to_world else rotation),
            centres,
        )
        for to_world in (False, True)
        for opengl in (False, True)
    }
    convention = _text(False, False)
    return found.pop(convention), convention, found


def _text(to_world: bool, opengl: bool) -> str:
    maps = "camera to world" if to_world else "world to camera"
    axes = "OpenGL (y up, z backward)" if opengl else "OpenCV (y down, z forward)"
    return f"{maps} with the axes of {axes}"


def _poses(matrices: np.ndarray, to_world: bool, opengl: bool) -> Poses:
    rotation, shift = matrices[:, :3, :3], matrices[:, :3, 3]
    if to_world:
        rotation, centres = rotation.transpose(0, 2, 1), shift
    else:
        centres = -np.einsum("nji,nj->ni", rotation, shift)
    return Poses.of_rotations(FLIP @ rotation if opengl else rotation, centres)
