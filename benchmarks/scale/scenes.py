"""Made scenes of any size and their truth: a COLMAP database of verified matches, true cameras.

    made = survey(32).write(Path("database.db"))

survey     a grid of cameras that look down on hills
ring       cameras on a circle that look outwards at a wall: a closed loop
street     cameras in a row that look at a façade: a chain
apart      two surveys that no pair connects
alike      a street on which one building stands twice, and pairs between both that match well

Keypoints are projections with noise, and some matches are wrong, as those that verification lets
through. The survey is that of COLMAP's users: 80 % overlap along a strip, half of them flown back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT, FOCAL = 1000, 750, 900.0
KEYPOINTS = 600  # of an image
MATCHED = 0.6  # share of the common points of a pair that it matches
WRONG = 0.02  # share of the matches that are wrong
LEAST_MATCHES = 25  # of a pair
WINDOWS = 2.0  # metres above and below the cameras, where two buildings look alike
# World to camera of one that looks down, with the top of the image towards y.
DOWN = np.diag([1.0, -1.0, -1.0])


@dataclass
class Scene:
    """Points (P, 3), cameras, and the pairs that are matched.

    rotation (N, 3, 3) world to camera, centre (N, 3). couples (E, 2) rows of cameras.
    same: (P,) the point that each looks like; by default itself. far: how far a camera sees.
    """

    xyz: np.ndarray
    rotation: np.ndarray
    centre: np.ndarray
    couples: np.ndarray
    far: float
    same: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    noise: float = 0.5  # pixels

    def __len__(self) -> int:
        return len(self.centre)

    def write(self, database: Path, seed: int = 0) -> Scene:
        """Write the database; image number k + 1 is camera k."""
        rng = np.random.default_rng(seed)
        camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", FOCAL, WIDTH, HEIGHT)
        camera.has_prior_focal_length = True
        same = self.same if len(self.same) else np.arange(len(self.xyz))
        seen = self._keypoints(rng)
        database.unlink(missing_ok=True)
        with pycolmap.Database.open(database) as opened, pycolmap.DatabaseTransaction(opened):
            opened.write_camera(camera, use_camera_id=True)
            for row, (_, xy) in enumerate(seen):
                image = pycolmap.Image(name=f"{row:06}.jpg", camera_id=1, image_id=row + 1)
                opened.write_image(image, use_image_id=True)
                opened.write_keypoints(row + 1, xy.astype(np.float32))
            for a, b in np.sort(self.couples, axis=1).tolist():
                _, mine, theirs = np.intersect1d(
                    same[seen[a][0]], same[seen[b][0]], return_indices=True
                )
                kept = rng.random(len(mine)) < MATCHED
                matches = np.stack([mine[kept], theirs[kept]], axis=1)
                if len(matches) < LEAST_MATCHES:
                    continue
                wrong = rng.random(len(matches)) < WRONG
                matches[wrong, 1] = rng.integers(0, len(seen[b][0]), wrong.sum())
                matches = matches[np.unique(matches[:, 1], return_index=True)[1]]
                opened.write_two_view_geometry(a + 1, b + 1, self._geometry(a, b, matches, rng))
        return self

    def _keypoints(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every camera: numbers of the points that it sees, and where, (K, 2) pixels."""
        tree, seen = cKDTree(self.xyz), []
        middle = np.array([WIDTH, HEIGHT]) / 2
        for R, centre in zip(self.rotation, self.centre, strict=True):
            near = np.array(sorted(tree.query_ball_point(centre, self.far)), np.int64)
            local = (self.xyz[near] - centre) @ R.T
            near, local = near[local[:, 2] > 1], local[local[:, 2] > 1]
            xy = local[:, :2] / local[:, 2:] * FOCAL + middle
            inside = (xy > 5).all(axis=1) & (xy < [WIDTH - 5, HEIGHT - 5]).all(axis=1)
            near, xy = near[inside], xy[inside]
            some = rng.permutation(len(near))[:KEYPOINTS]
            seen.append((near[some], xy[some] + rng.normal(0, self.noise, (len(some), 2))))
        return seen

    def _geometry(self, a: int, b: int, matches: np.ndarray, rng: np.random.Generator) -> Any:
        """What verification would have found: the true pose of the pair, a little off."""
        turn = Rotation.from_rotvec(rng.normal(0, 1e-3, 3)).as_matrix()
        R = turn @ self.rotation[b] @ self.rotation[a].T
        shift = self.rotation[b] @ (self.centre[a] - self.centre[b])
        shift /= max(np.linalg.norm(shift), 1e-9)
        return pycolmap.TwoViewGeometry(
            config=pycolmap.TwoViewGeometryConfiguration.CALIBRATED,
            inlier_matches=matches.astype(np.uint32),
            cam2_from_cam1=pycolmap.Rigid3d(
                pycolmap.Rotation3d(R), shift / max(np.linalg.norm(shift), 1e-9)
            ),
        )


def survey(side: int, seed: int = 0, begin: float = 0.0) -> Scene:
    """side × side cameras, 10 m apart and 30 m over hills. begin: x of the first, metres."""
    rng, extent = np.random.default_rng(seed), 10.0 * side
    plan = rng.uniform(-20, extent + 20, (int((extent + 40) ** 2 * 0.25), 2))
    height = 4 * np.sin(plan[:, 0] / 17) * np.cos(plan[:, 1] / 23)
    height += rng.uniform(0, 6, len(plan)) * (rng.random(len(plan)) < 0.3)
    grid = np.stack(np.meshgrid(*[10.0 * np.arange(side)] * 2, indexing="ij"), axis=-1)
    centre = np.column_stack([grid.reshape(-1, 2), np.full(side * side, 30.0)])
    centre += rng.normal(0, 1, centre.shape)
    # Strips are flown to and fro, so half of the photographs are turned.
    turn = rng.normal(0, 0.08, centre.shape)
    turn[:, 2] += np.pi * (np.arange(side * side) // side % 2)
    rotation = Rotation.from_rotvec(turn).as_matrix() @ DOWN
    offset = np.array([begin, 0, 0])
    return Scene(
        np.column_stack([plan, height]) + offset,
        rotation,
        centre + offset,
        _neighbours(centre, 12),
        far=50.0,
    )


def ring(count: int, seed: int = 0) -> Scene:
    """A circle of cameras, 2 m apart, that look outwards at a wall 12 m away."""
    rng, radius = np.random.default_rng(seed), 2.0 * count / (2 * np.pi)
    around = np.sort(rng.uniform(0, 2 * np.pi, 120 * count))
    wall = radius + 12 + rng.normal(0, 1.0, len(around))
    xyz = np.column_stack(
        [wall * np.cos(around), wall * np.sin(around), rng.uniform(-5, 5, len(around))]
    )
    angle = 2 * np.pi * np.arange(count) / count
    out = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(count)])
    centre = radius * out + rng.normal(0, 0.2, (count, 3))
    beside = np.concatenate(
        [[(k, (k + step) % count) for k in range(count)] for step in range(1, 6)]
    )
    return Scene(xyz, _looking(out, rng), centre, beside, far=25.0)


def street(count: int, seed: int = 0) -> Scene:
    """A row of cameras, 3 m apart, that look at a façade 12 m away."""
    rng = np.random.default_rng(seed)
    along = rng.uniform(-20, 3.0 * count + 20, 120 * count)
    xyz = np.column_stack(
        [along, 12 + rng.normal(0, 1.0, len(along)), rng.uniform(-5, 5, len(along))]
    )
    centre = np.column_stack([3.0 * np.arange(count), np.zeros(count), np.zeros(count)])
    centre += rng.normal(0, 0.2, centre.shape)
    beside = np.array([(k, k + step) for step in (1, 2, 3) for k in range(count - step)])
    out = np.tile([0.0, 1.0, 0.0], (count, 1))
    return Scene(xyz, _looking(out, rng), centre, beside, far=25.0)


def apart(side: int, seed: int = 0) -> Scene:
    """Two surveys of side × side cameras that have nothing in common."""
    one, two = survey(side, seed), survey(side, seed + 1, begin=1e4)
    return Scene(
        np.concatenate([one.xyz, two.xyz]),
        np.concatenate([one.rotation, two.rotation]),
        np.concatenate([one.centre, two.centre]),
        np.concatenate([one.couples, two.couples + len(one)]),
        one.far,
    )


def alike(count: int, length: int, seed: int = 0) -> Scene:
    """A street whose first and last `length` cameras see buildings that look the same.

    Every camera at one building has pairs with those at the same places of the other. What stands
    below and above the windows differs.
    """
    made = street(count, seed)
    begin, end = 0.0, 3.0 * (length - 1)
    shift = 3.0 * (count - length)
    windows = np.abs(made.xyz[:, 2]) < WINDOWS
    first = np.flatnonzero(windows & (made.xyz[:, 0] >= begin) & (made.xyz[:, 0] <= end))
    second = windows & (made.xyz[:, 0] >= begin + shift) & (made.xyz[:, 0] <= end + shift)
    copies = made.xyz[first] + [shift, 0, 0]
    kept = np.flatnonzero(~second)
    xyz = np.concatenate([made.xyz[kept], copies])
    same = np.arange(len(xyz))
    same[len(kept) :] = np.searchsorted(kept, first)
    wrong = [
        (k, k + step + count - length)
        for k in range(length)
        for step in (-1, 0, 1)
        if 0 <= k + step < length
    ]
    couples = np.concatenate([made.couples, wrong])
    return Scene(xyz, made.rotation, made.centre, couples, made.far, same)


def _looking(out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """World to camera (N, 3, 3) of upright cameras that look along `out`, each a little off."""
    down = np.tile([0.0, 0.0, -1.0], (len(out), 1))
    rows = np.stack([np.cross(down, out), down, out], axis=1)
    made: np.ndarray = Rotation.from_rotvec(rng.normal(0, 0.03, out.shape)).as_matrix() @ rows
    return made


def _neighbours(centre: np.ndarray, count: int) -> np.ndarray:
    """Each camera with its nearest ones: (E, 2), every couple once."""
    _, near = cKDTree(centre).query(centre, k=count + 1)
    couples = np.stack([np.repeat(near[:, 0], count), near[:, 1:].ravel()], axis=1)
    return np.unique(np.sort(couples, axis=1), axis=0)
