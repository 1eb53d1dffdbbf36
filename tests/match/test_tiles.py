"""Tiles of a photograph at a finer resolution: where they lie, which are matched, how they join."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eloftr import Matches
from eloftr.config import CELL
from pipeline.match.detail.passes import finer_shard, pass_of, tried_again
from pipeline.match.detail.shards import TiledPair, plan_tiles, tiled_shards
from pipeline.match.detail.tiles import Canvas, finer, joined, tiles_in_common
from pipeline.photos.turns import View, onto_canvas, unturned
from pipeline.tables import TILED

PROJECT = Path(__file__).resolve().parents[2]
CANVASES = [
    (4000, 3000, View(0, 2.0), 640),
    (4000, 3000, View(0, 4.0), 640),
    (3000, 4500, View(90, 2.0), 640),
    (1920, 1080, View(30, 2.0), 320),
    (1536, 1024, View(180, 2.4), 640),
    (500, 500, View(0, 1.5), 320),
    (640, 480, View(0, 1.0), 640),
    (640, 480, View(270, 0.5), 640),
]


@pytest.mark.parametrize(("width", "height", "view", "long_side"), CANVASES)
def test_tiles_cover_their_canvas_on_one_lattice_of_cells(
    width: int, height: int, view: View, long_side: int
) -> None:
    canvas = Canvas.of(width, height, view, long_side)
    grid = canvas.grid()
    assert not (grid % CELL).any()
    assert not (np.array(canvas.tile) % 32).any()
    for axis, (whole, tile) in enumerate(zip(canvas.whole[::-1], canvas.tile[::-1], strict=True)):
        starts = np.unique(grid[:, axis])
        assert (starts[0], starts[-1] + tile) == (0, whole)
        assert (np.diff(starts) <= 0.75 * tile + CELL).all()
    assert canvas.tile[0] * canvas.tile[1] <= long_side**2


def test_a_photograph_has_nine_tiles_at_twice_the_resolution_and_25_at_four_times() -> None:
    counts = [len(Canvas.of(4000, 3000, View(0, f), 640).grid()) for f in (1.0, 2.0, 4.0)]
    assert counts == [1, 9, 25]


@pytest.mark.parametrize("turn", [0, 30, 90, 180, 215, 270])
def test_points_of_a_canvas_come_back_to_where_they_were(turn: int) -> None:
    points = np.random.default_rng(0).uniform(0, 300, (50, 2))
    there = onto_canvas(points, turn, (300, 400))
    assert np.abs(unturned(there, turn, (300, 400)) - points).max() < 1e-9


@pytest.mark.parametrize(("width", "height", "view", "long_side"), CANVASES)
def test_the_middle_of_a_tile_is_shown_by_it(
    width: int, height: int, view: View, long_side: int
) -> None:
    canvas = Canvas.of(width, height, view, long_side)
    middles = canvas.grid() + (np.array(canvas.tile[::-1]) - 1) / 2
    original, on_it = canvas.in_original(middles)
    shown = canvas.inside(original[on_it])
    assert shown[np.flatnonzero(on_it), np.arange(on_it.sum())].all()
    inner = np.random.default_rng(1).uniform(0, np.array([width, height]) - 1, (500, 2))
    upright = view.turn % 90 == 0
    assert canvas.inside(inner).any(axis=0).mean() > (0.999 if upright else 0.8)


def test_both_photographs_of_a_pair_gain_the_same() -> None:
    upright = View(), View()
    seen = finer(upright, (4000, 3000), 2, 640)
    assert seen == (View(0, 2.0), View(0, 2.0))
    first, second = finer((View(0, 1.0), View(90, 1.0)), (4000, 1000), 2, 640) or upright
    assert first.scale == second.scale == np.float32(992 / 640)  # 1,000 px, whole cells
    assert (first.turn, second.turn) == (0, 90)
    assert finer(upright, (4000, 700), 2, 640) is None  # the other would show the scene larger
    assert finer(upright, (640, 640), 2, 640) is None
    scaled = finer((View(0, 1.5), View(0, 0.75)), (4000, 4000), 2, 640)
    assert scaled == (View(0, 3.0), View(0, 1.5))


@pytest.mark.parametrize("side", [800, 1001, 1279, 1300, 1536, 2400])
def test_no_photograph_is_enlarged(side: int) -> None:
    for factor in (2, 4):
        seen = finer((View(), View()), (side, side), factor, 640)
        assert seen is not None
        shape = Canvas.of(side, side * 3 // 4, seen[0], 640).shape
        assert max(shape) <= min(side, 640 * factor)


def test_tiles_are_matched_until_they_show_the_inliers() -> None:
    inside0, inside1 = np.zeros((3, 40), bool), np.zeros((2, 40), bool)
    inside0[0, :20] = inside0[1, 10:40] = inside1[0, :38] = inside1[1, 15:40] = True
    inside0[2, 38:] = True
    assert tiles_in_common(inside0, inside1).tolist() == [[1, 0], [0, 0]]
    few = np.ones((1, 3), bool)
    assert tiles_in_common(few, few).tolist() == [[0, 0]]
    assert tiles_in_common(np.zeros((2, 3), bool), np.zeros((2, 3), bool)).shape == (0, 2)


def matches_of(points0: list, points1: list, scores: list) -> Matches:
    sides = (np.array(points, np.float32).reshape(-1, 2) for points in (points0, points1))
    return Matches(*sides, np.array(scores, np.float32))


def test_a_place_that_two_tiles_show_is_matched_once_and_by_the_higher_score() -> None:
    canvas = Canvas((960, 1280), (960, 1280), 0, (480, 640))
    assert [320, 0] in canvas.grid().tolist()
    zero, right = np.array([0, 0]), np.array([320, 0])
    left = matches_of([(402, 80), (100, 50)], [(80.4, 83), (16, 50)], [0.5, 0.9])
    other = matches_of([(82.5, 80), (88, 88)], [(80.1, 83), (90.2, 83)], [0.7, 0.4])
    found = joined([(zero, right, left), (right, right, other)], (canvas, canvas))
    assert found.keypoints0.tolist() == [[100, 50], [402.5, 80], [408, 88]]
    assert found.keypoints1[:, 0].tolist() == pytest.approx([336, 400.1, 410.2])
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.4])


def test_neighbours_of_one_pair_of_tiles_may_meet_in_image_1() -> None:
    """Least squares may move two keypoints of image 1 into one cell; both are right."""
    canvas = Canvas((480, 640), (480, 640), 0, (480, 640))
    both = matches_of(
        [(80, 80), (88, 80)],
        [
            (83.9, 80),
            (84.1, 80),
        ][:2],
        [0.5, 0.9],
    )
    zero = np.array([0, 0])
    assert len(joined([(zero, zero, both)], (canvas, canvas))) == 2


def test_matches_beyond_the_edge_of_a_turned_photograph_are_left_out() -> None:
    canvas = Canvas.of(1280, 960, View(45, 2.0), 640)
    corner = matches_of([(4, 4), (320, 320)], [(320, 320), (300, 320)], [0.9, 0.8])
    start = np.array([0, 0])
    assert len(joined([(start, start, corner)], (canvas, canvas))) == 1


def pairs_of(count: int) -> list[TiledPair]:
    rng = np.random.default_rng(0)
    views = View(0, 2.0), View(0, 2.0)
    starts = [8 * rng.integers(0, 3, (rng.integers(1, 9), 4)) * 20 for _ in range(count**2)]
    return [
        TiledPair((f"{i}.jpg", f"{j}.jpg"), views, np.unique(starts[i * count + j], axis=0))
        for i in range(count)
        for j in range(i + 1, min(i + 4, count))
    ]


@pytest.mark.parametrize(("most_tiles", "most_pairs"), [(64, 128), (20, 1000), (1000, 10), (1, 1)])
def test_shards_hold_every_pair_once_within_their_bounds(most_tiles: int, most_pairs: int) -> None:
    pairs = pairs_of(12)
    table = plan_tiles(pairs, most_tiles, most_pairs, lambda k: finer_shard(1, False, k))
    assert table.schema == TILED
    found = {}
    for shard in tiled_shards(table):
        assert len(shard.pairs) == 1 or (
            len(shard.tiles) <= most_tiles and len(shard.tile_pairs) <= most_pairs
        )
        assert len(np.unique(shard.tiles, axis=0)) == len(shard.tiles)
        views = shard.tiles[:, 0][shard.tile_pairs]
        for i, j in shard.pairs.tolist():
            mine = shard.tile_pairs[(views == (i, j)).all(axis=1)]
            starts = shard.tiles[mine, 1:].reshape(len(mine), 4)
            found[shard.images[i], shard.images[j]] = starts.tolist()
    assert found == {pair.images: pair.starts.tolist() for pair in pairs}


def test_shards_do_not_depend_on_the_order_of_pairs() -> None:
    pairs = pairs_of(9)
    named = "13-{:08}".format
    assert plan_tiles(pairs, 40, 40, named) == plan_tiles(pairs, 40, 40, named)
    sets = [
        {frozenset(shard.images) for shard in tiled_shards(plan_tiles(some, 40, 40, named))}
        for some in (pairs, pairs[::-1])
    ]
    assert sets[0] == sets[1]


def test_names_tell_the_pass() -> None:
    names = ["00000007", "01-00000000", "12-00000003"]
    names += [finer_shard(number, again, 5) for number in (1, 2) for again in (False, True)]
    assert names[3:] == ["13-00000005", "14-00000005", "15-00000005", "16-00000005"]
    assert [pass_of(f"matches/{name}.parquet") for name in names] == [0, 0, 0, 1, 1, 2, 2]
    assert [tried_again(name) for name in names] == [False, True, True, False, True, False, True]


READ = """
import sys
import numpy as np
from pipeline.match.detail.match import make_tile_reader
from pipeline.match.detail.shards import TiledShard
from pipeline.match.detail.tiles import Canvas
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import View
from pipeline.store.folder import Folder

def peak():
    with open("/proc/self/status") as file:
        return int(file.read().partition("VmHWM:")[2].split()[0]) / 1024

views = tuple(View(90 * (k % 4), 2.0) for k in range(int(sys.argv[2])))
tiles = np.array(
    [(k, *start) for k, view in enumerate(views)
     for start in Canvas.of(7201, 5599, view, 640).grid()[:2]], np.int32)
pairs = np.array([(2 * k, 2 * k + 2) for k in range(len(views) - 1)], np.int32)
shard = TiledShard("13-0", ["large.jpg"] * len(views), pairs // 2, views, tiles, pairs)
read = make_tile_reader(Folder(sys.argv[1]), ImageLimits(), 640, False)
before = peak()
found = read(shard)
assert [tile.shape for tile in found.tiles.pixels[:4]] == [(480, 640)] * 2 + [(640, 480)] * 2
assert len(found.tiles.pixels) == 2 * len(views), found.tiles.failures.to_pylist()
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_photographs_of_a_shard(tmp_path: Path) -> None:
    """40 megapixels each, of which four are decoded at a time. No size of a JPEG divides these."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (80, 100), np.uint8))
    small.resize((7201, 5599), Image.Resampling.BILINEAR).save(tmp_path / "large.jpg", quality=90)
    command = [sys.executable, "-c", READ, str(tmp_path)]
    grown = [
        float(
            subprocess.run(
                [*command, str(count)], cwd=PROJECT, capture_output=True, text=True, check=True
            ).stdout
        )
        for count in (5, 20)
    ]
    assert grown[1] < grown[0] + 15 * 40 / 4  # megabytes; 15 photographs more have 600
