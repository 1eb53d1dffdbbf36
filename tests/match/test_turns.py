"""Photographs that are turned: pixels there and back, angles of a graph, rounds that try again."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_process import tables
from pictures import views
from PIL import Image

import pipeline
from pipeline.errors import ArgumentError, RunError
from pipeline.events import Event
from pipeline.front.matching import MATCH_DEFAULTS, run_options
from pipeline.match import run as run_module
from pipeline.match.options import parsed_turns
from pipeline.match.read import ReadShard
from pipeline.match.run import Run
from pipeline.match.shards import PlannedShard
from pipeline.match.turns.between import scale_between, turn_between, wrapped
from pipeline.match.turns.graph import angles_of, parts_of
from pipeline.match.turns.rounds import (
    LEAST_PROBES,
    Seen,
    again,
    first_views,
    guessed,
    is_survey,
    likely,
    most_probes,
    second_chances,
    to_probe,
)
from pipeline.match.turns.search import ViewSearch
from pipeline.match.turns.tries import settled_matches
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import canvas, turned, unturned
from pipeline.store.folder import Folder
from pipeline.tables import HEADINGS, PROBES, TURNS
from pipeline.vocabulary import Device

pytestmark = pytest.mark.usefixtures("kept_processes")

QUICK = {"long_side": 192, "executor": "local", "scales": "off"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(-720, 720), st.integers(1, 20), st.integers(1, 20))
def test_points_of_a_turned_picture_go_back_to_where_they_were(turn: int, w: int, h: int) -> None:
    shape = 32 * h, 32 * w
    centre, middle = ((np.array(size[::-1]) - 1) / 2 for size in (canvas(shape, turn), shape))
    np.testing.assert_allclose(unturned(centre[None], turn, shape), middle[None], atol=1e-9)
    points = np.random.default_rng(0).uniform(0, 32, (5, 2))
    there = unturned(unturned(points, turn, shape), -turn, canvas(shape, turn))
    if turn % 90 == 0:
        np.testing.assert_allclose(there, points, atol=1e-9)


@pytest.mark.parametrize("turn", [0, 90, 180, 270, -90, 450, 30, 45, 120, 200, -30])
def test_a_dot_is_found_where_the_map_says(turn: int) -> None:
    pixels = np.zeros((96, 128), np.uint8)
    pixels[28:33, 68:73] = 255  # centred on (70, 30)
    picture = turned(pixels, turn)
    assert picture.shape == canvas(pixels.shape, turn)
    y, x = np.nonzero(picture > 100)
    weights = picture[y, x].astype(float)
    found = np.array([[np.average(x, weights=weights), np.average(y, weights=weights)]])
    np.testing.assert_allclose(unturned(found, turn, pixels.shape), [[70, 30]], atol=0.2)


def test_quarter_turns_only_move_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    for turn in (90, 180, 270):
        assert sorted(turned(pixels, turn).ravel()) == sorted(pixels.ravel())


@pytest.mark.parametrize("count", [15, 100])
@pytest.mark.parametrize("turn", [0, 90, 180, 251])
def test_wrong_matches_among_the_inliers_do_not_bend_turn_and_scale(count: int, turn: int) -> None:
    """They lie anywhere on their epipolar lines, and a fifth of the inliers may be so."""
    rng = np.random.default_rng(count + turn)
    strip = rng.uniform(0, (1800, 200), (count, 2))  # as where photographs overlap by a strip
    points = strip[np.argsort(strip[:, 1])]
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    seen = 1.25 * points @ rotation + rng.normal(0, 2, (count, 2))
    wrong = rng.choice(count, count // 5, replace=False)
    seen[wrong] += np.sign(rng.normal(size=(len(wrong), 2))) * rng.uniform(
        400, 1600, (len(wrong), 2)
    )
    for first, second, sign in ((points, seen, -1), (seen, points, 1)):
        assert abs(wrapped(np.array(turn_between(first, second) - sign * turn))) < 4
        assert scale_between(first, second) == pytest.approx(1.25**-sign, rel=0.06)


def test_points_that_are_one_have_no_turn() -> None:
    one, two = np.ones((20, 2)), np.random.default_rng(0).uniform(0, 9, (20, 2))
    assert turn_between(one, two) == turn_between(one[:1], two[:1]) == 0
    assert scale_between(one, two) is scale_between(one[:1], two[:1]) is None


def test_the_turn_of_a_pair_is_that_of_its_points() -> None:
    points = np.random.default_rng(0).uniform(0, 600, (50, 2))
    for turn in (-170, -30, 0, 90, 144):
        seen = unturned(points, -turn, (601, 601)) if turn % 90 else points
        angle = np.radians(turn)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        seen = (points - 300) @ rotation.T + 300  # image 1 shows all turned clockwise by `turn`
        assert turn_between(points, seen) == pytest.approx(-turn, abs=1e-6)


def test_angles_are_found_among_wrong_pairs() -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(-180, 180, 60)
    pairs = np.array([p for p in itertools.combinations(range(60), 2) if rng.random() < 0.15])
    turns = wrapped(true[pairs[:, 1]] - true[pairs[:, 0]] + rng.normal(0, 2, len(pairs)))
    wrong = rng.random(len(pairs)) < 0.1
    turns[wrong] = rng.uniform(-180, 180, int(wrong.sum()))
    weights = np.where(wrong, 30, 100).astype(float)
    angles = angles_of(pairs, turns, weights, 60)
    assert parts_of(pairs, 60).max() == 0
    assert np.abs(wrapped(angles - true - (angles[0] - true[0]))).max() < 8


def test_turns_are_auto_off_or_a_number() -> None:
    assert (parsed_turns("auto"), parsed_turns("off"), parsed_turns("12")) == (8, 0, 12)
    for wrong in ("3", "37", "-8", "many", "", "１２"):
        with pytest.raises(ArgumentError, match="give auto, off or a number from 4 to 36"):
            parsed_turns(wrong)


def seen_of(rows: list[tuple[str, str, int, float | None]], names: list[str]) -> Seen:
    rows_of_turns = ((*row, False, None if row[3] is None else 1.0, None) for row in rows)
    columns = [*zip(*rows_of_turns, strict=True)]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, TURNS, strict=True)]
    return Seen.of([pa.Table.from_arrays(arrays, schema=TURNS)], pa.array(names))


NONE = np.empty((0, 2), int)  # pairs that were probed


def relative(views: np.ndarray) -> dict[tuple[int, int], tuple[float, float]]:
    """Of every pair the turn of image 1, and the logarithm of the scale of image 0, relatively."""
    return {
        (int(i), int(j)): ((turn_j - turn_i) % 360, size_i - size_j)
        for i, j, turn_i, turn_j, size_i, size_j in views
    }


def test_pairs_of_one_part_are_tried_at_the_turns_of_their_neighbours() -> None:
    rows = [("a", "b", 90, 0.0), ("b", "c", 80, 180.0), ("a", "c", 0, None), ("a", "d", 0, None)]
    seen = seen_of(rows, ["a", "b", "c", "d"])
    tried = np.array([(0, 1, 0, 0), (1, 2, 0, 0), (0, 2, 0, 0), (0, 3, 0, 0)])
    views = again(seen, tried)
    assert relative(views) == {(0, 2): (180, 0), (1, 2): (180, 0)}
    assert len(again(seen, tried, turning=False)) == 0
    assert len(again(seen, np.vstack([tried, [(0, 2, 180, 0), (1, 2, 180, 0)]]))) == 0
    assert to_probe(seen, NONE, 9).tolist() == [[0, 3]]


def test_upright_pairs_are_not_tried_again() -> None:
    rows = [("a", "b", 90, 3.0), ("b", "c", 80, -6.0), ("a", "c", 0, None)]
    seen = seen_of(rows, ["a", "b", "c"])
    assert len(again(seen, np.array([(0, 1, 0, 0), (1, 2, 0, 0), (0, 2, 0, 0)]))) == 0
    assert len(to_probe(seen, NONE, 9)) == 0


UNKNOWN = np.full(4, np.nan)


def test_photographs_that_have_nothing_in_common_pay_for_few_probes() -> None:
    names = [f"{k:03}" for k in range(100)]
    apart = [(i, j, 9, None) for i, j in itertools.combinations(names, 2)]
    seen = seen_of(apart, names)
    blind = most_probes(len(apart), found=False)
    assert blind == len(apart) // 100
    assert len(to_probe(seen, NONE, blind)) == blind
    assert most_probes(len(apart), found=True) > 5 * blind
    assert most_probes(10, found=False) == LEAST_PROBES


def test_every_two_parts_are_probed_before_any_is_probed_again() -> None:
    parts = [("a", "b", 90, 0.0), ("c", "d", 80, 0.0), ("e", "f", 70, 0.0)]
    across = itertools.product("ab", "cdef")
    rows = [*parts, *((i, j, 0, None) for i, j in across), ("c", "e", 0, None)]
    seen = seen_of(rows, [*"abcdef"])

    def probes(most: int, probed: np.ndarray = NONE) -> list[list[int]]:
        return to_probe(seen, probed, most).tolist()

    assert probes(3) == [[0, 2], [0, 4], [2, 4]]
    assert len(probes(99)) == 7  # of nine: three of every two parts
    assert probes(3, np.array([[0, 2], [0, 4]])) == [[0, 3], [0, 5], [2, 4]]
    assert probes(99, np.array(probes(99))) == []


def test_an_image_stands_at_one_turn_in_all_pairs_of_the_first_round() -> None:
    pairs = np.array([(0, 1), (0, 2), (1, 2), (1, 3)])
    assert first_views(pairs, UNKNOWN, UNKNOWN) is None
    assert first_views(pairs, np.array([10.0, 25, 20, 12]), UNKNOWN) is None  # they are alike
    views = first_views(pairs, np.array([10.0, 190, 195, np.nan]), UNKNOWN)
    assert views is not None
    *known, unknown = views.tolist()
    assert [(row[3] - row[2]) % 360 for row in known] == [180, 180, 0]
    assert len({row[k + 2] for row in known for k in (0, 1) if row[k] == 1}) == 1
    assert unknown == [1, 3, 0, 0, 0, 0]
    across = first_views(pairs, np.array([0.0, 95, 0, 50]), UNKNOWN)
    assert across is not None
    assert [(row[3] - row[2]) % 360 for row in across.tolist()] == [90, 0, 270, 300]


def test_only_surveys_get_a_second_chance() -> None:
    rows = [("a", "b", 90, 3.0), ("b", "c", 80, -6.0), ("a", "c", 0, None), ("a", "d", 0, None)]
    seen = seen_of(rows, ["a", "b", "c", "d"])
    assert not is_survey(seen, UNKNOWN)
    headings = np.array([0.0, 3, 0, 182])
    assert is_survey(seen, headings)
    assert is_survey(seen_of([("a", "b", 90, 170.0)], ["a", "b", "c", "d"]), UNKNOWN)
    nothing = np.empty((0, 4))
    assert second_chances(seen, nothing).tolist() == [[0, 2, 0, 0, 0, 0]]
    assert len(again(seen, nothing)) == 0
    ((i, j, turn_i, turn_j, *_),) = guessed(seen, headings, UNKNOWN, nothing)
    assert (i, j, (turn_j - turn_i) % 360) == (0, 3, 180)


def test_pairs_without_a_common_neighbour_are_not_tried_again() -> None:
    chain = [("a", "b", 90, 0.0), ("b", "c", 90, 0.0), ("c", "d", 90, 0.0), ("a", "d", 0, None)]
    seen = seen_of(chain, ["a", "b", "c", "d"])
    assert len(second_chances(seen, np.empty((0, 4)))) == 0


def test_equalised_pixels_use_the_whole_range(tmp_path: Path) -> None:
    (picture,) = views(1, (192, 144))
    picture.point(lambda grey: 120 + grey // 20).save(tmp_path / "faint.png")
    shard = PlannedShard("0", ["faint.png"], np.empty((0, 2), np.int32))
    plain, spread = (
        ReadShard(Folder(str(tmp_path)), ImageLimits(), 192, equalised)(shard)
        for equalised in (False, True)
    )
    assert np.ptp(plain.pixels[0]) <= 13
    assert np.ptp(spread.pixels[0]) == 255
    assert spread.images == plain.images


def test_a_probe_counts_where_one_turn_stands_out() -> None:
    turns = [0, 45, 90, 135, 180, 225, 270, 315]
    clear, vague = [1, 0, 2, 9, 60, 30, 3, 0], [20, 18, 22, 25, 24, 20, 19, 21]
    columns = [["a"] * 16, ["b"] * 8 + ["c"] * 8, turns * 2, clear + vague, [1.0] * 16]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PROBES, strict=True)]
    probes = pa.Table.from_arrays(arrays, schema=PROBES)
    tried = np.array([(0, 1, 0, 0), (0, 2, 0, 0)])
    assert likely(probes, pa.array(["a", "b", "c"]), tried).tolist() == [[0, 1, 0, 180, 0, 0]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`upright`, six views of one texture, and `turned`, some of them turned by other amounts."""
    place = tmp_path_factory.mktemp("turns")
    for name in ("upright", "turned"):
        (place / name).mkdir()
    for k, picture in enumerate(views(6, (192, 144))):
        picture.save(place / "upright" / f"{k}.png")
        turn = (0, 0, 180, 90, 180, 270)[k]
        Image.fromarray(turned(np.asarray(picture), turn)).save(place / "turned" / f"{k}.png")
    return place


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The run of the turned photographs, undisturbed."""
    pipeline.match(str(place / "turned"), str(place / "whole"), **QUICK)
    return place / "whole"


def test_turned_photographs_are_matched_as_if_upright(place: Path, whole: Path) -> None:
    upright = pipeline.match(str(place / "upright"), str(place / "plain"), **QUICK)
    found = {
        (row["image0"], row["image1"]): row["num_inliers"]
        for _, table in settled_matches(Folder(str(whole)))
        for row in table.to_pylist()
    }
    assert len(found) == 15
    assert upright["verified"] == sum(number > 0 for number in found.values()) == 15
    assert not (place / "plain" / "plan" / "round_01.parquet").exists()
    assert (whole / "plan" / "round_01.parquet").exists()
    total = sum(found.values())
    assert total > 0.8 * upright["inliers"]


def test_keypoints_come_back_in_the_photograph_s_own_pixels(place: Path, whole: Path) -> None:
    rows = [
        row
        for _, table in settled_matches(Folder(str(whole)))
        for row in table.to_pylist()
        if (row["image0"], row["image1"]) == ("0.png", "3.png")
    ]
    (row,) = rows
    size = Image.open(place / "turned" / "3.png").size
    points = np.array(row["keypoints1"])[np.array(row["inliers"])]
    assert (points >= -0.5).all()
    assert (points <= np.array(size) - 0.5).all()
    assert turn_between(np.array(row["keypoints0"])[np.array(row["inliers"])], points) == (
        pytest.approx(-90, abs=15)
    )


def test_views_are_known_from_verified_pairs_and_not_from_probes(place: Path, whole: Path) -> None:
    """Few inliers are enough for known views. Wrong guesses would agree with them by chance."""

    def nothing_left(shards: list[PlannedShard]) -> None:
        raise AssertionError(shards)

    rounds = ViewSearch(opened(place, whole), Device.CPU, nothing_left).rounds()
    known = [known for _, _, known in rounds]
    assert (whole / "probes").exists()
    assert known[0] is False
    assert known[-1] is True


def test_the_summary_counts_every_pair_once(whole: Path) -> None:
    summary = Folder(str(whole)).read_json("summary.json")
    assert (summary["pairs"], summary["matched"], summary["verified"]) == (15, 15, 15)
    inliers = sum(
        sum(table["num_inliers"].to_pylist()) for _, table in settled_matches(Folder(str(whole)))
    )
    assert summary["inliers"] == inliers


def test_a_run_without_turns_tries_nothing_again(place: Path, whole: Path) -> None:
    off = {**QUICK, "turns": "off"}
    summary = pipeline.match(str(place / "turned"), str(place / "off"), **off)
    assert summary["verified"] < 15
    first = pq.read_table(place / "off" / "matches" / "00000000.parquet")
    assert first.equals(pq.read_table(whole / "matches" / "00000000.parquet"))
    more = pipeline.match(str(place / "turned"), str(place / "off"), **QUICK)
    assert more["verified"] == 15
    assert tables(place / "off") == tables(whole)


@pytest.mark.parametrize("stopped", ["turns 1", "turns 2", "probes"])
def test_a_run_that_is_stopped_in_a_round_goes_on_to_the_same_bytes(
    stopped: str, place: Path, whole: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        round_number = f"{event.name} {event.fields.get('round')}"
        if stopped == round_number or event.fields.get("unit") == stopped:
            raise Stop

    with pytest.raises(Stop):
        pipeline.match(str(place / "turned"), str(tmp_path / "run"), progress=stop, **QUICK)
    pipeline.match(str(place / "turned"), str(tmp_path / "run"), **QUICK)
    assert tables(tmp_path / "run") == tables(whole)


def headings_in(run: Path) -> list[tuple[str, float | None, str]]:
    table = pq.read_table(run / "plan" / "headings.parquet")
    assert table.schema.equals(HEADINGS, check_metadata=True)
    assert table["size"].null_count == table.num_rows  # no file tells its height
    return [tuple(row.values()) for row in table.drop_columns("size").to_pylist()]


def table_of_yaws(path: Path, off: float = 0) -> Path:
    """The headings of the photographs in `turned`, each perhaps off by the same angle."""
    turns = (0, 0, 180, 90, 180, 270)
    rows = [f"{k}.png,{off - turn}\n" for k, turn in enumerate(turns)]
    path.write_text("image,yaw\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def north(place: Path) -> Path:
    """The run of the turned photographs with given headings, and the table beside it."""
    yaw = table_of_yaws(place / "yaw.csv", off=30)
    summary = pipeline.match(place / "turned", place / "north", yaw=yaw, **QUICK)
    assert summary["verified"] == 15
    return place / "north"


def opened(place: Path, output: Path, **given: Any) -> Run:
    """The run in `output`, as the command opens it."""
    asked = {"images": place / "turned", "output": output, **MATCH_DEFAULTS, **QUICK}
    return Run(run_options(asked | given), "cpu")


def test_given_headings_turn_photographs_without_probes(north: Path) -> None:
    assert not (north / "probes").exists()
    headings = [30, 30, 210, 300, 210, 120]
    assert headings_in(north) == [(f"{k}.png", headings[k], "table") for k in range(6)]
    assert len(Folder(str(north)).read_json("run.json")["yaw"]) == 64


def test_a_run_with_other_headings_is_refused(
    place: Path, north: Path, whole: Path, tmp_path: Path
) -> None:
    pq.write_table(pa.csv.read_csv(place / "yaw.csv"), tmp_path / "same.parquet")
    assert opened(place, north, yaw=tmp_path / "same.parquet").pending().num_rows == 0
    for change in ({"yaw": table_of_yaws(tmp_path / "other.csv", off=31)}, {}):
        with pytest.raises(RunError, match=r"its headings \(yaw\) were others; give another"):
            opened(place, north, **change)
    with pytest.raises(RunError, match=r"it had no headings \(yaw\)"):
        opened(place, whole, yaw=place / "yaw.csv")
    with pytest.raises(ArgumentError, match="yaw needs turns, which are off"):
        pipeline.match(place / "turned", tmp_path / "off", yaw=place / "yaw.csv", turns="off")
    assert not (tmp_path / "off").exists()


def test_a_run_of_before_headings_goes_on(place: Path, whole: Path, tmp_path: Path) -> None:
    """Its description holds no yaw, and its headings are read when it goes on."""
    output = Path(shutil.copytree(whole, tmp_path / "run"))
    described = json.loads((output / "run.json").read_text())
    del described["yaw"]
    (output / "run.json").write_text(json.dumps(described))
    (output / "plan" / "headings.parquet").unlink()
    run = opened(place, output)
    assert run.resumed
    assert not (output / "plan" / "headings.parquet").exists()
    run.begin()
    assert np.isnan(run.headings()).all()
    assert tables(output) == tables(whole)


def test_files_are_read_for_headings_once(
    place: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert headings_in(whole) == [(f"{k}.png", None, "unknown") for k in range(6)]
    monkeypatch.setattr(run_module, "headings", None)
    assert np.isnan(opened(place, whole).headings()).all()


def test_only_photographs_of_pairs_have_headings_and_only_where_turns_are_on(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.txt").write_text("1.png 4.png\n")
    for name, turns in (("on", "auto"), ("off", "off")):
        run = opened(place, tmp_path / name, pairs=tmp_path / "pairs.txt", turns=turns)
        assert not (tmp_path / name).exists()
        run.begin()
    assert [name for name, *_ in headings_in(tmp_path / "on")] == ["1.png", "4.png"]
    assert not (tmp_path / "off" / "plan" / "headings.parquet").exists()
