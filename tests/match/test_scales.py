"""Photographs that show the scene at other sizes: views at scales and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pictures import views
from PIL import Image

from eloftr import EfficientLoFTRForKeypointMatching, load_model
from pipeline.match.finish import turns_table
from pipeline.match.match import MatchShard
from pipeline.match.options import MatchingOptions, VerificationOptions
from pipeline.match.read import ReadShard
from pipeline.match.shards import PlannedShard, planned_shards
from pipeline.match.turns.graph import scale_between
from pipeline.match.turns.rounds import Seen
from pipeline.match.verify import VerifyShard
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import View
from pipeline.store.folder import Folder
from pipeline.tables import TURNED, TURNS, unragged

LONG_SIDE = 256


@pytest.fixture(scope="module")
def model() -> EfficientLoFTRForKeypointMatching:
    return load_model("small")


@pytest.mark.parametrize(
    ("size", "first", "second"),
    [
        ((512, 384), View(), View(0, 1.5)),
        ((512, 384), View(90, 2.0), View(90, 1.5)),
        ((384, 512), View(270, 0.75), View(270, 1.0)),
        ((512, 384), View(45, 1.5), View(45, 1.0)),
        ((400, 400), View(45, 1.0), View(45, 1.0)),
        ((400, 400), View(45, 1.5), View(30, 1.5)),
    ],
)
def test_points_of_every_view_come_back_to_where_they_were(
    size: tuple[int, int],
    first: View,
    second: View,
    model: EfficientLoFTRForKeypointMatching,
    tmp_path: Path,
) -> None:
    """A photograph is matched with another view of itself, so both keypoints are one."""
    views(1, size)[0].save(tmp_path / "a.png")
    read = ReadShard(Folder(str(tmp_path)), ImageLimits(), LONG_SIDE)
    shard = read(PlannedShard("0", ["a.png"] * 2, np.array([[0, 1]]), (first, second)))
    matched = MatchShard(model, MatchingOptions(LONG_SIDE))(shard)
    assert matched.images.num_rows == 1
    points0, points1 = (unragged(matched.matches[f"keypoints{side}"])[0] for side in (0, 1))
    away = np.linalg.norm(points0 - points1, axis=1)
    assert len(away) > 40
    assert (away < 3).mean() > 0.9


def test_a_view_at_twice_the_scale_shows_what_the_photograph_has(tmp_path: Path) -> None:
    """Lines that the network's size cannot show are seen at twice the size."""
    fine = np.zeros((384, 512), np.uint8)
    fine[:, ::2] = 255
    Image.fromarray(fine).save(tmp_path / "fine.png")
    read = ReadShard(Folder(str(tmp_path)), ImageLimits(), LONG_SIDE)
    shard = read(PlannedShard("0", ["fine.png"] * 2, np.array([[0, 1]]), (View(), View(0, 2.0))))
    assert [pixels.shape for pixels in shard.pixels] == [(192, 256), (384, 512)]
    assert shard.pixels[0].std() < 20
    assert shard.pixels[1].std() > 120


def test_a_plan_without_scales_is_of_scale_1() -> None:
    columns = [["01-00000000"], [["a", "b"]], [[[0, 1]]], [[0, 180]], [[1.0, 0.5]]]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, TURNED, strict=True)]
    plan = pa.Table.from_arrays(arrays, schema=TURNED)
    (now,), (before,) = planned_shards(plan), planned_shards(plan.drop_columns("scales"))
    assert now.views == (View(0, 1.0), View(180, 0.5))
    assert before.views == (View(0, 1.0), View(180, 1.0))


def test_the_scale_of_a_pair_is_that_of_its_points() -> None:
    points = np.random.default_rng(0).uniform(0, 600, (50, 2))
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    for scale in (0.3, 1.0, 2.5):
        seen = scale * points @ turn.T + 40
        assert scale_between(points, seen) == pytest.approx(scale)
        assert scale_between(seen, points) == pytest.approx(1 / scale)
    assert scale_between(points, np.ones((50, 2))) is None


def test_the_table_of_turns_tells_scales(
    model: EfficientLoFTRForKeypointMatching, tmp_path: Path
) -> None:
    """The second photograph shows the middle of the first at 1.25 times the size."""
    (view,) = views(1, (640, 480))
    view.save(tmp_path / "a.png")
    view.crop((64, 48, 576, 432)).resize((640, 480)).save(tmp_path / "b.png")
    read = ReadShard(Folder(str(tmp_path)), ImageLimits(), LONG_SIDE)
    shard = read(PlannedShard("0", ["a.png", "b.png"], np.array([[0, 1]])))
    matched = MatchShard(model, MatchingOptions(LONG_SIDE))(shard)
    found = turns_table(VerifyShard(VerificationOptions())(matched.matches, matched.images))
    assert found.schema == TURNS
    assert found["scale"].to_pylist()[0] == pytest.approx(1.25, abs=0.02)


def test_turns_of_an_older_run_are_read_beside_newer_ones() -> None:
    rows = {"image0": ["a"], "image1": ["b"], "num_inliers": [90], "turn": [3.0]}
    table = pa.table({**rows, "failed": [False], "scale": [2.0]}, schema=TURNS)
    older = table.drop_columns("scale")
    seen = Seen.of([older, older, table], pa.array(["a", "b"]))
    assert seen.pairs.tolist() == [[0, 1]]
    assert seen.part.tolist() == [0, 0]
