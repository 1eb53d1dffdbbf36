"""Pairs of a survey that a neighbour tells the overlap of: chains of planes, and their rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_process import tables
from pictures import strip_views
from PIL import Image

import pipeline
from pipeline.events import Event
from pipeline.match.match import to_original
from pipeline.match.read import ReadShard
from pipeline.match.shards import plan_views, planned_shards
from pipeline.match.turns.between import homography_between
from pipeline.match.turns.chains import (
    CHAINS,
    PLANE_COLUMNS,
    asked_before,
    chained,
    guided_table,
    overlap,
    through_neighbours,
)
from pipeline.match.turns.rounds import Seen
from pipeline.match.turns.tries import settled_matches
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import canvas_from_original, unturned
from pipeline.store.folder import Folder
from pipeline.tables import GUIDED, TURNS

pytestmark = pytest.mark.usefixtures("kept_processes")

NAMES = pa.array(["a", "b", "c", "d", "e"])
SIZES = np.full((5, 2), (3000.0, 2000.0))
STRIP: dict[str, Any] = {"long_side": 288, "scales": "off", "executor": "local"}


def planes(count: int) -> np.ndarray:
    """(count, 3, 3): how so many photographs show the ground."""
    rng = np.random.default_rng(7)
    found = np.eye(3) + rng.normal(0, 0.2, (count, 3, 3))
    found[:, 2, :2] /= 1000
    found[:, :2, 2] *= 500
    return found


def between(i: int, j: int, sign: float = 1.0) -> np.ndarray:
    """How image j shows what image i shows."""
    of = planes(5)
    return sign * of[j] @ np.linalg.inv(of[i])


def turns(*given: tuple[str, str, int, np.ndarray | None]) -> pa.Table:
    """TURNS of pairs: their names, inliers, and plane; an open pair has none of both."""
    found = [
        {
            "image0": first,
            "image1": second,
            "num_inliers": inliers,
            "turn": 0.0 if inliers else None,
            "failed": False,
            "scale": 1.0 if inliers else None,
            "homography": None if plane is None else plane.ravel().tolist(),
        }
        for first, second, inliers, plane in given
    ]
    return pa.Table.from_pylist(found, schema=TURNS)


def same_map(first: np.ndarray, second: np.ndarray) -> None:
    """Whether two homographies are one, whatever their factors."""
    points = np.array([[0.0, 0, 1], [300, 10, 1], [40, 200, 1], [310, 220, 1]])
    ends = [points @ one.T for one in (first, second)]
    found, expected = (end[:, :2] / end[:, 2:] for end in ends)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# `a` and `b` are open, and both are verified with `c` and `d`; `e` is verified with `a` alone.
GRAPH = (
    ("a", "b", 0, None),
    ("a", "c", 90, between(0, 2)),
    ("c", "b", 40, between(2, 1, -3.0)),
    ("d", "a", 70, between(3, 0)),
    ("b", "d", 60, between(1, 3)),
    ("a", "e", 300, between(0, 4)),
    ("b", "e", 0, None),
)
LEAST = 25
Rows = list[tuple[str, str, int, np.ndarray | None]]


def seen_of(*given: tuple[str, str, int, np.ndarray | None]) -> Seen:
    return Seen.of([turns(*given)], NAMES)


def test_the_neighbours_of_strongest_pairs_come_first_and_none_comes_twice() -> None:
    seen = seen_of(*GRAPH)
    assert through_neighbours(seen, LEAST, {}) == {(0, 1): [3, 2]}  # d has 60 inliers, c has 40
    assert through_neighbours(seen, LEAST, {(0, 1): {3}}) == {(0, 1): [2]}
    assert through_neighbours(seen, LEAST, {(0, 1): {2}}) == {(0, 1): [3]}
    assert CHAINS == 2
    assert through_neighbours(seen, LEAST, {(0, 1): {2, 4}}) == {}


def test_a_pair_of_few_inliers_is_asked_for_too() -> None:
    """They may be wrong ones, and would shut out what its neighbours tell."""
    weak = [("a", "b", LEAST - 1, between(0, 4)), *GRAPH[1:-2]]
    assert through_neighbours(seen_of(*weak), LEAST, {}) == {(0, 1): [3, 2]}
    strong = [("a", "b", LEAST, between(0, 4)), *GRAPH[1:-2]]
    assert through_neighbours(seen_of(*strong), LEAST, {}) == {}


def test_pairs_without_a_common_neighbour_or_of_two_parts_are_not_seen_through_one() -> None:
    apart: Rows = [("a", "b", 0, None), ("a", "c", 90, between(0, 2)), ("b", "d", 0, None)]
    assert through_neighbours(seen_of(*apart), LEAST, {}) == {}
    chain: Rows = [(*ends, 50, None) for ends in (("a", "b"), ("b", "c"), ("c", "d"))]
    assert through_neighbours(seen_of(*chain, ("a", "d", 0, None)), LEAST, {}) == {}


@pytest.mark.parametrize("neighbour", [2, 3])
def test_planes_are_chained_whatever_the_directions_of_their_pairs(neighbour: int) -> None:
    worse = turns(("a", "c", 30, between(0, 4)), ("d", "a", 30, between(0, 4)))
    for order in ([worse, turns(*GRAPH)], [turns(*GRAPH), worse]):  # of more inliers counts
        found = chained({(0, 1): [neighbour]}, order, NAMES, SIZES)
        assert [*found] == [(0, 1)]
        assert found[0, 1][0] == neighbour
        same_map(found[0, 1][1], between(0, 1))


def test_a_neighbour_without_a_plane_gives_way_to_the_next_one() -> None:
    lacking = turns(*((*row[:3], None) if row[0] == "d" else row for row in GRAPH))
    assert chained({(0, 1): [3]}, [lacking], NAMES, SIZES) == {}
    neighbour, plane = chained({(0, 1): [3, 2]}, [lacking], NAMES, SIZES)[0, 1]
    assert neighbour == 2
    same_map(plane, between(0, 1))
    older = turns(*GRAPH).drop_columns("homography")
    assert chained({(0, 1): [2]}, [older], NAMES, SIZES) == {}
    assert chained({(0, 1): [2]}, [turns(("a", "b", 0, None))], NAMES, SIZES) == {}
    assert chained({}, [], NAMES, SIZES) == {}


def moved(x: float, y: float, scale: float = 1.0) -> np.ndarray:
    """The homography by which what is at (0, 0) comes to lie at (x, y)."""
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])


@pytest.mark.parametrize(
    ("plane", "share"),
    [
        (moved(0, 0), 1),
        (moved(50, 0), 0.5),
        (moved(0, -150), 0.25),
        (moved(-50, 100), 0.25),
        (moved(-100, 0), 0),
        (moved(0, 201), 0),
        (moved(0, 0, 0.1), 1),  # all of the first is in the second
        (moved(0, 0, 10), 1),  # and the other way round
        (moved(30, 40, 0.01), 1),
    ],
)
@pytest.mark.parametrize("factor", [1, -3, 1e-4])
def test_planes_tell_how_much_of_a_photograph_another_one_shows(
    plane: np.ndarray, share: float, factor: float
) -> None:
    size = np.array([100.0, 200.0])
    assert overlap(factor * plane, size, size) == pytest.approx(share, abs=0.05)
    assert overlap(np.linalg.inv(factor * plane), size, size) == pytest.approx(share, abs=0.05)
    assert overlap(factor * plane, size, np.full(2, np.nan)) == 0


def test_what_lies_behind_a_camera_is_not_shown() -> None:
    """What is right of x = 50 lies behind the second camera, and some of it would fall into it."""
    tilted = moved(200, 100) @ [[1, 0, -40], [0, 1, 0], [-1 / 50, 0, 1]]
    behind = tilted @ [59.4, 9.4, 1]
    assert (behind[:2] / behind[2] > 0).all()
    assert (behind[:2] / behind[2] < 100).all()
    size = np.array([100.0, 100.0])
    assert overlap(tilted, size, size) == overlap(-tilted, size, size) == 0


def test_a_neighbour_that_tells_of_no_overlap_gives_way_to_the_next_one() -> None:
    far = turns(
        ("a", "c", 90, moved(0, 0)),
        ("c", "b", 80, moved(3000, 0)),
        ("a", "d", 70, moved(0, 0)),
        ("d", "b", 60, moved(2000, 0)),
        ("d", "e", 50, moved(0, 1970)),
    )
    neighbour, plane = chained({(0, 1): [2, 3]}, [far], NAMES, SIZES)[0, 1]
    assert neighbour == 3
    same_map(plane, moved(2000, 0))
    assert chained({(0, 1): [2]}, [far], NAMES, SIZES) == {}
    assert chained({(0, 4): [3]}, [far], NAMES, SIZES) == {}  # a strip of 1.5 %
    assert chained({(0, 1): [2, 3]}, [far], NAMES, np.full((5, 2), np.nan)) == {}


def test_a_plan_has_the_planes_of_its_pairs_in_its_own_order() -> None:
    pairs, names = [(2, 3), (0, 3), (0, 1), (1, 2)], NAMES.to_pylist()
    views = np.array([(*pair, 0, 180, 0.25, -0.25) for pair in pairs])
    plan = plan_views(names, views, 3, 2, "{:08}".format)
    table = guided_table(plan, names, {pair: (4, between(*pair)) for pair in pairs})
    assert table.schema.equals(GUIDED, check_metadata=True)
    assert table.num_rows > 1
    found = set()
    for shard in planned_shards(table):
        assert shard.guides is not None
        for (first, second), guide in zip(shard.pairs.tolist(), shard.guides, strict=True):
            pair = names.index(shard.images[first]), names.index(shard.images[second])
            same_map(guide, between(*pair))
            found.add(pair)
    assert found == set(pairs)
    assert asked_before([plan, table], names) == {pair: {4} for pair in pairs}
    assert all(shard.guides is None for shard in planned_shards(plan))
    assert guided_table(plan.slice(0, 0), names, {}).schema == GUIDED


def test_the_plane_of_a_pair_is_that_of_most_points() -> None:
    rng = np.random.default_rng(3)
    points0 = rng.uniform(0, 640, (200, 2))
    ends = np.column_stack([points0, np.ones(200)]) @ between(0, 1).T
    points1 = ends[:, :2] / ends[:, 2:]
    points1[:40] = rng.uniform(0, 640, (40, 2))
    found = homography_between(points0.astype(np.float32), points1.astype(np.float32), 640)
    assert found is not None
    assert found.shape == (9,)
    ends = np.column_stack([points0, np.ones(200)]) @ found.reshape(3, 3).T
    off = np.linalg.norm(ends[:, :2] / ends[:, 2:] - points1, axis=1)
    assert off[40:].max() < 0.1
    again = homography_between(points0.astype(np.float32), points1.astype(np.float32), 640)
    np.testing.assert_array_equal(found, again)
    one = np.ones((30, 2), np.float32)
    assert homography_between(one, one, 640) is None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`strip`, and its run, `whole`."""
    place = tmp_path_factory.mktemp("chains")
    (place / "strip").mkdir()
    for k, picture in enumerate(strip_views()):
        picture.save(place / "strip" / f"{k}.png")
    pipeline.match(place / "strip", place / "whole", **STRIP)
    return place


def guided_rounds(run: Path) -> list[pa.Table]:
    plans = [pq.read_table(path) for path in sorted((run / "plan").glob("round_*"))]
    return [plan for plan in plans if "guides" in plan.column_names]


def test_a_pair_that_no_view_opens_is_matched_through_its_neighbour(place: Path) -> None:
    (plan,) = guided_rounds(place / "whole")
    assert plan.schema.equals(GUIDED, check_metadata=True)
    assert plan["images"].to_pylist() == [["0.png", "2.png"]]
    assert plan["through"].to_pylist() == [["1.png"]]
    tries = [
        row
        for path in sorted((place / "whole" / "matches").iterdir())
        for row in pq.read_table(path).to_pylist()
        if (row["image0"], row["image1"]) == ("0.png", "2.png")
    ]
    *before, row = tries
    assert not any(row["num_inliers"] for row in before)
    assert row["num_inliers"] > 50
    points0, points1 = (np.array(row[f"keypoints{side}"], float) for side in (0, 1))
    true = np.array([[1.02637, -0.93683, 278.716], [0, 0.354623, 298.609], [0, -0.00219913, 1]])
    other = np.array([[-1.02637, -1.59657, 873.284], [0, -2.32504, 597.391], [0, -0.00219913, 1]])
    # Pillow's coordinates begin at the corner of the first pixel.
    ground = (
        np.column_stack([points0 + 0.5, np.ones(len(points0))]) @ (np.linalg.inv(other) @ true).T
    )
    off = np.linalg.norm(ground[:, :2] / ground[:, 2:] - 0.5 - points1, axis=1)
    assert np.median(off[row["inliers"]]) < 1


def test_a_run_that_is_stopped_before_such_a_round_goes_on_to_the_same_bytes(
    place: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.name == "turns" and guided_rounds(tmp_path / "run"):
            raise Stop

    where = place / "strip", tmp_path / "run"
    with pytest.raises(Stop):
        pipeline.match(*where, progress=stop, **STRIP)
    pipeline.match(*where, **STRIP)
    assert tables(tmp_path / "run") == tables(place / "whole")


def test_a_wrong_pair_of_few_inliers_is_replaced(place: Path, tmp_path: Path) -> None:
    """A corner that is masked lets a round before find 18 matches that agree by chance."""
    mask = np.full((224, 288), 255, np.uint8)
    mask[100:124, 262:] = 0
    Image.fromarray(mask).save(tmp_path / "2.png")
    pipeline.match(place / "strip", tmp_path / "run", masks=tmp_path, **STRIP)
    found = {
        row["image0"]: row["num_inliers"]
        for _, table in settled_matches(Folder(str(tmp_path / "run")))
        for row in table.to_pylist()
        if row["image1"] == "2.png"
    }
    assert found["0.png"] > 80


def test_finer_passes_keep_what_a_neighbour_told(place: Path, tmp_path: Path) -> None:
    summary = pipeline.match(place / "strip", tmp_path / "run", detail=1, **STRIP)
    assert summary["verified"] == 3


def test_a_guide_joins_what_the_network_sees_of_both_photographs(
    place: Path, tmp_path: Path
) -> None:
    """Turned by 30 degrees and at other scales, as pixels of the originals and back."""
    views = np.array([(0, 1, 180, 30, 0.5, -0.5)])
    plan = plan_views(["0.png", "1.png"], views, 4, 4, "{:08}".format)
    table = guided_table(plan, ["0.png", "1.png", "2.png"], {(0, 1): (2, between(0, 1))})
    (shard,) = planned_shards(table)
    decoded = ReadShard(Folder(str(place / "strip")), ImageLimits(), 192)(shard)
    (guide,) = decoded.guides_between([0], [[0], [1]])
    seen = np.array([[20.0, 30.0], [100.0, 60.0]])
    originals = [
        to_original(unturned(seen, view.turn, shape), shape, (224, 288)).astype(float)
        for view, shape in zip(decoded.views, decoded.shapes, strict=True)
    ]
    ends = np.column_stack([originals[0], np.ones(2)]) @ between(0, 1).T
    ends = np.column_stack([ends[:, :2] / ends[:, 2:], np.ones(2)])
    sizes = {"width": 288, "height": 224}
    there = ends @ canvas_from_original(decoded.views[1], decoded.shapes[1], sizes).T
    found = np.column_stack([seen, np.ones(2)]) @ guide.T
    np.testing.assert_allclose(found[:, :2] / found[:, 2:], there[:, :2], atol=1e-3)
    back = np.column_stack([originals[1], np.ones(2)])
    back = back @ canvas_from_original(decoded.views[1], decoded.shapes[1], sizes).T
    np.testing.assert_allclose(back[:, :2], seen, atol=1e-3)


def test_tables_of_planes_are_read_in_these_columns_alone() -> None:
    assert {*PLANE_COLUMNS} <= {*TURNS.names}
    assert {*Seen.COLUMNS} == {*TURNS.names} - {"homography"}
