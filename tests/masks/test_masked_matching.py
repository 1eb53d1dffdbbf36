"""Matching with masks: no match begins or ends in a masked place, and all else is as without."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from job_process import rows, tables
from pictures import views, write_places, write_views
from PIL import Image, ImageOps
from test_mask_files import ORIENTATION, stored

import pipeline
from eloftr import EfficientLoFTRConfig, load_model
from eloftr.coarse_matching import match_coarse, match_kept
from pipeline.cli import main
from pipeline.errors import ArgumentError, RunError, StorageError
from pipeline.events import Event
from pipeline.masks.folder import find_masks
from pipeline.match.match import MatchShard
from pipeline.match.options import MatchingOptions
from pipeline.match.read import ReadShard
from pipeline.match.shards import PlannedShard
from pipeline.photos.limits import ImageLimits
from pipeline.photos.turns import View, turned
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")

QUICK: dict[str, Any] = {"long_side": 192, "executor": "local", "turns": "off", "scales": "off"}
SIZE = 192, 144


def rectangle(size: tuple[int, int]) -> np.ndarray:
    """Kept pixels (H, W): all but a rectangle that lies off the centre."""
    width, height = size
    kept = np.ones((height, width), bool)
    kept[height // 5 : height * 3 // 5, width // 4 : width * 3 // 4] = False
    return kept


def write_mask(folder: Path, image: str, kept: np.ndarray) -> None:
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(kept).save(folder / f"{image}.png")


def masked(points: np.ndarray | Sequence[Any], kept: np.ndarray) -> np.ndarray:
    """(N,) bool: which points of the upright picture have a masked pixel nearest to them."""
    places = np.floor(np.asarray(points, float).reshape(-1, 2) + 0.5).astype(int)
    x, y = places.clip(0, np.array(kept.shape[::-1]) - 1).T
    return np.asarray(~kept[y, x])


@pytest.fixture(scope="module", params=[1, 2])
def stage(request: pytest.FixtureRequest) -> MatchShard:
    """What matches a shard, with so many looks at a pair."""
    return MatchShard(load_model("small"), MatchingOptions(SIZE[0], looks=request.param))


@pytest.mark.parametrize("skip_softmax", [False, True])
@pytest.mark.parametrize("threshold", [0.2, 0.001])
def test_kept_cells_match_as_if_there_were_no_others(skip_softmax: bool, threshold: float) -> None:
    torch.manual_seed(1)
    features0 = torch.randn(3, 16, 9, 11)
    features1 = features0.flip(3).roll(2, 2)[:, :, :, :10] + 0.6 * torch.randn(3, 16, 9, 10)
    config = EfficientLoFTRConfig(
        coarse_matching_skip_softmax=skip_softmax,
        coarse_matching_threshold=threshold,
        coarse_matching_border_removal=1,
    )
    kept0, kept1 = torch.rand(3, 99) < 0.6, torch.rand(3, 90) < 0.8
    kept0[1], kept1[1] = True, True
    kept0[2] = False
    flat0, flat1 = (side.flatten(2).mT for side in (features0, features1))
    scores = flat0 @ flat1.mT / 16 / config.coarse_matching_temperature
    scores[~kept0] = -torch.inf
    scores.mT[~kept1] = -torch.inf
    if not skip_softmax:
        scores = torch.nan_to_num(scores.softmax(1) * scores.softmax(2))
    inside = torch.zeros(9, 11, dtype=torch.bool), torch.zeros(9, 10, dtype=torch.bool)
    for mask in inside:
        mask[1:-1, 1:-1] = True
    expected = (scores > threshold) & inside[0].flatten()[:, None] & inside[1].flatten()
    expected &= (scores == scores.amax(2, keepdim=True)) & (scores == scores.amax(1, keepdim=True))
    cells, found = match_kept(features0, features1, config, kept0, kept1)
    assert len(cells) > 30
    torch.testing.assert_close(cells, expected.nonzero())
    torch.testing.assert_close(found, scores[expected], rtol=1e-3, atol=1e-5)
    whole, its_scores = match_coarse(features0, features1, config)
    second = whole[:, 0] == 1  # the pair that keeps all cells, to the last bit
    assert torch.equal(cells[cells[:, 0] == 1], whole[second])
    assert torch.equal(found[cells[:, 0] == 1], its_scores[second])


def test_no_kept_cells_have_no_matches() -> None:
    features, nothing = torch.randn(1, 16, 4, 4), torch.zeros(1, 16, dtype=torch.bool)
    cells, scores = match_kept(features, features, EfficientLoFTRConfig(), nothing, ~nothing)
    assert (cells.shape, scores.shape) == ((0, 3), (0,))


@pytest.mark.parametrize(
    ("orientation", "view"),
    [
        *((number, View()) for number in range(1, 9)),
        (6, View(90)),
        (7, View(30)),
        (1, View(180, 2)),
    ],
)
def test_no_match_lies_in_a_masked_place(
    stage: MatchShard, tmp_path: Path, orientation: int, view: View
) -> None:
    """A photograph of every orientation, shown in some views, against an upright one."""
    first, second = views(2, SIZE)
    if view.turn:  # so that the turned view is upright again
        second = Image.fromarray(turned(np.asarray(second), -view.turn))
    picture = stored(second, orientation)
    (tmp_path / "photos").mkdir()
    first.save(tmp_path / "photos" / "a.jpg", quality=95)
    picture.save(tmp_path / "photos" / "b.jpg", quality=95, exif=picture.getexif())
    kept = {"a.jpg": np.ones(SIZE[::-1], bool), "b.jpg": rectangle(picture.size)}
    kept["a.jpg"][:, :40] = False
    for name, of_file in kept.items():
        write_mask(tmp_path / "masks", name, of_file)
    upright = Image.fromarray((kept["b.jpg"] * 255).astype(np.uint8))
    upright.getexif()[ORIENTATION] = orientation
    kept["b.jpg"] = np.asarray(ImageOps.exif_transpose(upright)) > 0
    masks = find_masks(Folder(str(tmp_path / "masks")), [*kept])
    shard = PlannedShard("0", [*kept], np.array([(0, 1)], np.int32), (View(), view))
    found = {}
    for given in (None, masks):
        read = ReadShard(Folder(str(tmp_path / "photos")), ImageLimits(), 192, masks=given)
        found[given is None] = stage(read(shard)).matches.to_pylist()[0]
    for side, name in (("keypoints0", "a.jpg"), ("keypoints1", "b.jpg")):
        assert masked(found[True][side], kept[name]).any()
        assert not masked(found[False][side], kept[name]).any()
    assert len(found[False]["scores"]) > 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, six of them; `masks` of two of them and one of nothing; `white` ones of all.

    `plain` and `masked` are runs of all pairs, with and without them.
    """
    place = tmp_path_factory.mktemp("masked")
    for name in write_views(place / "photos", 6, SIZE):
        write_mask(place / "white", name, np.ones(SIZE[::-1], bool))
    for name in ("view 1.jpg", "view 4.jpg"):
        write_mask(place / "masks", name, rectangle(SIZE))
    write_mask(place / "masks", "somebody.jpg", rectangle(SIZE))
    pipeline.match(place / "photos", place / "plain", **QUICK)
    pipeline.match(place / "photos", place / "masked", masks=place / "masks", **QUICK)
    return place


def test_only_pairs_of_masked_photographs_change(place: Path) -> None:
    before, after = rows(place / "plain"), rows(place / "masked")
    assert len(before) == len(after) == 15
    kept, lost = rectangle(SIZE), 0
    for then, now in zip(before, after, strict=True):
        names = [now["image0"], now["image1"]]
        if not {*names} & {"view 1.jpg", "view 4.jpg"}:
            assert now == then
            continue
        assert now["status"] == "matched"
        assert now["num_inliers"] > 30
        for side, name in zip(("keypoints0", "keypoints1"), names, strict=True):
            if name in ("view 1.jpg", "view 4.jpg"):
                lost += masked(then[side], kept).sum()
                assert not masked(now[side], kept).any()
    assert lost > 500


def test_masks_without_a_masked_pixel_change_no_byte(place: Path) -> None:
    heard: list[Event] = []
    how = {**QUICK, "masks": place / "white", "progress": heard.append}
    summary = pipeline.match(place / "photos", place / "all", **how)
    notes = [event.text for event in heard if event.name == "note"]
    assert notes == ["nothing is left out by the first 6 masks: a pixel is ignored where it is 0"]
    assert summary["masks"] == {"masked": 6, "unmasked": 0, "unused": 0}
    assert tables(place / "all") == tables(place / "plain")


def test_masks_are_counted_in_plan_dry_run_and_summary(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {"masked": 2, "unmasked": 4, "unused": 1}
    line = "2 of 6 images masked, 1 mask of no image"
    heard: list[Event] = []
    how = {**QUICK, "masks": place / "masks", "progress": heard.append}
    assert pipeline.match(place / "photos", place / "masked", **how)["masks"] == counts
    assert heard[0].fields["masks"] == counts
    assert line in heard[0].text
    assert json.loads((place / "masked" / "summary.json").read_text())["masks"] == counts
    words = ["match", "--images", str(place / "photos"), "--masks", str(place / "masks")]
    words += ["--long-side", "192", "--executor", "local", "--output", str(place / "unused")]
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert line in told
    assert "the first mask of no image: " in told
    words[-1] = str(place / "masked")
    assert main([*words, "--turns", "off", "--scales", "off"]) == 0
    assert f"masks:        {line}\n" in capsys.readouterr().out


def test_a_run_without_masks_says_nothing_of_them(place: Path) -> None:
    for name in ("run.json", "summary.json"):
        assert "masks" not in json.loads((place / "plain" / name).read_text())
        assert "masks" in json.loads((place / "masked" / name).read_text())


@pytest.mark.parametrize(
    ("run", "masks", "cause"),
    [
        ("masked", None, "its masks were .*/masks;"),
        ("masked", "white", "its masks were .*/masks;"),
        ("plain", "white", "it had no masks;"),
    ],
)
def test_a_run_with_other_masks_is_refused(
    place: Path, run: str, masks: str | None, cause: str
) -> None:
    how = {**QUICK, "masks": masks and place / masks}
    with pytest.raises(RunError, match=cause):
        pipeline.match(place / "photos", place / run, **how)


def test_a_run_whose_masks_have_changed_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "masks", tmp_path / "masks")
    how = {**QUICK, "masks": tmp_path / "masks", "max_pairs": 5}
    pipeline.match(place / "photos", tmp_path / "run", **how)
    write_mask(tmp_path / "masks", "somebody.jpg", ~rectangle(SIZE))  # of no photograph
    pipeline.match(place / "photos", tmp_path / "run", **how)
    write_mask(tmp_path / "masks", "view 4.jpg", ~rectangle(SIZE))
    with pytest.raises(RunError, match="its masks were others;"):
        pipeline.match(place / "photos", tmp_path / "run", **how)


def test_folders_that_cannot_be_used_are_refused_before_any_work(
    place: Path, tmp_path: Path
) -> None:
    write_mask(tmp_path / "others", "another.jpg", rectangle(SIZE))
    for masks, cause in (
        (tmp_path / "others", "holds 1 PNG file and no mask of a photograph"),
        (tmp_path / "absent", "no such folder"),
        (place / "photos", "lies in the folder of the images"),
    ):
        with pytest.raises(StorageError, match=cause):
            pipeline.match(place / "photos", tmp_path / "run", **{**QUICK, "masks": masks})
    assert not (tmp_path / "run").exists()


def test_a_photograph_whose_mask_cannot_be_used_is_not_matched(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "masks", tmp_path / "masks")
    write_mask(tmp_path / "masks", "view 1.jpg", np.ones((20, 30), bool))
    (tmp_path / "masks" / "view 2.jpg.png").write_bytes(b"\x89PNG and nothing else")
    how = {**QUICK, "masks": tmp_path / "masks"}
    summary = pipeline.match(place / "photos", tmp_path / "run", **how)
    assert summary["failed_images"] == {"mask": 2}
    assert summary["failed"] == {"mask": 9}
    failures = pq.read_table(tmp_path / "run" / "failures" / "00000000.parquet").to_pylist()
    found = {row["image0"]: (row["stage"], row["reason"], row["detail"]) for row in failures}
    assert found["view 1.jpg"] == (
        *("read", "mask"),
        "its mask view 1.jpg.png has 30×20 pixels, and the photograph 192×144",
    )
    assert found["view 2.jpg"][:2] == ("read", "mask")
    bad = {"view 1.jpg", "view 2.jpg"}
    for now, then in zip(rows(tmp_path / "run"), rows(place / "masked"), strict=True):
        if {now["image0"], now["image1"]} & bad:
            assert (now["status"], now["reason"], now["scores"]) == ("failed", "mask", [])
        else:
            assert now == then


def test_rounds_and_probes_obey_masks(place: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for k, picture in enumerate(views(4, SIZE)):
        turn = (0, 0, 180, 90)[k]
        image = Image.fromarray(turned(np.asarray(picture), turn))
        image.save(tmp_path / "photos" / f"{k}.png")
        if k in (0, 3):
            write_mask(tmp_path / "masks", f"{k}.png", rectangle(image.size))
    how = {"long_side": 192, "executor": "local", "scales": "off", "masks": tmp_path / "masks"}
    summary = pipeline.match(tmp_path / "photos", tmp_path / "run", **how)
    assert summary["verified"] == 6
    later = [row for row in rows(tmp_path / "run") if row["num_inliers"]]
    assert [*(tmp_path / "run" / "matches").glob("01-*")]
    for row in rows(tmp_path / "run"):
        for side in "01":
            name, points = row[f"image{side}"], row[f"keypoints{side}"]
            if name in ("0.png", "3.png"):
                size = Image.open(tmp_path / "photos" / name).size
                assert not masked(points, rectangle(size)).any()
    assert len(later) >= 6


def test_photographs_and_masks_in_an_object_store(place: Path, s3: dict[str, str]) -> None:
    for folder in ("photos", "masks"):
        for path in sorted((place / folder).iterdir()):
            Folder(f"s3://bucket/{folder}", s3).publish(path.name, path.read_bytes())
    how = {**QUICK, "masks": "s3://bucket/masks", "storage": s3}
    pipeline.match("s3://bucket/photos", "s3://bucket/run", **how)
    remote = Folder("s3://bucket/run", s3)
    for name, data in tables(place / "masked").items():
        assert remote.read_bytes(name) == data, name
    assert b"hidden" not in remote.read_bytes("run.json")


def test_a_reranking_obeys_the_masks_of_its_two_folders(tmp_path: Path) -> None:
    write_places(tmp_path, SIZE, places=2)
    write_mask(tmp_path / "masks", "0.jpg", rectangle(SIZE))
    write_mask(tmp_path / "others", "0/1.jpg", ~rectangle(SIZE))
    places = [str(tmp_path / name) for name in ("queries", "database", "candidates.trec")]
    how: dict[str, Any] = {"query_masks": tmp_path / "masks", "long_side": 192, "executor": "local"}
    pipeline.rerank(*places, str(tmp_path / "run"), database_masks=tmp_path / "others", **how)
    found = 0
    for path in (tmp_path / "run" / "rounds").iterdir():
        for row in rows(path):
            for side in "01":
                name, points = row[f"image{side}"], row[f"keypoints{side}"]
                if name in ("query/0.jpg", "database/0/1.jpg"):
                    kept = rectangle(SIZE) if name.startswith("query") else ~rectangle(SIZE)
                    assert not masked(points, kept).any()
                    found += len(points)
    assert found > 100
    same = [places[1], places[1], str(tmp_path / "same.txt")]
    (tmp_path / "same.txt").write_text("0/0.jpg 0/1.jpg 0.5\n")
    with pytest.raises(ArgumentError, match="give one folder"):
        pipeline.rerank(*same, str(tmp_path / "x"), database_masks=tmp_path / "others", **how)
    how["query_masks"] = tmp_path / "others"
    pipeline.rerank(*same, str(tmp_path / "one"), **how)
    (row,) = rows(tmp_path / "one" / "rounds" / "00")
    assert not masked(row["keypoints1"], ~rectangle(SIZE)).any()
    assert len(row["scores"]) > 20
    with pytest.raises(TypeError, match="query_masks"):
        pipeline.rerank(*places, str(tmp_path / "y"), masks=tmp_path / "masks")
