"""Databases and models with masks: nothing is observed in a masked place."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from job_process import rows
from PIL import Image
from rendered import Rendered
from synthetic_run import LONG_SIDE, Scene
from test_masked_matching import masked, rectangle, write_mask

import pipeline
from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.masks.folder import find_masks
from pipeline.masks.mask import Mask
from pipeline.photos.exif import ORIENTATION
from pipeline.reconstruct.merging.job import import_matches
from pipeline.reconstruct.merging.keypoints import merge_keypoints
from pipeline.reconstruct.merging.masked import NOTHING, masks_of, merge_masked
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")

REFINING = RefineOptions(rounds=1, sizes=(320,))
LOCAL: dict[str, Any] = {"executor": "local"}


def observed(folder: Path, kept: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many observations a model has in the images, and how many lie in masked places.

    kept: (H, W) bool of the stored pixels of images.
    """
    scene = read_scene(folder)
    total = bad = 0
    for row, name in enumerate(scene.views.names):
        if name in kept:
            mine = scene.xy[scene.view == row]
            total, bad = total + len(mine), bad + int(masked(mine - 0.5, kept[name]).sum())
    return total, bad


def test_a_merged_keypoint_leaves_a_masked_place() -> None:
    xy = np.array([(10, 5), (12, 5), (30, 5), (31, 5), (11.4, 5), (10, 5), (12, 5)], np.float32)
    image = np.array([0, 0, 0, 0, 0, 1, 1])
    weights, radius = np.array([1, 1.1, 1, 1, 1, 1, 1], np.float32), np.full(2, 4.0)
    kept = np.ones((20, 40), bool)
    kept[:, 11] = False
    plain = merge_keypoints(image, xy, weights, radius)
    assert masked(plain.xy[:1], kept).all()
    found = merge_masked(image, xy, weights, radius, [Mask.of(kept), None])
    assert found.index.tolist() == [0, 0, 1, 1, -1, 0, 0]
    assert found.xy[0].tolist() == [12, 5]  # of two as near, the heavier one drew the mean
    assert np.array_equal(found.xy[1:], plain.xy[1:])
    nothing = merge_masked(image, xy, weights, radius, [NOTHING, None])
    assert nothing.index.tolist() == [-1] * 5 + [0, 0]
    order = np.array([1, 0, 4, 3, 2, 6, 5])
    again = merge_masked(image[order], xy[order], weights[order], radius, [Mask.of(kept), None])
    assert np.array_equal(again.xy, found.xy)


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_count_for_a_run_that_was_matched_without(tmp_path: Path, orientation: int) -> None:
    scene = Scene(cameras=4, orientations=dict.fromkeys(range(4), orientation))
    scene.write(tmp_path / "run")
    size = scene.size if orientation == 1 else scene.size[::-1]
    kept = {scene.name(0): rectangle(size), scene.name(1): rectangle(size)[::-1]}
    for name, of_file in kept.items():
        write_mask(tmp_path / "masks", name, of_file)
    write_mask(tmp_path / "masks", scene.name(2), np.ones((7, 7), bool))
    masks = find_masks(Folder(str(tmp_path / "masks")), [scene.name(k) for k in range(4)])
    target = tmp_path / "sfm" / "database.db"
    plain = import_matches(Folder(str(tmp_path / "run")), target, long_side=LONG_SIDE)
    made = import_matches(Folder(str(tmp_path / "run")), target, long_side=LONG_SIDE, masks=masks)
    assert (plain.masked, plain.mask_notes) == (0, [])
    assert (plain.verified, made.verified) == (6, 3)  # no pair of the third image is left
    assert made.masked > 500
    assert [scene.name(2) in note for note in made.mask_notes] == [True]
    found = 0
    with import_pycolmap().Database.open(target) as opened:
        for image in opened.read_all_images():
            xy = opened.read_keypoints(image.image_id)[:, :2]
            if image.name in kept:
                assert not masked(xy - 0.5, kept[image.name]).any()
                found += len(xy)
            if image.name == scene.name(2):
                assert not len(xy)
    assert found > 200
    table = pq.read_table(target.parent / "keypoints.parquet").to_pylist()
    assert sum(len(row["keypoints"]) for row in table) == made.keypoints


def test_all_matches_in_masked_places_leave_nothing_to_map(tmp_path: Path) -> None:
    scene = Scene(cameras=3)
    scene.write(tmp_path / "run")
    for k in range(3):
        write_mask(tmp_path / "masks", scene.name(k), np.zeros(scene.size[::-1], bool))
    made = pipeline.reconstruct(str(tmp_path / "run"), masks=tmp_path / "masks", **LOCAL)
    assert (made.models, made.database.verified) == ([], 0)
    assert any(note.startswith("nothing to map") for note in made.notes)


@pytest.fixture(scope="module")
def fountain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs of a fountain, masks of two of them, and runs with and without these."""
    place = tmp_path_factory.mktemp("fountain")
    (place / "photos").mkdir()
    for number, path in enumerate(sorted((data / "fountain11" / "images").iterdir())[:4]):
        with Image.open(path) as image:
            image.thumbnail((480, 480))
            image.save(place / "photos" / path.name, quality=95)
            if number % 2:
                write_mask(place / "masks", path.name, rectangle(image.size))
    how = {"long_side": 320, "turns": "off", "scales": "off", **LOCAL}
    pipeline.match(place / "photos", place / "plain", **how)
    pipeline.match(place / "photos", place / "masked", masks=place / "masks", **how)
    return place


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    files = folder.glob("*.png")
    return {path.name.removesuffix(".png"): np.asarray(Image.open(path)) for path in files}


def test_a_reconstruction_has_the_masks_of_its_run(fountain: Path) -> None:
    kept = masks_in(fountain / "masks")
    matched = 0
    for row in rows(fountain / "masked"):
        for side in "01":
            if row[f"image{side}"] in kept:
                assert not masked(row[f"keypoints{side}"], kept[row[f"image{side}"]]).any()
                matched += row["num_inliers"]
    assert matched > 400
    made = pipeline.reconstruct(str(fountain / "masked"), refine=REFINING, **LOCAL)
    assert made.masks == {"masked": 2, "unmasked": 2, "unused": 0}
    assert made.models[0].images == 4
    assert made.models[0].rounds[0].added > 100
    for kind in ("mapped", "sparse"):
        total, bad = observed(fountain / "masked" / "sfm" / kind / "0", kept)
        assert bad == 0
        assert total > 400
    for row in pq.read_table(fountain / "masked" / "sfm" / "keypoints.parquet").to_pylist():
        if row["image"] in kept:
            assert not masked(row["keypoints"], kept[row["image"]]).any()


def test_a_model_and_a_database_are_freed_of_masked_places(fountain: Path, tmp_path: Path) -> None:
    kept = masks_in(fountain / "masks")
    pipeline.reconstruct(str(fountain / "plain"), tmp_path / "plain", refine="none", **LOCAL)
    assert observed(tmp_path / "plain" / "sparse" / "0", kept)[1] > 100
    places = {"images": str(fountain / "photos"), "masks": fountain / "masks"}
    refined = pipeline.refine(
        *(tmp_path / "plain" / "sparse" / "0", fountain / "photos", tmp_path / "refined"),
        masks=fountain / "masks",
        options=REFINING,
        **LOCAL,
    )
    assert refined.masked > 100
    assert "2 of 4 images masked" in refined.text()
    database = tmp_path / "plain" / "database.db"
    before = database.read_bytes()
    made = pipeline.reconstruct(
        database=database, output=tmp_path / "mine", refine="none", **places, **LOCAL
    )
    assert made.database.masked > 100
    assert database.read_bytes() == before
    for folder in (tmp_path / "refined", tmp_path / "mine" / "sparse" / "0"):
        total, bad = observed(folder, kept)
        assert bad == 0
        assert total > 200
    with sqlite3.connect(tmp_path / "mine" / "database.db") as opened:
        sizes = "SELECT rows * cols * 4 - length(data) FROM two_view_geometries"
        assert {*opened.execute(sizes).fetchall()} == {(0,)}


def test_runs_with_other_masks_are_one_scene_only_where_one_is_given(
    fountain: Path, tmp_path: Path
) -> None:
    runs = [str(fountain / name) for name in ("plain", "masked")]
    with pytest.raises(
        ReconstructionError, match=r"were matched with no masks and .*; give by --masks"
    ):
        pipeline.reconstruct(runs, tmp_path / "sfm", **LOCAL)
    how = {"masks": fountain / "masks", "refine": "none", **LOCAL}
    pipeline.reconstruct(runs, tmp_path / "sfm", **how)
    assert observed(tmp_path / "sfm" / "sparse" / "0", masks_in(fountain / "masks"))[1] == 0


def test_masks_that_changed_since_matching_are_told(fountain: Path, tmp_path: Path) -> None:
    shutil.copytree(fountain, tmp_path / "place")
    run = tmp_path / "place" / "masked"
    described = (run / "run.json").read_text().replace(str(fountain), str(tmp_path / "place"))
    (run / "run.json").write_text(described)
    made = pipeline.reconstruct(str(run), tmp_path / "first", refine="none", **LOCAL)
    assert not [note for note in made.notes if "masks" in note]
    name = sorted(masks_in(fountain / "masks"))[0]
    write_mask(tmp_path / "place" / "masks", name, ~masks_in(fountain / "masks")[name])
    made = pipeline.reconstruct(str(run), tmp_path / "second", refine="none", **LOCAL)
    assert [note for note in made.notes if "have changed since" in note]
    assert (
        observed(tmp_path / "second" / "sparse" / "0", masks_in(tmp_path / "place" / "masks"))[1]
        == 0
    )


@pytest.fixture
def upright(rendered: Rendered, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The rendered photographs and masks of two, one of which is drawn on the upright picture.

    EXIF says that the file of this one lies on its side.
    """
    shutil.copytree(rendered.images, tmp_path / "images")
    kept = {"1.png": rectangle((320, 240)), "3.png": ~rectangle((320, 240))}
    write_mask(tmp_path / "masks", "1.png", kept["1.png"])
    with Image.open(tmp_path / "images" / "3.png") as image:
        image.load()
        image.getexif()[ORIENTATION] = 6  # turned by 90 degrees clockwise to be upright
        image.save(tmp_path / "images" / "3.png", exif=image.getexif())
    write_mask(tmp_path / "masks", "3.png", np.rot90(kept["3.png"], -1))
    return tmp_path, kept


def test_refining_obeys_masks_of_stored_and_of_upright_pixels(
    model: Path, upright: tuple[Path, dict[str, np.ndarray]]
) -> None:
    place, kept = upright
    assert observed(model, kept)[1] > 50
    what = model, place / "images"
    how: dict[str, Any] = {"options": RefineOptions(sizes=(200, 320)), **LOCAL}
    plain = pipeline.refine(*what, place / "plain", **how)
    found = pipeline.refine(*what, place / "refined", masks=place / "masks", **how)
    assert found.better
    assert found.failures == []
    assert found.masks == {"masked": 2, "unmasked": 3, "unused": 0}
    assert observed(place / "plain", kept)[1] > 50
    total, bad = observed(place / "refined", kept)
    assert (bad, total > 80) == (0, True)
    assert found.after.track_length > 3.5  # other views complete tracks as before
    assert plain.after.points > found.after.points > 100
    again = pipeline.refine(*what, place / "refined", masks=place / "masks", **how)
    assert again == found


def test_refining_leaves_out_a_view_whose_mask_cannot_be_used(
    model: Path, upright: tuple[Path, dict[str, np.ndarray]]
) -> None:
    place, _ = upright
    write_mask(place / "masks", "1.png", np.ones((9, 9), bool))
    what = model, place / "images", place / "refined"
    found = pipeline.refine(*what, masks=place / "masks", options=REFINING, **LOCAL)
    assert [failure.partition(":")[0] for failure in found.failures] == ["1.png"]
    assert "9×9 pixels" in found.failures[0]
    assert observed(place / "refined", {"1.png": np.ones((240, 320), bool)}) == (0, 0)


def test_masks_that_leave_no_point_are_refused(
    model: Path, rendered: Rendered, tmp_path: Path
) -> None:
    for view in range(5):
        write_mask(tmp_path / "masks", f"{view}.png", np.zeros((240, 320), bool))
    with pytest.raises(
        ReconstructionError, match="leave no point of the model; check that 0 marks"
    ):
        pipeline.refine(model, rendered.images, tmp_path / "x", masks=tmp_path / "masks", **LOCAL)


def test_masks_behind_links_are_found_where_the_run_followed_links(tmp_path: Path) -> None:
    scene = Scene(cameras=3)
    scene.write(tmp_path / "run")
    write_mask(tmp_path / "elsewhere", "view 00.jpg", rectangle(scene.size))
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "part0").symlink_to(tmp_path / "elsewhere")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    described["masks"] = {"folder": str(tmp_path / "masks"), "files": ""}
    described["options"]["follow_links"] = True
    (tmp_path / "run" / "run.json").write_text(json.dumps(described))
    found, _ = masks_of([Folder(str(tmp_path / "run"))], None)
    assert found is not None
    assert found.upright(scene.name(0), scene.size, 1) == Mask.of(rectangle(scene.size))
