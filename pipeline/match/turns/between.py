"""From the matches of one verified pair to how image 1 lies against image 0.

Angles are in degrees, clockwise. Every process that finishes shards imports this file and starts
sooner without scipy, so the graph of all pairs has a file of its own.
"""

from __future__ import annotations

import numpy as np

from pipeline.extras import import_pycolmap

MOST_POINTS = 300  # of a pair; more would cost as much as its verification
LINES = 16  # from every point of a pair to others
OUTLYING_LINE = 10.0  # degrees from which a line counts little
ROUNDS_OF_LINES = 5  # of reweighting
PLANE = 1 / 64  # of the longer side, from where a plane takes a point that lies on it
TRIALS = 500  # at most; the inliers of a pair are mostly right


def turn_between(keypoints0: np.ndarray, keypoints1: np.ndarray) -> float:
    """How far image 1 has to be turned for its points to lie as those of image 0.

    keypoints0, keypoints1: (M, 2), the inliers of a pair. Epipolar geometry lets some wrong matches
    through, which may lie anywhere, so the turn is that on which the lines between points agree.
    Returns degrees in −180…180; 0 where all points of an image are one.
    """
    first, second = _lines(keypoints0, keypoints1)
    weights = np.minimum(np.abs(first), np.abs(second))
    turns = first * second.conj()
    turns /= np.abs(turns)
    turn = weights @ turns
    for _ in range(ROUNDS_OF_LINES):
        off = np.degrees(np.angle(turns * turn.conj()))
        turn = weights / (1 + (off / OUTLYING_LINE) ** 2) @ turns
    return float(np.degrees(np.angle(turn)))


def scale_between(keypoints0: np.ndarray, keypoints1: np.ndarray) -> float | None:
    """How much larger image 1 shows the scene than image 0; 2 where distances are twice as long.

    keypoints0, keypoints1: as of `turn_between`. The scale is the median of the lines between
    points, so the images changed over give the inverse. Returns None where all points of an image
    are one.
    """
    first, second = np.abs(_lines(keypoints0, keypoints1))
    return float(np.exp(np.median(np.log(second / first)))) if len(first) else None


def homography_between(
    keypoints0: np.ndarray, keypoints1: np.ndarray, long_side: int
) -> np.ndarray | None:
    """Where the plane that most points lie on takes points of image 0, (9,) row-major.

    keypoints0, keypoints1: as of `turn_between`. long_side: of image 1, pixels. Of ground seen
    from the air it tells where any point comes to lie, about. None where there is no such plane.
    """
    pycolmap = import_pycolmap()
    options = pycolmap.RANSACOptions(random_seed=0, max_error=PLANE * long_side)
    options.min_num_trials, options.max_num_trials = 0, TRIALS
    found = pycolmap.estimate_homography_matrix(keypoints0, keypoints1, options)
    return np.ravel(found["H"]) if found is not None and np.linalg.det(found["H"]) else None


def _lines(keypoints0: np.ndarray, keypoints1: np.ndarray) -> np.ndarray:
    """(2, L) complex: lines between points (M, 2) that no image shows as one point.

    Each of at most MOST_POINTS points has lines to LINES others. These stand far from it in the
    list, which goes along the rows of image 0, so that lines are long.
    """
    points = np.stack([keypoints0, keypoints1]).astype(float) @ np.array([1, 1j])
    points = points[:, :: -(-len(keypoints0) // MOST_POINTS) or 1]
    count = points.shape[1]
    steps = np.unique(np.arange(1, LINES + 1) * count // (LINES + 1))
    lines = [points - np.roll(points, step, axis=1) for step in steps if step]
    found = np.concatenate([np.empty((2, 0), complex), *lines], axis=1)
    shown: np.ndarray = found[:, (found != 0).all(axis=0)]
    return shown


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Degrees in −180…180."""
    result: np.ndarray = (np.asarray(angle) + 180) % 360 - 180
    return result
