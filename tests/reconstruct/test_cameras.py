from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import Scene

from pipeline import reconstruct, tables
from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.cameras.assign import AssignedCameras, assign_cameras
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")

pycolmap = import_pycolmap()
SIZE = (1600, 1200)


def stored(folder: Path, *rows: tuple[str, str | None, float | None, tuple[int, int]]) -> Folder:
    """A run of images: name, make and model, focal length, size."""
    (folder / "images").mkdir(parents=True)
    full = [(name, *size, *size, 1, focal, maker) for name, maker, focal, size in rows]
    columns = [pa.array([r[i] for r in full], kind) for i, kind in enumerate(tables.IMAGES.types)]
    pq.write_table(pa.table(columns, schema=tables.IMAGES), folder / "images" / "0.parquet")
    return Folder(str(folder))


def cameras_of(run: Folder, *words: str, **options: Any) -> AssignedCameras:
    return assign_cameras(StoredImages.read(run), CameraOptions.parse(*words, **options))


def plain(count: int, folder: str = "") -> list[tuple[str, None, None, tuple[int, int]]]:
    return [(f"{folder}{i:02}.jpg", None, None, SIZE) for i in range(count)]


def test_photographs_of_one_camera_and_setting_share_it(tmp_path: Path) -> None:
    run = stored(
        tmp_path / "run",
        ("a.jpg", "Canon G2", 1500.0, SIZE),
        ("b.jpg", "Canon G2", 1503.0, SIZE),  # rounded otherwise
        ("c.jpg", "Canon G2", 3000.0, SIZE),  # zoomed
        ("d.jpg", "Canon G2", 1500.0, (800, 600)),  # reduced
        ("e.jpg", "Nikon D60", 1500.0, SIZE),
        ("f.jpg", "Canon G2", None, SIZE),  # who knows how it was zoomed
        ("g.jpg", None, 1500.0, SIZE),
        ("h.jpg", None, 1500.0, SIZE),
        ("i.jpg", None, None, SIZE),
        ("j.jpg", None, None, SIZE),
    )
    found = cameras_of(run)
    assert found.of_image.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert found.rows[0].mean_focal_length() == pytest.approx(1501.5)
    (shared,) = found.shared
    assert (shared.camera, shared.images, shared.fixed) == (1, 2, False)
    assert shared.why == "EXIF says Canon G2, 1500 px"


def test_a_slowly_moving_zoom_is_no_single_setting(tmp_path: Path) -> None:
    rows = [(f"{i:02}.jpg", "Canon G2", 1000 * 1.006**i, SIZE) for i in range(20)]
    found = cameras_of(stored(tmp_path / "run", *rows))
    focals = np.array([row[2] for row in rows])
    for camera in range(len(found.rows)):
        members = focals[found.of_image == camera]
        assert members.max() / members.min() <= 1.01


def test_turned_photographs_of_a_phone_share_its_camera(tmp_path: Path) -> None:
    # The stored pixels are those of the sensor, whichever way the phone was held.
    rows = [
        {"image": f"{o}.jpg", "width": w, "height": h, "stored_width": 1600, "stored_height": 1200}
        | {"orientation": o, "focal": 1294.3, "camera": "Apple iPhone 7"}
        for o, w, h in ((1, 1600, 1200), (6, 1200, 1600))
    ]
    (tmp_path / "images").mkdir()
    table = pa.Table.from_pylist(rows, tables.IMAGES)
    pq.write_table(table, tmp_path / "images" / "0.parquet")
    assert cameras_of(Folder(str(tmp_path))).of_image.tolist() == [0, 0]


def test_many_images_of_one_size_without_exif_stay_apart_with_a_hint(tmp_path: Path) -> None:
    run = stored(tmp_path / "a", *plain(12))
    found = cameras_of(run)
    assert len(found.rows) == 12
    (note,) = found.notes
    assert note.startswith("the 12 images of folder . have one size and no EXIF")
    assert "--camera-sharing single" in note
    assert cameras_of(run, "auto", "per-image").notes == []
    assert cameras_of(stored(tmp_path / "b", *plain(9))).notes == []
    odd = ("x.jpg", None, None, (800, 600))
    assert cameras_of(stored(tmp_path / "c", *plain(12), odd)).notes == []
    (note,) = cameras_of(stored(tmp_path / "d", *plain(12, "left/"), odd)).notes
    assert "folder left have" in note
    assert "--camera-sharing per-folder" in note


def test_a_list_says_which_images_share(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", *plain(5))
    (tmp_path / "cams.csv").write_text("image,camera\n00.jpg,left\n02.jpg,left\n03.jpg,7\n")
    found = cameras_of(run, "auto", f"list:{tmp_path / 'cams.csv'}")
    assert found.of_image.tolist() == [0, 1, 0, 2, 3]
    assert [shared.why for shared in found.shared] == ["the list names it left"]
    table = pa.table({"image": ["00.jpg", "02.jpg"], "camera": [3, 3]})
    pq.write_table(table, tmp_path / "cams.parquet")
    found = cameras_of(run, "auto", f"list:{tmp_path / 'cams.parquet'}")
    assert found.of_image.tolist() == [0, 1, 0, 2, 3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("cams.txt", "", r"cams\.txt: is no list of cameras by its ending; give a \.csv"),
        ("cams.csv", "image,camera\n", "names no image"),
        ("cams.csv", "image,lens\na,b\n", "line 2: lacks image or camera"),
        ("cams.csv", "image,camera\n00.jpg,a\n00.jpg,b\n", "line 3: .* b here and a before"),
        ("cams.csv", "image,camera\nnone.jpg,a\n", "'none.jpg', which is no image of the run"),
        ("cams.csv", "image,camera\n00.jpg,a\nx.jpg,a\n", "00.jpg and x.jpg one camera"),
        ("missing.csv", None, r"missing\.csv: the file of cameras cannot be read"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    run = stored(tmp_path / "run", *plain(2), ("x.jpg", None, None, (800, 600)))
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ReconstructionError, match=message):
        cameras_of(run, "auto", f"list:{tmp_path / name}")


def test_the_old_words_of_sharing_name_the_new_ones() -> None:
    with pytest.raises(ReconstructionError, match="'image' is called 'per-image' now"):
        CameraOptions(sharing="image")
    with pytest.raises(ReconstructionError, match="'folder' is called 'per-folder' now"):
        CameraOptions.parse("auto", "folder")


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_intrinsics_are_for_the_images_that_they_name(tmp_path: Path, kind: str) -> None:
    run = stored(tmp_path / "run", *plain(3, "left/"), *plain(3, "right/"), *plain(2))
    file = tmp_path / f"cameras.{kind}"
    if kind == "json":
        entries = [
            {"images": "left/00.jpg", "model": "simple_pinhole", "params": [900, 800, 600]},
            {"images": ["left", "00.jpg"], "model": "PINHOLE", "params": [1, 2, 3, 4]},
            {"images": "r*/*1.jpg", "model": "SIMPLE_RADIAL", "params": [7, 1, 1, 0]}
            | {"fixed": False},
        ]
        file.write_text(json.dumps(entries))
    else:
        file.write_text(
            "images,model,params,fixed\nleft/00.jpg,SIMPLE_PINHOLE,900 800 600,\n"
            "left/,PINHOLE,1 2 3 4,true\n00.jpg,PINHOLE,1 2 3 4,\n"
            "r*/*1.jpg,SIMPLE_RADIAL,7 1 1 0,false\n"
        )
    found = cameras_of(run, intrinsics=str(file))
    params = {
        str(name): found.rows[camera].params.tolist()
        for name, camera, given in zip(
            StoredImages.read(run).names, found.of_image, found.given, strict=True
        )
        if given
    }
    assert params == {
        "left/00.jpg": [900, 800, 600],
        "left/01.jpg": [1, 2, 3, 4],
        "left/02.jpg": [1, 2, 3, 4],
        "00.jpg": [1, 2, 3, 4],
        "right/01.jpg": [7, 1, 1, 0],
    }
    fixed = {found.rows[shared.camera - 1].params[0]: shared.fixed for shared in found.shared}
    assert fixed == {900: True, 1: True, 7: False}
    assert found.of_image[found.given].max() < len(found.rows)


def test_cameras_of_colmap_are_for_the_images_of_their_size(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", *plain(3), ("x.jpg", None, None, (800, 600)))
    model = pycolmap.Reconstruction()
    for number, size in enumerate([SIZE, (800, 600)], 1):
        model.add_camera_with_trivial_rig(
            pycolmap.Camera.create_from_model_name(number, "PINHOLE", 100.0 * number, *size)
        )
    model.write_text(tmp_path)
    found = cameras_of(run, intrinsics=str(tmp_path / "cameras.txt"))
    assert [camera.mean_focal_length() for camera in found.rows] == [100, 200]
    assert found.of_image.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", "{", r"c\.json: is no JSON .*; correct it"),
        ("c.json", "[]", "holds no camera"),
        ("c.json", '[{"model": "PINHOLE"}]', "entry 0: lacks model or params; give images, model"),
        ("c.json", '{"model": "PINHOLE", "params": [1], "k": 2}', "unknown field 'k'"),
        ("c.json", '{"model": "FOO", "params": [1]}', "entry 0: camera model 'FOO' is unknown"),
        ("c.json", '{"model": "PINHOLE", "params": 5}', "params are not numbers"),
        ("c.json", '{"model": "PINHOLE", "params": [5, 0, 1, 1]}', "above zero"),
        ("c.csv", "images,model,params\n*,PINHOLE,1 2\n", "line 2: camera model PINHOLE takes fx"),
        ("c.csv", "model,params,fixed\nPINHOLE,1 1 1 1,maybe\n", "fixed is 'maybe'; give true"),
        ("c.csv", "model,params,width\nPINHOLE,1 1 1 1,5\n", "width and height are whole numbers"),
        (
            "c.csv",
            "images,model,params\nq/*,PINHOLE,1 1 1 1\n",
            r"no image of the run is called q/",
        ),
        ("c.txt", "1 PINHOLE 10 20 1 1 1 1\n", "no image of the run of 10×20 pixels"),
        ("d.json", None, r"d\.json: the file of intrinsics cannot be read"),
        ("words", None, "give MODEL:f,cx,cy"),
    ],
)
def test_wrong_intrinsics_are_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    run = stored(tmp_path / "run", *plain(2))
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ReconstructionError, match=message):
        cameras_of(run, intrinsics=str(tmp_path / name))


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_known_cameras_stay_exact_and_the_others_are_refined(tmp_path: Path, mapper: str) -> None:
    scene = Scene(prior=False)
    scene.write(tmp_path / "run")
    given = tmp_path / "cameras.json"
    entry = {"images": "part0", "model": "PINHOLE", "params": [800, 800, 360, 270]}
    given.write_text(json.dumps(entry))
    cameras = CameraOptions.parse(intrinsics=str(given))
    summary = reconstruct(str(tmp_path / "run"), mapper=mapper, cameras=cameras)
    assert [model.images for model in summary.models] == [6]
    model = pycolmap.Reconstruction(tmp_path / "run" / "sfm" / "sparse" / "0")
    known = {
        model.images[i].camera_id
        for i in model.reg_image_ids()
        if model.images[i].name.startswith("part0/")
    }
    others = {*model.cameras} - known
    (camera,) = known
    assert model.cameras[camera].params.tolist() == [800, 800, 360, 270]
    assert len(others) == 3
    start = 1.2 * 720
    for number in others:
        focal = model.cameras[number].mean_focal_length()
        assert focal != start
        assert focal == pytest.approx(800, rel=0.03)
    assert "3 images, kept as given, by " in summary.text()
