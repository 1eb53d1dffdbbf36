"""Image pairs with known geometry: the sets a matcher is judged on.

A set is a folder with `images/` and `pairs.json`, a list of objects:
    image0, image1     file names under images/
    pts0, pts1         (N, 2) marked points, x and y in pixels of the original images
or  K0, K1, T_0to1     intrinsics in pixels; 4×4 map from camera 0 to camera 1
    dist0, dist1       optional, OpenCV's k1 k2 p1 p2
Of a set without `pairs.json` all pairs count: `poses.json` has K, R, t and dist of every image,
with x = R X + t in its camera. Pixel centres are at integers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image

from eloftr.errors import ArgumentError

T = TypeVar("T")
LISTED = {  # sets with a list of pairs
    "homography16": "homography",
    "kusvod22": "epipolar",
    "fountain11": "pose",
    "door12": "pose",
    "fox50": "pose",
    "temple19": "pose",
}
KINDS = {**LISTED, "sceaux11": "pose", "sacre_coeur17": "pose"}
LARGEST_SET = 200  # pairs; a set with more is sampled
SAMPLE_SEED = 0
QUICK_SET = 8
RANSAC_CONFIDENCE = 0.99999
RANSAC_SEED = 0


@dataclass(frozen=True)
class Cameras:
    """Two pinhole cameras with OpenCV distortion, and the pose between them."""

    intrinsics: tuple[np.ndarray, np.ndarray]  # (3, 3) each, pixels of the original images
    distortion: tuple[np.ndarray, np.ndarray]  # (4,) each: k1 k2 p1 p2
    rotation: np.ndarray  # (3, 3), x1 = R x0 + t
    translation: np.ndarray  # (3,)

    def normalise(self, points0: np.ndarray, points1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, 2) pixels of each original image → (M, 2) undistorted rays, x/z and y/z, float64."""
        rays = []
        for points, intrinsics, distortion in zip(
            (points0, points1), self.intrinsics, self.distortion, strict=True
        ):
            columns = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 2)
            rays.append(cv2.undistortPoints(columns, intrinsics, distortion).reshape(-1, 2))
        return rays[0], rays[1]

    @property
    def essential(self) -> np.ndarray:
        """(3, 3) with x1ᵀ E x0 = 0 for rays of one scene point."""
        x, y, z = self.translation
        return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ self.rotation

    def pose_errors(
        self, points0: np.ndarray, points1: np.ndarray, threshold: float
    ) -> tuple[float, float] | None:
        """Angles in degrees by which the pose estimated from matches misses.

        The first is the rotation's (0 to 180), the second the translation's (0 to 90, its sign left
        open). None where the matches give no essential matrix.

        Args:
            points0, points1: (M, 2) pixels of the original images.
            threshold: RANSAC's for an inlier, in focal lengths.
        """
        if len(points0) < 5:
            return None
        rays0, rays1 = self.normalise(points0, points1)
        cv2.setRNGSeed(RANSAC_SEED)
        essentials, inliers = cv2.findEssentialMat(
            rays0, rays1, np.eye(3), method=cv2.RANSAC, prob=RANSAC_CONFIDENCE, threshold=threshold
        )
        if essentials is None:
            return None
        best, estimate = 0, None
        for essential in essentials.reshape(-1, 3, 3):
            # By name: OpenCV takes a fifth positional number for an output and keeps its depth
            # limit of 50.
            count, rotation, translation, _, _ = cv2.recoverPose(
                essential, rays0, rays1, np.eye(3), distanceThresh=1e9, mask=inliers.copy()
            )
            if count > best:
                best, estimate = count, (rotation, translation[:, 0])
        if estimate is None:
            return None
        rotation, direction = estimate
        cosine_rotation = (np.trace(rotation.T @ self.rotation) - 1) / 2
        cosine_translation = abs(direction @ self.translation) / np.linalg.norm(self.translation)
        angles = np.degrees(np.arccos(np.clip([cosine_rotation, cosine_translation], -1, 1)))
        return float(angles[0]), float(angles[1])


@dataclass(frozen=True)
class Pair:
    """Two images and exactly one of the three truths."""

    image0: str
    image1: str
    homography: np.ndarray | None = None  # (3, 3), pixels of image 0 → pixels of image 1
    fundamental: np.ndarray | None = None  # (3, 3), p1ᵀ F p0 = 0
    cameras: Cameras | None = None

    @property
    def names(self) -> tuple[str, str]:
        """Of both images."""
        return self.image0, self.image1

    def errors(self, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
        """How wrong each match is, (M,) in pixels of the original images.

        A homography gives the distance in image 1. Otherwise the larger of the two distances to the
        epipolar lines counts, with poses after the distortion is taken out.
        """
        if len(points0) == 0:
            return np.zeros(0)
        if self.homography is not None:
            mapped = homogeneous(points0) @ self.homography.T
            return np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - points1, axis=1)
        if self.fundamental is not None:
            return np.abs(epipolar_residuals(self.fundamental, points0, points1)).max(0)
        assert self.cameras is not None
        intrinsics0, intrinsics1 = self.cameras.intrinsics
        rays0, rays1 = self.cameras.normalise(points0, points1)
        fundamental = (
            np.linalg.inv(intrinsics1).T @ self.cameras.essential @ np.linalg.inv(intrinsics0)
        )
        undistorted0 = (homogeneous(rays0) @ intrinsics0.T)[:, :2]
        undistorted1 = (homogeneous(rays1) @ intrinsics1.T)[:, :2]
        return np.abs(epipolar_residuals(fundamental, undistorted0, undistorted1)).max(0)


@dataclass(frozen=True)
class View:
    """A grey image at the evaluated size, and the way back to the pixels of the original."""

    grey: np.ndarray  # (H, W) uint8
    scale: np.ndarray  # (2,) original width and height over those of `grey`

    def to_original(self, keypoints: np.ndarray) -> np.ndarray:
        """(M, 2) pixels of `grey` → (M, 2) float64 pixels of the original, pixel centres at
        integers.
        """
        return (keypoints.astype(np.float64) + 0.5) * self.scale - 0.5


def load_view(path: Path, long_side: int | None) -> View:
    """Read an image as grey, its longer side reduced to `long_side` and both sides to multiples of
    32.

    An image is never enlarged, not even to reach a multiple of 32. None keeps its size.
    """
    with Image.open(path) as image:
        grey = image.convert("L")
    size = np.array(grey.size)
    if long_side is None:
        return View(np.asarray(grey), np.ones(2))
    shrink = min(1.0, long_side / size.max())
    target = np.minimum(np.round(size * shrink / 32), size // 32).astype(int) * 32
    if target.min() < 32:
        raise ArgumentError(
            f"{path}: {size[0]}×{size[1]} leaves no 32 pixels at --long-side {long_side}."
        )
    resized = grey.resize((int(target[0]), int(target[1])), Image.Resampling.LANCZOS)
    return View(np.asarray(resized), size / target)


def load_pairs(folder: Path, quick: bool = False) -> list[Pair]:
    """The pairs of one set: all, or a fixed sample of 200; of these every n-th, at most 8, when
    `quick`.

    Raises:
        ArgumentError: the folder is no known set, or its list of pairs or poses is missing.
    """
    if folder.name not in KINDS:
        raise ArgumentError(
            f"{folder.name}: not a set with ground truth; known are {', '.join(KINDS)}."
        )
    listing = _listing(folder)
    if not listing.is_file():
        raise ArgumentError(
            f"{listing}: no such file; give the folder that holds the sets with --data."
        )
    rows = json.loads(listing.read_text())
    if folder.name not in LISTED:
        rows = [_between(rows, *names) for names in itertools.combinations(sorted(rows), 2)]
    if len(rows) > LARGEST_SET:
        rows = [
            rows[i]
            for i in sorted(random.Random(SAMPLE_SEED).sample(range(len(rows)), LARGEST_SET))
        ]
    if quick:
        rows = thinned(rows, QUICK_SET)
    return [_pair(row, KINDS[folder.name]) for row in rows]


def _listing(folder: Path) -> Path:
    return folder / ("pairs.json" if folder.name in LISTED else "poses.json")


def _between(poses: dict[str, dict[str, Any]], name0: str, name1: str) -> dict[str, Any]:
    """The row of a pair, as a list of pairs has it."""
    maps = []
    for name in (name0, name1):
        move = np.eye(4)
        move[:3, :3], move[:3, 3] = poses[name]["R"], poses[name]["t"]
        maps.append(move)
    row: dict[str, Any] = {
        "image0": name0,
        "image1": name1,
        "T_0to1": maps[1] @ np.linalg.inv(maps[0]),
    }
    for side, name in enumerate((name0, name1)):
        row |= {f"K{side}": poses[name]["K"], f"dist{side}": poses[name]["dist"]}
    return row


def thinned(rows: list[T], most: int) -> list[T]:
    """Every n-th of the rows, at most so many."""
    return rows[:: -(-len(rows) // most)]


def digest(folder: Path) -> str:
    """SHA-256 of the list of pairs or poses and the images of a set."""
    total = hashlib.sha256(_listing(folder).read_bytes())
    for path in sorted((folder / "images").iterdir()):
        total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


def homogeneous(points: np.ndarray) -> np.ndarray:
    """(M, 2) → (M, 3) with a last column of ones."""
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


def epipolar_residuals(
    fundamental: np.ndarray, points0: np.ndarray, points1: np.ndarray
) -> np.ndarray:
    """Signed distances to the epipolar lines, (2, M): in image 0 and in image 1."""
    points0, points1 = homogeneous(points0), homogeneous(points1)
    lines0, lines1 = points1 @ fundamental, points0 @ fundamental.T
    product = (points1 * lines1).sum(1)
    return np.stack([product / np.hypot(line[:, 0], line[:, 1]) for line in (lines0, lines1)])


def fit_fundamental(points0: np.ndarray, points1: np.ndarray, iterations: int = 200) -> np.ndarray:
    """The rank-2 matrix with the smallest sum of squared distances to the epipolar lines, over all
    points.

    The normalised eight-point solution minimises an algebraic error instead and misses some
    hand-marked points by over 20 px; it is where the iteration starts (Hartley and Zisserman,
    section 11.4).

    Args:
        points0, points1: (N, 2), N at least 8.
    """
    eight_point, _ = cv2.findFundamentalMat(points0, points1, cv2.FM_8POINT)
    transform0, transform1 = _conditioning(points0), _conditioning(points1)
    conditioned = np.linalg.inv(transform1).T @ eight_point @ np.linalg.inv(transform0)
    left, singular, right = np.linalg.svd(conditioned)
    root = np.sqrt(singular[:2] / singular[0])

    def matrix(parameters: np.ndarray) -> np.ndarray:
        factors = parameters[:6].reshape(3, 2), parameters[6:].reshape(2, 3)  # a product of rank 2
        return transform1.T @ factors[0] @ factors[1] @ transform0

    def residuals(parameters: np.ndarray) -> np.ndarray:
        return epipolar_residuals(matrix(parameters), points0, points1).ravel()

    parameters = np.concatenate([(left[:, :2] * root).ravel(), (root[:, None] * right[:2]).ravel()])
    current, damping, step = residuals(parameters), 1e-3, 1e-6
    for _ in range(iterations):
        jacobian = np.stack(
            [(residuals(parameters + step * e) - current) / step for e in np.eye(12)], 1
        )
        normal = jacobian.T @ jacobian
        # The two factors have a free 2×2 matrix between them: damping also picks one of the equal
        # solutions.
        damped = normal + damping * np.diag(np.diag(normal) + 1e-9)
        proposal = parameters - np.linalg.solve(damped, jacobian.T @ current)
        proposed = residuals(proposal)
        if proposed @ proposed < current @ current:
            parameters, current, damping = proposal, proposed, max(damping / 5, 1e-9)
        elif damping > 1e9:
            break
        else:
            damping *= 5
    return matrix(parameters)


def _conditioning(points: np.ndarray) -> np.ndarray:
    """(3, 3) that moves the points to mean 0 and mean square distance 2."""
    mean = points.mean(0)
    scale = np.sqrt(2 / ((points - mean) ** 2).sum(1).mean())
    return np.array([[scale, 0, -scale * mean[0]], [0, scale, -scale * mean[1]], [0, 0, 1]])


def _pair(row: dict, kind: str) -> Pair:
    names = row["image0"], row["image1"]
    if kind == "pose":
        transform = np.array(row["T_0to1"])
        none = [0.0, 0.0, 0.0, 0.0]
        cameras = Cameras(
            (np.array(row["K0"]), np.array(row["K1"])),
            (
                np.array(row.get("dist0", none), np.float64),
                np.array(row.get("dist1", none), np.float64),
            ),
            transform[:3, :3],
            transform[:3, 3],
        )
        return Pair(*names, cameras=cameras)
    points0, points1 = np.array(row["pts0"]), np.array(row["pts1"])
    if kind == "homography":
        return Pair(*names, homography=cv2.findHomography(points0, points1, 0)[0])
    return Pair(*names, fundamental=fit_fundamental(points0, points1))
