"""Known poses that contradict the verified matches, and the convention in which they would not.

A match contradicts poses where it lies farther from the epipolar line that they give it than an
observation may be off, so that it has no point. Poses in
another convention, as camera to world in place of world to camera, contradict nearly all matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.events import counted
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.known import KnownPoses, Poses
from pipeline.reconstruct.blocks.graph import VERIFIED_FROM
from pipeline.reconstruct.depth import listed

MOST_OF_A_PAIR = 200  # matches that are looked at
# Shares of matches near their lines, medians of the pairs. Below the first a convention is wrong;
# below the second it is where another one is above the third. Cameras that hardly turn leave many
# matches near the lines of wrong poses.
WRONG, DOUBTFUL, RIGHT = 0.5, 0.8, 0.9
ONE_PLACE = 1e-3  # of the median distance between the photographs of a pair
SHOWN = 10  # images that a note names


@dataclass(frozen=True)
class VerifiedMatches:
    """Verified matches of P pairs of images with poses.

    first, second: (P,) rows of the images in the poses. starts: (P + 1,) where the matches of a
    pair begin. rays0, rays1: (M, 3) of matches, with z 1. focal0, focal1: (M,) pixels.
    """

    first: np.ndarray
    second: np.ndarray
    starts: np.ndarray
    rays0: np.ndarray
    rays1: np.ndarray
    focal0: np.ndarray
    focal1: np.ndarray

    def near(self, poses: Poses, limit: float) -> np.ndarray:
        """The share of matches nearer to their lines than a limit in pixels: (P,) of each pair."""
        rotation, shift = poses.rotations(), poses.shift
        between = rotation[self.second] @ rotation[self.first].transpose(0, 2, 1)
        step = shift[self.second] - np.einsum("pij,pj->pi", between, shift[self.first])
        length = np.linalg.norm(step, axis=1)
        step /= np.maximum(length, 1e-300)[:, None]
        essential = np.cross(np.eye(3)[None], step[:, None, :]) @ between
        pair = np.repeat(np.arange(len(self.first)), np.diff(self.starts))
        lines1 = np.einsum("mij,mj->mi", essential[pair], self.rays0)
        lines0 = np.einsum("mji,mj->mi", essential[pair], self.rays1)
        off = np.abs(np.einsum("mi,mi->m", self.rays1, lines1))
        slope = np.hypot(
            np.linalg.norm(lines0[:, :2], axis=1) / self.focal0,
            np.linalg.norm(lines1[:, :2], axis=1) / self.focal1,
        )
        is_near = off < limit * np.maximum(slope, 1e-300)  # Sampson's distance
        share = np.bincount(pair, is_near, len(self.first)) / np.diff(self.starts)
        # Two photographs from one place have no epipolar lines.
        found: np.ndarray = np.where(length < ONE_PLACE * np.median(length), 1.0, share)
        return found


def pair_matches(
    database: Path, names: list[str], taken_by: Mapping[str, Any] | None = None
) -> VerifiedMatches:
    """The verified matches of a COLMAP database between images of these names.

    taken_by: the `pycolmap.Camera` of each of these names; None: those of the database.
    """
    pycolmap = import_pycolmap()
    row = {name: number for number, name in enumerate(names)}
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    focals: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    first, second, counts = [], [], []
    with pycolmap.Database.open(database) as opened:
        images = {image.image_id: image for image in opened.read_all_images() if image.name in row}
        cameras = {camera.camera_id: camera for camera in opened.read_all_cameras()}
        keypoints: dict[int, np.ndarray] = {}
        for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            both = pycolmap.pair_id_to_image_pair(pair)
            matches = geometry.inlier_matches
            if geometry.config < VERIFIED_FROM or not len(matches):
                continue
            if not images.keys() >= {*both}:
                continue
            chosen = np.linspace(0, len(matches) - 1, min(len(matches), MOST_OF_A_PAIR))
            matches = matches[chosen.astype(int)]
            for side, number in enumerate(both):
                image = images[number]
                camera = taken_by[image.name] if taken_by else cameras[image.camera_id]
                if number not in keypoints:
                    keypoints[number] = opened.read_keypoints(number)[:, :2].astype(np.float64)
                rays = camera.cam_from_img(keypoints[number][matches[:, side]])
                sides[side].append(np.column_stack([rays, np.ones(len(rays))]))
                focals[side].append(np.full(len(rays), camera.mean_focal_length()))
            first.append(row[images[both[0]].name])
            second.append(row[images[both[1]].name])
            counts.append(len(matches))
    nothing = np.empty((0, 3))
    return VerifiedMatches(
        *(np.array(first, np.int64), np.array(second, np.int64)),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        *(np.concatenate([nothing, *side]) for side in sides),
        *(np.concatenate([[], *side]) for side in focals),
    )


def check_poses(database: Path, known: KnownPoses, max_error: float) -> list[str]:
    """Sentences on images whose poses contradict most of their verified matches.

    known: with poses. max_error: pixels, the largest error of an observation.

    Raises ReconstructionError where poses contradict most matches of most images, with the
    convention that would fit.
    """
    assert known.poses is not None
    rows = np.flatnonzero(known.poses.known())
    names = [known.names[row] for row in rows]
    matches = pair_matches(database, names)
    if not len(matches.first):
        return []
    near = matches.near(known.poses.of(rows), max_error)
    doubtful = np.median(near) < DOUBTFUL
    share = {
        text: float(np.median(matches.near(poses.of(rows), max_error)))
        for text, poses in (known.others.items() if doubtful else ())
    }
    best = max(share, key=lambda text: share[text], default="")
    fits = bool(best) and share[best] >= RIGHT
    if np.median(near) < (DOUBTFUL if fits else WRONG):
        told = (
            f"{known.file}: its poses, read as {known.convention}, contradict the verified "
            f"matches: {1 - near.mean():.0%} lie more than {max_error:.0f} pixels from their "
            "epipolar lines"
        )
        if fits:
            raise ReconstructionError(
                f"{told}; they fit when they are read as {best}, so convert them or rename columns."
            )
        raise ReconstructionError(
            f"{told}, and no other usual convention fits; check names, cameras and units, or give "
            "--poses-are priors."
        )
    wrong = _wrong(matches, near, len(names))
    if not wrong:
        return []
    shown = listed([names[row] for row in wrong], SHOWN)
    return [
        f"the poses of {counted(len(wrong), 'image')} contradict most of their verified matches; "
        f"check them: {shown}"
    ]


def _wrong(matches: VerifiedMatches, near: np.ndarray, count: int) -> list[int]:
    """Images most of whose matches contradict, the worst first.

    The pairs of an image that is named count no more, so that it takes no other one along.
    """
    left = np.ones(len(near), bool)
    wrong: list[int] = []
    while left.any():
        pairs = np.flatnonzero(left)
        ends = np.concatenate([matches.first[pairs], matches.second[pairs]])
        sums = np.bincount(ends, np.tile(near[pairs], 2), count)
        of = np.bincount(ends, minlength=count)
        share = np.where(of > 0, sums / np.maximum(of, 1), 1.0)
        worst = int(share.argmin())
        if share[worst] >= WRONG:
            break
        wrong.append(worst)
        left &= (matches.first != worst) & (matches.second != worst)
    return wrong
