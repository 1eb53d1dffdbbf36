"""A map of a joined model: its cameras and points from above, in the colours of their blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.joining.job import BLOCKS_FOLDER
from pipeline.report.models import splat
from pipeline.report.pictures import BACKGROUND, SHARPNESS, write_text
from pipeline.store.folder import Folder

MOST_POINTS = 300_000  # that are drawn
BAR, MARGIN = 34, 16  # pixels
CAMERAS_BESIDE = 8  # nearest cameras whose blocks get other colours
DIM = 0.45  # share of its block's colour that a point has
# Colours that people who see no red or no green can tell apart, after Okabe and Ito.
COLOURS = np.array(
    [
        *([230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66]),
        *([60, 120, 220], [213, 94, 0], [204, 121, 167]),
    ],
    np.uint8,
)
NO_BLOCK = np.array([150, 150, 150], np.uint8)


@dataclass(frozen=True)
class BlockMap:
    """A model and its blocks.

    centres: (m, 3) of the cameras. block: (m,) number of each camera's block, −1 for none.
    points: (n, 3).
    """

    centres: np.ndarray
    block: np.ndarray
    points: np.ndarray

    @property
    def blocks(self) -> int:
        """How many blocks the cameras are from."""
        return len(np.unique(self.block[self.block >= 0]))


def read_block_map(results: Path) -> BlockMap:
    """The largest model in the output folder of `eloftr reconstruct`.

    Raises ReconstructionError where there is no model.
    """
    place = results / "sparse" / "0"
    if not (place / "images.bin").is_file():
        raise ReconstructionError(
            f"{results}: holds no sparse/0; give the output folder of eloftr reconstruct."
        )
    model = import_pycolmap().Reconstruction(str(place))
    numbers = sorted(model.reg_image_ids())
    centres = np.array([model.images[number].projection_center() for number in numbers])
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    of = blocks_of_images(results)
    block = np.array([of.get(number, -1) for number in numbers])
    return BlockMap(centres, block, points)


def blocks_of_images(results: Path) -> dict[int, int]:
    """The block of every core image, by COLMAP's numbers, of the last time the scene was cut."""
    cuts = sorted(int(path.parent.name) for path in results.glob(f"{BLOCKS_FOLDER}/*/plan.parquet"))
    if not cuts:
        return {}
    plan = Folder(str(results)).read_table(f"{BLOCKS_FOLDER}/{cuts[-1]}/plan.parquet", ["core"])
    cores = plan["core"].to_pylist()
    return {image: number for number, core in enumerate(cores) for image in core}


def draw_block_map(found: BlockMap, title: str = "", width: int = 1000) -> Image.Image:
    """Draw cameras and points along the direction in which the cameras extend least.

    width: of the picture in pixels. Its height follows from the shape of the scene. Blocks beside
    each other have different colours where seven suffice; cameras of no block are grey.
    """
    middle = np.median(found.centres, axis=0)
    off = found.centres - middle
    axes = np.linalg.eigh(off.T @ off)[1][:, ::-1].T  # the widest first
    flat = off @ axes[:2].T
    some = np.random.default_rng(0).permutation(len(found.points))[:MOST_POINTS]
    ground = (found.points[some] - middle) @ axes[:2].T
    low, high = np.percentile(np.concatenate([flat, ground]), [0.5, 99.5], axis=0)
    low, high = np.minimum(low, flat.min(axis=0)), np.maximum(high, flat.max(axis=0))
    inner = width - 2 * MARGIN
    scale = inner / max(float(high[0] - low[0]), 1e-9)
    height = int(np.clip(scale * (high[1] - low[1]), 0.2 * inner, 1.5 * inner))
    scale = min(scale, height / max(float(high[1] - low[1]), 1e-9))

    size = np.array([width, height + 2 * MARGIN]) * SHARPNESS
    image = np.empty((*size[::-1], 3), np.uint8)
    image[:] = BACKGROUND
    colours = colours_of_blocks(flat, found.block)
    nearest = cKDTree(flat).query(ground)[1]
    dots = np.concatenate([DIM * colours[nearest], colours]).astype(np.uint8)
    at = (np.concatenate([ground, flat]) - 0.5 * (low + high)) * scale * SHARPNESS + 0.5 * size
    apart = np.median(cKDTree(flat).query(flat, 2)[0][:, -1]) if len(flat) > 1 else 1.0
    large = float(np.clip(0.3 * apart * scale * SHARPNESS, 3.0, 10.0))
    radius = np.concatenate([np.full(len(ground), 1.2), np.full(len(flat), large)])
    splat(image, at[:, 0], size[1] - 1 - at[:, 1], dots, radius)
    drawn = Image.fromarray(image).resize((width, size[1] // SHARPNESS), Image.Resampling.BOX)
    canvas = Image.new("RGB", (width, BAR + drawn.height), BACKGROUND)
    canvas.paste(drawn, (0, BAR))
    ImageDraw.Draw(canvas).line((0, BAR - 1, width, BAR - 1), fill=(44, 48, 56))
    counts = f"{len(flat):,} cameras of {found.blocks} blocks, {len(found.points):,} points"
    write_text(canvas, (12, 9), f"{title}  ·  {counts}" if title else counts, 15)
    return canvas


def colours_of_blocks(flat: np.ndarray, block: np.ndarray) -> np.ndarray:
    """A colour for every camera: (m, 3) uint8.

    flat: (m, d) where the cameras are. block: (m,) their blocks, −1 for none. Blocks beside each
    other have different colours where those suffice.
    """
    _, near = cKDTree(flat).query(flat, min(CAMERAS_BESIDE + 1, len(flat)))
    other = block[near.reshape(len(flat), -1)]
    beside: dict[int, set[int]] = {number: set() for number in np.unique(block).tolist()}
    for mine, theirs in zip(block.tolist(), other.tolist(), strict=True):
        for one in theirs:
            beside[mine].add(one)
            beside[one].add(mine)
    chosen: dict[int, int] = {}
    for number in sorted(beside, key=lambda one: (-len(beside[one]), one)):
        taken = {chosen[one] for one in beside[number] if one in chosen}
        used = Counter(chosen.values())
        # The least used one, so that few blocks have all colours.
        chosen[number] = min(range(len(COLOURS)), key=lambda one: (one in taken, used[one], one))
    made = COLOURS[[chosen[number] for number in block.tolist()]].copy()
    made[block < 0] = NO_BLOCK
    return made
