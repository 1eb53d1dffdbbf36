"""The true cameras of the demo scene, and the errors of other cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.reconstruct.similarity import umeyama

Pose = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DemoTruth:
    """The folder of the pictures and the camera of each, by its name relative to `images`."""

    images: Path
    size: tuple[int, int]  # width, height
    K: dict[str, np.ndarray]  # (3, 3)
    poses: dict[str, Pose]  # R (3, 3), t (3,): x_camera = R @ x_world + t, metres


@dataclass(frozen=True)
class PoseErrors:
    """Errors of n registered views after the best similarity."""

    names: list[str]
    rotation: np.ndarray  # (n,) degrees
    position: np.ndarray  # (n,) in units of `spread`
    missing: list[str]  # views of the truth that were not reconstructed
    spread: float  # root mean square distance of the true centres from their mean, metres


def compare_with_truth(poses: Mapping[str, Pose], truth: DemoTruth) -> PoseErrors:
    """Compare poses in any coordinate frame with the true ones.

    poses: name → R, t from world to camera. Their frame is aligned by the similarity that brings
    the camera centres closest (Umeyama 1991). Raises ValueError for a name that the truth does not
    have, ReconstructionError for fewer than 3 poses.
    """
    names = sorted(poses)
    unknown = [name for name in names if name not in truth.poses]
    if unknown:
        raise ValueError(
            f"The scene has no view '{unknown[0]}'; names are relative to its images folder."
        )
    if len(names) < 3:
        raise ReconstructionError(
            f"only {len(names)} views are reconstructed; an alignment needs at least 3."
        )
    estimated = np.array([-R.T @ t for R, t in (poses[name] for name in names)])
    true = np.array([-R.T @ t for R, t in (truth.poses[name] for name in names)])
    scale, turn, shift = umeyama(estimated, true)
    every = np.array([-R.T @ t for R, t in truth.poses.values()])
    spread = float(np.sqrt(((every - every.mean(0)) ** 2).sum(1).mean()))
    position = np.linalg.norm(scale * estimated @ turn.T + shift - true, axis=1) / spread
    rotation = np.array(
        [_angle(poses[name][0] @ turn.T @ truth.poses[name][0].T) for name in names]
    )
    missing = [name for name in truth.poses if name not in poses]
    return PoseErrors(names, rotation, position, missing, spread)


def _angle(R: np.ndarray) -> float:
    """Angle of a rotation in degrees.

    The sine is used beside the cosine, which rounds to 1 for small angles.
    """
    sine = np.linalg.norm([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    return float(np.degrees(np.arctan2(sine, np.trace(R) - 1)))
