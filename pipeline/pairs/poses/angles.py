"""Rotations of photographs that a log tells by three angles in degrees.

The world has x to the east, y to the north and z up. All three ways give the rotation from the
world to the camera, with the axes of COLMAP: x to the right, y down, z forward.

omega, phi, kappa   Rx(ω) · Ry(φ) · Rz(κ) turns the camera into the world. The camera has x to the
                    right, y to the top of the photograph, and looks along −z. With zeros it looks
                    straight down, and the top of the photograph is north.
yaw, pitch, roll    Of an aircraft whose camera looks straight down, the top of the photograph to
                    the nose. Yaw is clockwise from north, pitch is nose up, roll is right wing
                    down, and they turn in this order, each about the axis that the others left.
gimbal_yaw, …       DJI's of the camera itself, also gimbal_pitch and gimbal_roll: yaw of its view,
                    clockwise from north; pitch 0 to the horizon and −90 straight down; roll
                    clockwise. Without roll, pitch = gimbal_pitch + 90 leads to the angles above.

Source: the definitions in the manuals of Pix4D (omega, phi, kappa; yaw, pitch, roll) and of DJI
(GimbalYawDegree, GimbalPitchDegree, GimbalRollDegree in XMP).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.pairs.poses.known import FLIP

OMEGA_PHI_KAPPA = ("omega", "phi", "kappa")
YAW_PITCH_ROLL = ("yaw", "pitch", "roll")
GIMBAL = ("gimbal_yaw", "gimbal_pitch", "gimbal_roll")
# DJI's own names in XMP, as programs that print them write them.
NAMES_IN_XMP = dict(
    zip(("gimbalyawdegree", "gimbalpitchdegree", "gimbalrolldegree"), GIMBAL, strict=True)
)
# Axes of the aircraft: x to the nose, y to the right wing, z down. Columns: axes of a camera.
LOOKING_DOWN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
LOOKING_AHEAD = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
EAST_NORTH_UP = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])  # of north, east, down


def rotations_of_angles(kind: tuple[str, str, str], degrees: np.ndarray) -> np.ndarray:
    """Rotations (n, 3, 3) of angles (n, 3), NaN where an angle is. kind: one of the three above."""
    found = np.full((len(degrees), 3, 3), np.nan)
    rows = np.flatnonzero(np.isfinite(degrees).all(axis=1))
    if not len(rows):
        return found
    if kind == OMEGA_PHI_KAPPA:
        to_world = Rotation.from_euler("XYZ", degrees[rows], degrees=True).as_matrix() @ FLIP
    else:
        camera = LOOKING_DOWN if kind == YAW_PITCH_ROLL else LOOKING_AHEAD
        body = Rotation.from_euler("ZYX", degrees[rows], degrees=True).as_matrix()
        to_world = EAST_NORTH_UP @ body @ camera
    found[rows] = to_world.transpose(0, 2, 1)
    return found


def other_rotations(kind: tuple[str, str, str], degrees: np.ndarray) -> dict[str, np.ndarray]:
    """What angles are in conventions that are often mistaken for the one, by a text."""
    if kind == OMEGA_PHI_KAPPA:
        back = rotations_of_angles(kind, degrees).transpose(0, 2, 1)
        return {"omega, phi and kappa from the world to the camera": FLIP @ back @ FLIP}
    other = GIMBAL if kind == YAW_PITCH_ROLL else YAW_PITCH_ROLL
    return {f"the angles {', '.join(other)}": rotations_of_angles(other, degrees)}
