"""The map of a joined model in the colours of its blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ReconstructionError
from pipeline.report.block_map import COLOURS, NO_BLOCK, BlockMap, draw_block_map, read_block_map


def made(sides: int = 24, blocks: int = 4) -> BlockMap:
    """Cameras on a grid that stands upright in the world, in square blocks, above some points."""
    x, z = (grid.ravel() for grid in np.mgrid[0:sides, 0:sides])
    block = x * blocks // sides * blocks + z * blocks // sides
    centres = np.stack([x, np.zeros(len(x)), z], axis=1).astype(float)
    points = np.random.default_rng(0).uniform([0, 5, 0], [sides, 6, sides], (5000, 3))
    return BlockMap(centres, block, points)


def test_a_map_shows_every_block_and_tells_neighbours_apart() -> None:
    found = made()
    picture = np.asarray(draw_block_map(found, "survey", width=600))
    assert picture.shape[1] == 600
    assert abs(picture.shape[0] - 600) < 80  # the scene is square
    shown = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    used = [tuple(colour) for colour in COLOURS.tolist() if tuple(colour) in shown]
    assert 3 <= len(used) <= len(COLOURS)  # four blocks meet at a corner
    # Along a row of cameras the colour changes where the block does.
    assert found.blocks == 16


def test_cameras_of_no_block_are_grey() -> None:
    found = made()
    found.block[found.block == 3] = -1
    picture = np.asarray(draw_block_map(found, width=600)).reshape(-1, 3)
    assert (picture == NO_BLOCK).all(axis=1).any()
    assert found.blocks == 15


def test_a_model_of_one_camera_and_no_points_can_be_drawn() -> None:
    draw_block_map(BlockMap(np.zeros((1, 3)), np.zeros(1, np.int64), np.empty((0, 3))))


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="holds no sparse/0; give the output folder"):
        read_block_map(tmp_path)
