"""A run folder made from known cameras and points, for tests of what comes after matching."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import tables
from pipeline.match.options import VerificationOptions
from pipeline.match.verify import VerifyShard

LONG_SIDE = 480


@dataclass
class Scene:
    """Cameras on an arc around a cloud of points; upright images of `size`, the focal length in
    pixels.
    """

    cameras: int = 6
    size: tuple[int, int] = (720, 540)
    focal: float = 800.0
    noise: float = 0.6  # standard deviation of every pair's own coordinates, pixels
    outliers: float = 0.15
    matches: int = 250  # per pair
    seed: int = 0
    prior: bool = True  # the focal length is in the EXIF data
    orientations: dict[int, int] = field(default_factory=dict)  # camera number → EXIF orientation

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.points = rng.uniform([-2, -1.4, -1.2], [2, 1.4, 1.2], (1500, 3))
        self.rotations, self.translations = [], []
        for angle in np.linspace(-0.45, 0.45, self.cameras):
            centre = np.array([6.5 * np.sin(angle), 0.5 * np.sin(5 * angle), -6.5 * np.cos(angle)])
            forward = -centre / np.linalg.norm(centre)
            right = np.cross([0, 1, 0], forward)
            right /= np.linalg.norm(right)
            rotation = np.stack([right, np.cross(forward, right), forward])
            self.rotations.append(rotation)
            self.translations.append(-rotation @ centre)

    def name(self, camera: int) -> str:
        return f"part{camera % 2}/view {camera:02}.jpg"

    def project(self, camera: int) -> np.ndarray:
        """(points, 2) in the tables' pixels: the centre of the top-left pixel is (0, 0)."""
        seen = self.points @ self.rotations[camera].T + self.translations[camera]
        return seen[:, :2] / seen[:, 2:] * self.focal + (np.array(self.size) - 1) / 2

    def centres(self) -> np.ndarray:
        return np.stack([-R.T @ t for R, t in zip(self.rotations, self.translations, strict=True)])

    def images(self) -> pa.Table:
        rows = []
        for camera in range(self.cameras):
            orientation = self.orientations.get(camera, 1)
            stored = self.size[::-1] if orientation >= 5 else self.size
            focal = self.focal if self.prior else None
            rows.append((self.name(camera), *self.size, *stored, orientation, focal, None))
        kinds = tables.IMAGES.types
        columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
        return pa.table(columns, schema=tables.IMAGES)

    def matches_of(self, pairs: list[tuple[int, int]]) -> pa.Table:
        """Unverified MATCHES; a pair's rows depend on the pair and the scene's seed alone."""
        rows = []
        for first, second in pairs:
            rng = np.random.default_rng([self.seed, first, second])
            points = np.stack([self.project(first), self.project(second)])
            inside = ((points >= 0) & (points <= np.array(self.size) - 1)).all(axis=(0, 2))
            chosen = rng.permutation(np.flatnonzero(inside))[: self.matches]
            points = points[:, chosen] + rng.normal(0, self.noise, (2, len(chosen), 2))
            wrong = rng.random(len(chosen)) < self.outliers
            points[1, wrong] = rng.uniform(0, np.array(self.size) - 1, (int(wrong.sum()), 2))
            points = np.clip(points, 0, np.array(self.size) - 1)
            rows.append(
                (self.name(first), self.name(second), points, rng.uniform(0.3, 1, len(chosen)))
            )
        return matches_table(rows)

    def write(self, run: Path, shards: int = 3, verify: bool = True) -> None:
        """run.json, images/*.parquet and matches/*.parquet; the images repeat in every shard."""
        run.mkdir(parents=True, exist_ok=True)
        described = {"images": "photographs", "options": {"long_side": LONG_SIDE}}
        (run / "run.json").write_text(json.dumps(described))
        pairs = list(combinations(range(self.cameras), 2))
        for shard in range(shards):
            matches = self.matches_of(pairs[shard::shards])
            if verify:
                matches = VerifyShard(VerificationOptions(long_side=LONG_SIDE))(
                    matches, self.images()
                )
            write_shard(run, f"{shard:05}", matches, self.images())


def matches_table(rows: list[tuple[str, str, np.ndarray, np.ndarray]]) -> pa.Table:
    """(image0, image1, (2, M, 2) points, (M,) scores) per pair → MATCHES, not verified."""
    columns: dict[str, pa.Array] = {
        "image0": pa.array([row[0] for row in rows], pa.string()),
        "image1": pa.array([row[1] for row in rows], pa.string()),
        "status": pa.array(["matched"] * len(rows), pa.string()),
        "keypoints0": tables.ragged([row[2][0] for row in rows], pa.list_(tables.POINT)),
        "keypoints1": tables.ragged([row[2][1] for row in rows], pa.list_(tables.POINT)),
        "scores": tables.ragged([row[3] for row in rows], pa.list_(pa.float32())),
    }
    kinds = {name: tables.MATCHES.field(name).type for name in tables.MATCHES.names}
    full = [columns.get(name, pa.nulls(len(rows), kind)) for name, kind in kinds.items()]
    return pa.table(full, schema=tables.MATCHES)


def write_shard(run: Path, shard: str, matches: pa.Table, images: pa.Table) -> None:
    for folder, table in (("matches", matches), ("images", images)):
        (run / folder).mkdir(exist_ok=True)
        pq.write_table(table, run / folder / f"{shard}.parquet", compression="zstd")
