"""Photographs that show the scene at other sizes: views at scales and the way back."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from job_process import tables
from pictures import views
from PIL import Image

import pipeline
from eloftr import EfficientLoFTRForKeypointMatching, load_model
from pipeline.errors import ArgumentError
from pipeline.events import Event
from pipeline.match.finish import turns_table
from pipeline.match.match import MatchShard
from pipeline.match.options import MatchingOptions, VerificationOptions, parsed_scales
from pipeline.match.read import ReadShard
from pipeline.match.shards import PlannedShard, planned_shards
from pipeline.match.turns.between import scale_between
from pipeline.match.turns.graph import sizes_of
from pipeline.match.turns.probe import planned_ladder
from pipeline.match.turns.rounds import Seen, again, best_turns, first_views, guessed, likely
from pipeline.match.turns.tries import settled_matches
from pipeline.match.verify import VerifyShard
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import View
from pipeline.store.folder import Folder
from pipeline.tables import PROBES, TURNED, TURNS, unragged

pytestmark = pytest.mark.usefixtures("kept_processes")

LONG_SIDE = 256
NOTHING = np.empty((0, 4))


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
    """The second photograph shows the middle of the first, and is a file of fewer pixels."""
    (view,) = views(1, (640, 480))
    view.save(tmp_path / "a.png")
    view.crop((64, 48, 576, 432)).save(tmp_path / "b.png")
    read = ReadShard(Folder(str(tmp_path)), ImageLimits(), LONG_SIDE)
    shard = read(PlannedShard("0", ["a.png", "b.png"], np.array([[0, 1]])))
    matched = MatchShard(model, MatchingOptions(LONG_SIDE))(shard)
    verified = VerifyShard(VerificationOptions())(matched.matches, matched.images)
    found = turns_table(verified, matched.images)
    assert found.schema == TURNS
    assert found["scale"].to_pylist()[0] == pytest.approx(1.25, abs=0.02)
    (plane,) = found["homography"].to_pylist()
    corner = np.reshape(plane, (3, 3)) @ [64, 48, 1]
    np.testing.assert_allclose(corner[:2] / corner[2], [0, 0], atol=3)


def test_turns_of_an_older_run_are_read_beside_newer_ones() -> None:
    rows = {"image0": ["a"], "image1": ["b"], "num_inliers": [90], "turn": [3.0]}
    rest = {"failed": [False], "scale": [2.0], "homography": [[1.0] * 9]}
    table = pa.table({**rows, **rest}, schema=TURNS)
    older = table.drop_columns(["scale", "homography"])
    seen = Seen.of([older, older, table], pa.array(["a", "b"]))
    assert seen.pairs.tolist() == [[0, 1]]
    assert seen.part.tolist() == [0, 0]


def seen_of(rows: list[tuple[str, str, int, float | None, float | None]], names: list[str]) -> Seen:
    columns = [*zip(*((*row[:4], False, row[4], None) for row in rows), strict=True)]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, TURNS, strict=True)]
    return Seen.of([pa.Table.from_arrays(arrays, schema=TURNS)], pa.array(names))


def test_sizes_are_found_among_wrong_pairs() -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(-2, 2, 40)
    pairs = np.array([p for p in itertools.combinations(range(40), 2) if rng.random() < 0.2])
    sizes = true[pairs[:, 1]] - true[pairs[:, 0]] + rng.normal(0, 0.05, len(pairs))
    wrong = rng.random(len(pairs)) < 0.1
    sizes[wrong] = rng.uniform(-2, 2, int(wrong.sum()))
    found = sizes_of(pairs, sizes, np.where(wrong, 30.0, 100.0), 40)
    assert np.abs(found - true - (found[0] - true[0])).max() < 0.2


def test_pairs_of_one_part_are_tried_at_the_scales_of_their_neighbours() -> None:
    """b shows the scene 1.4 times as large as a, c twice as large as b would in one step more."""
    rows = [("a", "b", 90, 0.0, 1.4), ("c", "b", 80, 0.0, 0.7), ("a", "c", 0, None, None)]
    seen = seen_of(rows, ["a", "b", "c"])
    tried = np.array([(0, 1, 0, 0), (1, 2, 0, 0), (0, 2, 0, 0)])
    ((i, j, turn_i, turn_j, size_i, size_j),) = again(seen, tried)
    assert (i, j, turn_i, turn_j) == (0, 2, 0, 0)
    assert (size_i, size_j) == (0.5, -0.5)  # c shows it twice as large as a
    assert len(again(seen, tried, scaling=False)) == 0
    assert len(again(seen, np.vstack([tried, [(0, 2, 0, 1)]]))) == 0


def test_a_verified_pair_is_tried_again_where_its_own_matches_tell_a_better_view() -> None:
    seen = seen_of([("b", "a", 40, 35.0, 0.4)], ["a", "b"])
    ((_, _, turn_i, turn_j, size_i, size_j),) = again(seen, np.array([(0, 1, 0, 0)]))
    assert (turn_j - turn_i) % 360 == 330  # a is upright with b when it is turned by 35 degrees
    assert (size_i, size_j) == (0.75, -0.75)  # a shows the scene at 0.4 of the size


def test_pairs_of_one_size_are_not_tried_again() -> None:
    rows = [("a", "b", 90, 3.0, 1.2), ("b", "c", 80, -6.0, 0.8), ("a", "c", 0, None, None)]
    seen = seen_of(rows, ["a", "b", "c"])
    assert len(again(seen, np.array([(0, 1, 0, 0), (1, 2, 0, 0), (0, 2, 0, 0)]))) == 0


def test_what_no_view_would_fit_is_not_tried() -> None:
    seen = seen_of([("a", "b", 40, 0.0, 9.0)], ["a", "b"])
    assert len(again(seen, np.array([(0, 1, 0, 0)]))) == 0


def test_a_ladder_counts_where_another_scale_than_1_stands_out() -> None:
    clear, vague, alike = [20, 55, 10, 40, 4], [12, 25, 22, 22, 16], [90, 30, 25, 9, 5]
    ratios = [1.0, 2.0, 1 / 2, 3.0, 1 / 3]
    columns = [["a"] * 15, ["b"] * 5 + ["c"] * 5 + ["d"] * 5, [90] * 15, clear + vague + alike]
    columns.append(ratios * 3)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PROBES, strict=True)]
    probes = pa.Table.from_arrays(arrays, schema=PROBES)
    tried = np.array([(0, 1, 0, 0), (0, 2, 0, 0), (0, 3, 0, 0)])
    found = likely(probes, pa.array(["a", "b", "c", "d"]), tried)
    assert found.tolist() == [[0, 1, 0, 90, 0.5, -0.5]]


def test_a_ladder_encodes_the_enlarged_images_once() -> None:
    shard = planned_ladder("01-s0", "a", "b", (0, 90), (1.0, 2.0, 1 / 2, 3.0, 1 / 3))
    assert len(shard.pairs) == 10
    assert shard.images.count("a") == 4  # enlarged, as it is, and reduced twice
    assert shard.images.count("b") == 8
    ratios = {
        round(shard.views[i].scale / shard.views[j].scale, 3) for i, j in shard.pairs.tolist()
    }
    assert ratios == {1.0, 2.0, 0.5, 3.0, 0.333}


def test_a_probe_likes_the_turn_of_most_matches() -> None:
    columns = [["a"] * 4, ["b"] * 4, [0, 90, 180, 270], [5, 9, 9, 2]]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PROBES, strict=False)]
    older = pa.Table.from_arrays(arrays, names=PROBES.names[:4])
    assert best_turns(older) == {("a", "b"): 90}


def test_scales_are_auto_off_or_a_number() -> None:
    assert (parsed_scales("auto"), parsed_scales("off"), parsed_scales("2")) == (4, 0, 2)
    for wrong in ("0", "7", "-1", "many", "", "２"):
        with pytest.raises(ArgumentError, match="give auto, off or a number from 1 to 6"):
            parsed_scales(wrong)


def test_heights_tell_the_scale_of_pairs_before_any_is_matched() -> None:
    pairs = np.array([(0, 1), (0, 2), (1, 2)])
    unknown = np.full(3, np.nan)
    assert first_views(pairs, unknown, unknown) is None
    assert first_views(pairs, unknown, np.array([-6.0, -6.2, -6.1])) is None  # they are alike
    found = first_views(pairs, unknown, np.array([-6.0, -4.5, np.nan]))
    assert found is not None
    assert found.tolist() == [[0, 1, 0, 0, 0.75, -0.75], [0, 2, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]]


def test_a_pair_between_parts_is_tried_at_the_scale_of_its_heights() -> None:
    rows = [("a", "b", 90, 0.0, 1.0), ("c", "d", 90, 0.0, 1.0), ("b", "c", 0, None, None)]
    seen = seen_of(rows, ["a", "b", "c", "d"])
    sizes, unknown = np.array([-6.0, -6, -4.5, -4.5]), np.full(4, np.nan)
    assert len(guessed(seen, unknown, unknown, NOTHING)) == 0
    assert guessed(seen, unknown, sizes, NOTHING).tolist() == [[1, 2, 0, 0, 0.75, -0.75]]
    assert len(guessed(seen, unknown, sizes, np.array([[1, 2, 0, 1.5]]))) == 0  # tried so before


MIDDLE = (153.6, 115.2, 358.4, 268.8)  # of 512×384 pixels
QUICK = {"long_side": LONG_SIDE, "executor": "local", "turns": "off"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of one texture, and the middle of one of them, 2.5 times as large."""
    place = tmp_path_factory.mktemp("scales")
    (place / "photos").mkdir()
    for k, picture in enumerate(views(2, (512, 384))):
        picture.save(place / "photos" / f"{k}.png")
        if k:
            near = picture.resize((512, 384), Image.Resampling.BICUBIC, box=MIDDLE)
            near.save(place / "photos" / f"{k} near.png")
    return place


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The run of these photographs, undisturbed."""
    pipeline.match(str(place / "photos"), str(place / "whole"), **QUICK)
    return place / "whole"


def test_photographs_of_other_sizes_are_matched_and_their_keypoints_come_back(
    place: Path, whole: Path
) -> None:
    off = pipeline.match(str(place / "photos"), str(place / "off"), scales="off", **QUICK)
    found = {
        (row["image0"], row["image1"]): row
        for _, table in settled_matches(Folder(str(whole)))
        for row in table.to_pylist()
    }
    assert off["verified"] == 1
    assert sum(row["num_inliers"] > 0 for row in found.values()) == 3
    row = found["1 near.png", "1.png"]
    inliers = np.array(row["inliers"])
    near, far = (np.array(row[f"keypoints{side}"])[inliers] for side in (0, 1))
    away = np.linalg.norm((near + 0.5) / 2.5 + MIDDLE[:2] - 0.5 - far, axis=1)
    assert len(away) > 40
    assert np.median(away) < 1
    assert (away < 4).mean() > 0.9
    first = "matches/00000000.parquet"
    assert (place / "off" / first).read_bytes() == (whole / first).read_bytes()


@pytest.mark.parametrize("scales", ["auto", "off"])
def test_photographs_from_two_heights_are_matched_at_once(
    scales: str, place: Path, tmp_path: Path
) -> None:
    """Heights stand in their XMP data, and need no other round."""
    (tmp_path / "photos").mkdir()
    for path in (place / "photos").iterdir():
        look = 'drone-dji:GimbalPitchDegree="-90" drone-dji:RelativeAltitude="+{}"'
        with Image.open(path) as picture:
            exif = picture.getexif()
            exif[0x8769] = {0xA405: 24}
            xmp = look.format(40 if "near" in path.name else 100)
            packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{xmp}</x:xmpmeta>'.encode()
            named = tmp_path / "photos" / f"{path.stem}.jpg"
            picture.save(named, quality=95, exif=exif, xmp=packet)
    found = pipeline.match(
        str(tmp_path / "photos"), str(tmp_path / "run"), scales=scales, **{**QUICK, "turns": "auto"}
    )
    assert (found["verified"] == 3) == (scales == "auto")
    assert not (tmp_path / "run" / "plan" / "round_01.parquet").exists() or scales == "off"


@pytest.mark.parametrize("stopped", ["turns 1", "probes"])
def test_a_run_that_is_stopped_at_scales_goes_on_to_the_same_bytes(
    stopped: str, place: Path, whole: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if stopped in (f"{event.name} {event.fields.get('round')}", event.fields.get("unit")):
            raise Stop

    with pytest.raises(Stop):
        pipeline.match(str(place / "photos"), str(tmp_path / "run"), progress=stop, **QUICK)
    pipeline.match(str(place / "photos"), str(tmp_path / "run"), **QUICK)
    assert tables(tmp_path / "run") == tables(whole)


def test_ray_does_not_change_the_views(
    place: Path, whole: Path, embedded_ray: str, tmp_path: Path
) -> None:
    pipeline.match(str(place / "photos"), str(tmp_path / "ray"), **{**QUICK, "executor": "ray"})
    assert tables(tmp_path / "ray") == tables(whole)
