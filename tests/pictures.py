"""Small photographs for tests, made of random texture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = (320, 240)


def texture(width: int, height: int, seed: int) -> Image.Image:
    """Clouds of four sizes under grey polygons: smooth areas and edges, nothing that repeats. Mode
    L.
    """
    rng = np.random.default_rng(seed)
    clouds = np.full((height, width), 128.0)
    for cells, contrast in ((6, 60), (20, 40), (60, 30), (150, 15)):
        noise = Image.fromarray(
            rng.normal(size=(cells * height // width, cells)).astype(np.float32)
        )
        clouds += contrast * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    image = Image.fromarray(np.clip(clouds, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        corners = (
            rng.uniform(0, [width, height])
            + rng.uniform(-1, 1, (rng.integers(3, 6), 2)) * width / 25
        )
        draw.polygon([(x, y) for x, y in corners], fill=int(rng.integers(256)))
    return image


def slanted_views() -> list[Image.Image]:
    """Three views of 288×224 of one texture, from ahead and from two sides, of which the last two
    have few matches at a first look.
    """
    width, height = 288, 224
    ground, how = texture(2 * width, 2 * height, 5), Image.Transform.PERSPECTIVE
    cameras = (
        (1.4, 0, 86.4, 0, 1.4, 67.2, 0, 0),
        (2.148, -0.433, 27.2, 0.698, 1.331, -25.6, 0, 0),
        (2.148, 0.433, -69.7, -0.698, 1.331, 175.4, 0, 0),
    )
    smooth = Image.Resampling.BICUBIC
    return [ground.transform((width, height), how, camera, smooth) for camera in cameras]


def strip_views() -> list[Image.Image]:
    """Three views of 288×224 of the ground along a strip. The middle one looks straight down, and
    is turned. The others look along the strip to each other, and are turned against each other by
    half a circle, so that what both see is small and slanted in both.
    """
    ground, how = texture(1152, 896, 5), Image.Transform.PERSPECTIVE
    cameras = (
        (1.02637, -0.93683, 278.716, 0, 0.354623, 298.609, 0, -0.00219913),
        (0, 1.04167, 459.854, -1.04167, 0, 597.479, 0, 0),
        (-1.02637, -1.59657, 873.284, 0, -2.32504, 597.391, 0, -0.00219913),
    )
    smooth = Image.Resampling.BICUBIC
    return [ground.transform((288, 224), how, camera, smooth) for camera in cameras]


def views(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[Image.Image]:
    """Overlapping views of one texture, each through a gentle homography.

    Mode L, `size` (width, height).
    """
    rng = np.random.default_rng(seed)
    ground = texture(2 * size[0], 2 * size[1], seed)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
    found = []
    for _ in range(count):
        seen = (
            corners
            + np.array(size) / 2
            + size[0] * (rng.uniform(-0.12, 0.12, 2) + rng.uniform(-0.04, 0.04, (4, 2)))
        )
        rows = [
            row
            for (x, y), (u, v) in zip(corners, seen, strict=True)
            for row in ((x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y))
        ]
        homography = np.linalg.solve(np.array(rows, float), seen.ravel())
        transform = Image.Transform.PERSPECTIVE
        found.append(
            ground.transform(size, transform, homography.tolist(), Image.Resampling.BICUBIC)
        )
    return found


def write_views(folder: Path, count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[str]:
    """Write `view 0.jpg`, `view 1.jpg`, …; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"view {k}.jpg" for k in range(count)]
    for name, view in zip(names, views(count, size, seed), strict=True):
        view.save(folder / name, quality=92)
    return names


def write_places(root: Path, size: tuple[int, int], places: int = 3, count: int = 4) -> None:
    """`queries/` and `database/` of some places, `candidates.trec` and `truth.json`.

    A query and three database views of each place, listed so that two false candidates precede
    each true one.

    The first query's first candidates are a broken photograph and a name that does not exist.
    """
    truth, lines = {}, ["# a comment", "rubbish"]
    for folder in ("queries", "database"):
        (root / folder).mkdir(parents=True)
    for place in range(places):
        query, *others = views(count, size, seed=place)
        query.save(root / "queries" / f"{place}.jpg", quality=92)
        truth[f"{place}.jpg"] = [f"{place}/{k}.jpg" for k in range(len(others))]
        for k, other in enumerate(others):
            (root / "database" / str(place)).mkdir(exist_ok=True)
            other.save(root / "database" / f"{place}/{k}.jpg", quality=92)
    whole = (root / "database" / "0" / "0.jpg").read_bytes()
    (root / "database" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    for place in range(places):
        order = [
            f"{(place + step) % places}/{k}.jpg" for k in range(count - 1) for step in (1, 2, 0)
        ]
        order = ["cut.jpg", "gone.jpg", *order] if place == 0 else order
        lines += [
            f"{place}.jpg Q0 {name} {k + 1} {1 - k / 100:.2f} tag" for k, name in enumerate(order)
        ]
    (root / "candidates.trec").write_text("\n".join(lines) + "\n")
    (root / "truth.json").write_text(
        json.dumps({"positives": {**truth, "elsewhere.jpg": ["0/0.jpg"]}})
    )
