"""Finer passes over large photographs, as a run carries them out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_process import tables
from pictures import texture, views
from PIL import Image
from stages import Killing

import pipeline
from pipeline.cli import main as command_line
from pipeline.errors import ArgumentError, RunError
from pipeline.events import Event
from pipeline.execute.executor import Executor
from pipeline.match.detail.passes import pass_of
from pipeline.match.detail.shards import tiled_shards
from pipeline.match.turns.tries import settled_matches
from pipeline.reconstruct.merging.job import import_matches
from pipeline.store.folder import Folder
from pipeline.vocabulary import StageName

pytestmark = pytest.mark.usefixtures("kept_processes")

LONG_SIDE = 192
SIZE = (768, 576)  # pixels, four times what the network sees
# From pixels of a.png to those of b.png: a shift and a gentle homography.
TRUE = np.array([[1.03, 0.02, -61.3], [-0.015, 0.98, 37.6], [2e-5, -1e-5, 1.0]])
QUICK: dict[str, Any] = {"long_side": LONG_SIDE, "executor": "local", "turns": "off"}
QUICK |= {"scales": "off"}


def seen(points: np.ndarray) -> np.ndarray:
    """Where points (M, 2) of a.png are in b.png."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ TRUE.T
    return mapped[:, :2] / mapped[:, 2:]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of one plane whose homography is known, and a small one."""
    folder = tmp_path_factory.mktemp("detail") / "photos"
    folder.mkdir()
    # Grain that the network sees at full size alone.
    grain = np.random.default_rng(4).normal(0, 30, (275, 350)).astype(np.float32)
    fine = np.asarray(Image.fromarray(grain).resize((1400, 1100), Image.Resampling.BICUBIC))
    seen_once = np.asarray(texture(1400, 1100, 3), np.float32) + fine
    ground = Image.fromarray(np.clip(seen_once, 0, 255).astype(np.uint8))
    origin = np.array([[1, 0, 300.0], [0, 1, 250.0], [0, 0, 1]])
    for name, back in (("a", origin), ("b", origin @ np.linalg.inv(TRUE))):
        # Pillow's coordinates begin at the corner of the first pixel.
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        data = half @ back @ np.linalg.inv(half)
        picture = ground.transform(
            SIZE,
            Image.Transform.PERSPECTIVE,
            (data / data[2, 2]).ravel()[:8].tolist(),
            Image.Resampling.BICUBIC,
        )
        picture.save(folder / f"{name}.png")
    with Image.open(folder / "b.png") as picture:
        picture.resize((192, 144), Image.Resampling.BILINEAR, reducing_gap=3).save(
            folder / "small.png"
        )
    return folder


@pytest.fixture(scope="module")
def coarse(photos: Path) -> Path:
    """Their run without finer passes."""
    pipeline.match(str(photos), str(photos.parent / "coarse"), **QUICK)
    return photos.parent / "coarse"


@pytest.fixture(scope="module")
def whole(photos: Path) -> Path:
    """Their run with two finer passes, undisturbed."""
    pipeline.match(str(photos), str(photos.parent / "whole"), detail=2, **QUICK)
    return photos.parent / "whole"


@pytest.fixture(scope="module")
def one(photos: Path) -> Path:
    """Their run with one finer pass, undisturbed."""
    pipeline.match(str(photos), str(photos.parent / "one"), detail=1, **QUICK)
    return photos.parent / "one"


def near(points: np.ndarray) -> float:
    """The share of points (M, 2) that have another one within a pixel."""
    off = np.linalg.norm(points[:, None].astype(float) - points[None], axis=2)
    return float(((off + 99 * np.eye(len(points))).min(axis=1) < 1).mean())


def rows(run: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The row of every pair that counts, as arrays, and the file that it is in."""
    found = {}
    for name, table in settled_matches(Folder(str(run))):
        for row in table.to_pylist():
            points = {side: np.array(row[side]).reshape(-1, 2) for side in KEYPOINTS}
            inliers = np.array(row["inliers"], bool)
            pair = row["image0"], row["image1"]
            assert pair not in found
            found[pair] = {**row, **points, "inliers": inliers, "pass": pass_of(name)}
    return found


KEYPOINTS = ("keypoints0", "keypoints1")


def errors(row: dict[str, Any]) -> np.ndarray:
    """(M,) pixels of b.png by which the matches of a.png and b.png are wrong."""
    off: np.ndarray = np.linalg.norm(seen(row["keypoints0"]) - row["keypoints1"], axis=1)
    return off


def test_finer_passes_match_nothing_in_masked_places(photos: Path, one: Path) -> None:
    kept = {name: np.ones(SIZE[::-1], bool) for name in ("a.png", "b.png")}
    kept["a.png"][200:400, 300:500] = False
    kept["b.png"][:, :150] = False
    masks, run = photos.parent / "masks", photos.parent / "masked"
    masks.mkdir()
    for name, pixels in kept.items():
        Image.fromarray(pixels).save(masks / f"{name}.png")
    pipeline.match(str(photos), str(run), detail=1, masks=masks, **QUICK)
    plain, masked = (rows(folder)["a.png", "b.png"] for folder in (one, run))
    assert plain["pass"] == masked["pass"] == 1

    def in_kept(row: dict[str, Any]) -> np.ndarray:
        found = []
        for name, side in zip(kept, KEYPOINTS, strict=True):
            x, y = np.floor(row[side] + 0.5).astype(int).T
            found.append(kept[name][y.clip(0, SIZE[1] - 1), x.clip(0, SIZE[0] - 1)])
        return np.all(found, axis=0)

    assert not in_kept(plain).all()
    assert in_kept(masked).all()
    # What is kept is matched as before, but for places near a masked one.
    assert masked["inliers"].sum() > 0.8 * in_kept(plain)[plain["inliers"]].sum()


def test_keypoints_of_a_finer_pass_are_right_to_a_fraction_of_its_pixel(
    coarse: Path, one: Path, whole: Path
) -> None:
    found = [rows(run)["a.png", "b.png"] for run in (coarse, one, whole)]
    assert [row["pass"] for row in found] == [0, 1, 2]
    off = [errors(row)[row["inliers"]] for row in found]
    medians = [float(np.median(one)) for one in off]
    for row, median, pixel in zip(found, medians, (4, 2, 1), strict=True):
        assert median < 0.1 * pixel
        assert (errors(row) < pixel).mean() > 0.98
    right = [int((errors(row) < 1).sum()) for row in found]
    assert right[1] > 1.5 * right[0]
    assert right[2] > 1.5 * right[1]


def test_no_place_is_matched_twice_along_the_seams_of_tiles(coarse: Path, whole: Path) -> None:
    """The cells of all tiles of a photograph lie on one lattice, 8 pixels apart at full size."""
    row = rows(whole)["a.png", "b.png"]
    first, second = (row[side].astype(float) for side in KEYPOINTS)
    cells = np.floor(first / 8 + 0.5)
    assert len(np.unique(cells, axis=0)) == len(cells)
    # In image 1 keypoints may leave their cells, as in a pass without tiles, whose pixels are four.
    assert near(second) <= near(rows(coarse)["a.png", "b.png"]["keypoints1"] / 4)
    # Tiles overlap from pixel 144 to 192 and so on: as many matches there as elsewhere.
    (shard,) = tiled_shards(Folder(str(whole)).read_table("plan/detail_2.parquet"))
    starts = np.unique(shard.tiles[:, 1])
    assert len(starts) == 5
    x = first[row["inliers"], 0]
    shown = ((x >= starts[:, None]) & (x < starts[:, None] + 192)).sum(axis=0)
    once, twice = (
        np.mean([((starts <= p) & (p < starts + 192)).sum() == n for p in np.arange(100, 700)])
        for n in (1, 2)
    )
    inner = (x >= 100) & (x < 700)
    density = [(shown[inner] == n).mean() / share for n, share in ((1, once), (2, twice))]
    assert 0.75 < density[1] / density[0] < 1.33


def test_what_a_pass_did_is_told(photos: Path, whole: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    summary = pipeline.match(
        str(photos), str(tmp_path / "run"), detail=1, progress=told.append, **QUICK
    )
    events = [event for event in told if event.name == "detail"]
    (event,) = events
    assert event.fields["pass"] == 1
    assert event.fields["pairs"] == 1
    assert 8 <= event.fields["tiles"] <= 18  # those of the overlap, of nine each
    assert 4 <= event.fields["tile_pairs"] <= 18
    detail = summary["detail"]
    small = summary["verified"] - 1
    assert (detail["pairs"], detail["finer"], detail["kept"], detail["small"]) == (1, 1, 0, small)
    assert small == 2  # small.png has no more pixels than the network sees
    assert detail["tiles"] == event.fields["tiles"]
    assert {StageName.READ, StageName.ENCODE, StageName.MATCH, StageName.VERIFY} <= {
        *detail["seconds"]
    }
    assert json.loads((whole / "summary.json").read_text())["detail"]["pairs"] == 1


def test_without_detail_a_run_has_the_bytes_of_its_first_round(coarse: Path, whole: Path) -> None:
    first = tables(coarse)
    assert not [name for name in first if "detail" in name]
    assert first.items() <= tables(whole).items()
    asked = json.loads((coarse / "run.json").read_text())
    assert "detail" not in asked["options"]
    assert json.loads((whole / "run.json").read_text())["options"]["detail"] == 2


@pytest.mark.parametrize(("before", "now"), [(2, 0), (0, 1), (2, 1)])
def test_a_run_of_other_detail_is_refused(
    before: int, now: int, photos: Path, coarse: Path, whole: Path
) -> None:
    with pytest.raises(RunError, match=f"detail was {before}, now {now}"):
        pipeline.match(str(photos), str(whole if before else coarse), detail=now, **QUICK)


@pytest.mark.parametrize("wrong", [3, -1, 0.5, "1"])
def test_other_detail_than_0_1_and_2_is_refused_before_any_work(
    wrong: Any, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="give 0, 1 or 2"):
        pipeline.match(str(photos), str(tmp_path / "run"), detail=wrong, **QUICK)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_other_detail(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["match", "--images", "a", "--output", "b", "--detail", "3"]) == 2
    assert "3 is not in the range 0<=x<=2" in capsys.readouterr().err


def test_neither_shards_nor_workers_change_the_matches(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        with Image.open(photos / f"{name}.png") as picture:
            picture.save(tmp_path / "photos" / f"{name}.png")
    with Image.open(photos / "b.png") as picture:
        picture.reduce(2).save(tmp_path / "photos" / "half.png")
    found = []
    for bounds in ({"actors": 1}, {"actors": 2, "max_images": 2, "max_pairs": 1}):
        run = tmp_path / str(bounds["actors"])
        pipeline.match(str(tmp_path / "photos"), str(run), detail=1, **bounds, **QUICK)
        found.append((rows(run), Folder(str(run)).read_table("plan/detail_1.parquet").num_rows))
    (before, few), (again, many) = found
    assert few < many == len(before) == 3
    assert again.keys() == before.keys()
    for pair, row in before.items():
        assert row["pass"] == 1
        for name, value in row.items():
            assert np.array_equal(again[pair][name], value), (pair, name)


def test_a_run_that_is_stopped_in_finer_passes_goes_on_to_the_same_bytes(
    photos: Path, whole: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    for after in (1, 2):

        def stop(event: Event, after: int = after) -> None:
            if event.name == "detail" and event.fields["pass"] == after:
                raise Stop

        with pytest.raises(Stop):
            pipeline.match(str(photos), str(tmp_path / "run"), detail=2, progress=stop, **QUICK)
        assert (tmp_path / "run" / f"plan/detail_{after}.parquet").exists()
    pipeline.match(str(photos), str(tmp_path / "run"), detail=2, **QUICK)
    assert tables(tmp_path / "run") == tables(whole)


def test_processes_killed_in_a_finer_pass_change_no_byte(
    kept_executors: Executor, photos: Path, one: Path, tmp_path: Path
) -> None:
    """Over both executors. The first round is done before, so that only tiles are at stake."""

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.name == "detail":
            raise Stop

    given = {**QUICK, "executor": kept_executors, "detail": 1}
    with pytest.raises(Stop):
        pipeline.match(str(photos), str(tmp_path / "run"), progress=stop, **given)
    (tmp_path / "killed").mkdir()
    given["executor"] = Killing(kept_executors, tmp_path / "killed")
    pipeline.match(str(photos), str(tmp_path / "run"), **given)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"read", "match", "finish"}
    assert tables(tmp_path / "run") == tables(one)


def test_a_shard_whose_processes_all_die_leaves_the_matches_of_the_first_pass(
    photos: Path, coarse: Path, whole: Path, tmp_path: Path
) -> None:
    from pipeline.match.detail.match import MatchTiles, make_tile_reader
    from pipeline.match.match import MatchShard
    from pipeline.match.options import MatchingOptions
    from pipeline.match.read import TRIES
    from pipeline.photos.limits import ImageLimits

    plan = Folder(str(whole)).read_table("plan/detail_1.parquet")
    (shard,) = tiled_shards(plan)
    read = make_tile_reader(Folder(str(photos)), ImageLimits(), LONG_SIDE, False)
    from eloftr import load_model

    match = MatchTiles(MatchShard(load_model("small"), MatchingOptions(LONG_SIDE)))
    dead = match(read(shard), TRIES + 1)
    assert dead.matches["reason"].to_pylist() == ["worker_died"]
    assert dead.failures["reason"].to_pylist() == ["worker_died"]
    assert sorted(dead.images["image"].to_pylist()) == ["a.png", "b.png"]
    gone = read(shard, TRIES + 1)
    lost = match(gone)
    assert lost.matches["reason"].to_pylist() == ["crash"]
    assert {*lost.failures["reason"].to_pylist()} == {"crash"}


def test_a_photograph_that_was_replaced_by_a_smaller_one_fails_alone(
    photos: Path, whole: Path, tmp_path: Path
) -> None:
    from pipeline.match.detail.match import make_tile_reader
    from pipeline.photos.limits import ImageLimits

    (shard,) = tiled_shards(Folder(str(whole)).read_table("plan/detail_1.parquet"))
    with Image.open(photos / "a.png") as picture:
        picture.save(tmp_path / "a.png")
        picture.resize((300, 400)).save(tmp_path / "b.png")
    found = make_tile_reader(Folder(str(tmp_path)), ImageLimits(), LONG_SIDE, False)(shard)
    assert found.images["image"].to_pylist() == ["a.png"]
    (row,) = found.tiles.failures.to_pylist()
    assert (row["image0"], row["reason"]) == ("b.png", "unreadable")
    assert "another than in the pass before" in row["detail"]


def test_a_finer_pass_with_fewer_inliers_does_not_count(tmp_path: Path) -> None:
    """Of these photographs the network's pixels show the scene, and finer ones show noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for k, view in enumerate(views(2, (192, 144))):
        large = np.asarray(view.resize((1536, 1152), Image.Resampling.BICUBIC), float)
        noisy = large / 2 + 64 + rng.normal(0, 250, large.shape)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(
            tmp_path / "photos" / f"{k}.png"
        )
    runs = {}
    for detail in (0, 2):
        run = tmp_path / f"run {detail}"
        summary = pipeline.match(str(tmp_path / "photos"), str(run), detail=detail, **QUICK)
        runs[detail] = rows(run)["0.png", "1.png"]
    assert runs[0]["num_inliers"] > 25
    assert summary["detail"]["kept"] == 1
    assert summary["inliers"] == runs[0]["num_inliers"]
    for name, value in runs[0].items():
        assert np.array_equal(runs[2][name], value), name


@pytest.mark.parametrize("turn", [90, 35])
def test_a_turned_pair_keeps_its_turn_in_finer_passes(
    turn: int, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for name, degrees in (("a", 0), ("b", turn)):
        with Image.open(photos / f"{name}.png") as picture:
            picture.rotate(-degrees, Image.Resampling.BICUBIC, expand=True).save(
                tmp_path / "photos" / f"{name}.png"
            )
    how = {**QUICK, "turns": "auto", "looks": 1}  # further looks would spare a round
    found = {}
    for detail in (0, 1):
        run = tmp_path / f"run {detail}"
        pipeline.match(str(tmp_path / "photos"), str(run), detail=detail, **how)
        found[detail] = rows(run)["a.png", "b.png"]
    assert found[1]["pass"] == 1
    assert found[1]["num_inliers"] > 2 * found[0]["num_inliers"]
    (shard,) = tiled_shards(Folder(str(tmp_path / "run 1")).read_table("plan/detail_1.parquet"))
    assert shard.shard.startswith("14-")  # its try that counts is of a later round
    assert len({view.turn for view in shard.views}) == 2
    with Image.open(tmp_path / "photos" / "b.png") as picture:
        middle = (np.array(picture.size) - 1) / 2
    angle = np.radians(turn)
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points0, points1 = (found[1][side][found[1]["inliers"]] for side in KEYPOINTS)
    upright = (points1 - middle) @ back.T + (np.array(SIZE) - 1) / 2
    assert np.median(np.linalg.norm(seen(points0) - upright, axis=1)) < 1


def test_a_scaled_pair_keeps_its_scales_in_a_finer_pass(tmp_path: Path) -> None:
    """One photograph shows the middle of the other, 2.5 times as large."""
    (tmp_path / "photos").mkdir()
    first, second = views(2, (1024, 768))
    box = (307.2, 230.4, 716.8, 537.6)
    first.save(tmp_path / "photos" / "far.png")
    near = second.resize((1024, 768), Image.Resampling.BICUBIC, box=box)
    near.save(tmp_path / "photos" / "near.png")
    how = {**QUICK, "scales": "auto", "long_side": 256}
    found = {}
    for detail in (0, 1):
        run = tmp_path / f"run {detail}"
        pipeline.match(str(tmp_path / "photos"), str(run), detail=detail, **how)
        found[detail] = rows(run)["far.png", "near.png"]
    assert found[1]["pass"] == 1
    assert found[1]["num_inliers"] > 1.5 * found[0]["num_inliers"]
    (shard,) = tiled_shards(Folder(str(tmp_path / "run 1")).read_table("plan/detail_1.parquet"))
    scale = dict(zip(shard.images, (view.scale for view in shard.views), strict=True))
    assert scale["far.png"] > 2 * scale["near.png"]


def test_keypoints_are_merged_within_pixels_of_the_finest_pass(whole: Path, tmp_path: Path) -> None:
    """Four times as near as the pixels of the first pass would say."""
    pipeline.reconstruct(str(whole), tmp_path / "sfm", refine="none")
    counts = []
    for long_side in (4 * LONG_SIDE, LONG_SIDE):
        target = tmp_path / f"{long_side}" / "database.db"
        import_matches(Folder(str(whole)), target, long_side=long_side)
        counts.append((target.parent / "keypoints.parquet").read_bytes())
    found = (tmp_path / "sfm" / "keypoints.parquet").read_bytes()
    assert found == counts[0]
    assert found != counts[1]


def test_a_dry_run_tells_the_tiles_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    pipeline.estimate(str(photos), str(tmp_path / "run"), detail=1, progress=told.append, **QUICK)
    (event,) = (event for event in told if event.name == "finer")
    assert event.fields["tiles"] == [6.0]  # 9 of two photographs of three
    assert event.fields["factor"] > 2
    assert "6 tiles a photograph" in event.text
    assert re.search(r"verified: about \d+ \w+ on one cpu like this one more$", event.text)
    assert not (tmp_path / "run").exists()


def test_ray_does_not_change_the_tiles(
    photos: Path, one: Path, embedded_ray: str, tmp_path: Path
) -> None:
    pipeline.match(str(photos), str(tmp_path / "ray"), detail=1, **{**QUICK, "executor": "ray"})
    assert tables(tmp_path / "ray") == tables(one)
