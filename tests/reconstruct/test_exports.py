"""Exports: every format is read by other means, and its numbers agree with the model's."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import fsspec
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rendered import FOCAL, SIZE, surface, texture, tracks_of, views_of
from synthetic_run import Scene

import pipeline
from pipeline.cli import main
from pipeline.errors import ArgumentError, ReconstructionError, RunError, StorageError
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.exports import job
from pipeline.reconstruct.exports.forms import EXPORT_FORMS
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel, project
from pipeline.tables import unragged

pytestmark = pytest.mark.usefixtures("kept_processes", "kept_colmap")
NEAR = 1e-3  # pixels
ODD = ["a b/ü 1.jpg", 'say "x".jpg', "it's, two.jpg", "deep/er/3.jpg", "4.png"]
PLAIN = ["one/ü.jpg", 'two/"x".jpg', "it's.jpg", "deep/er/3.jpg", "4.png"]
MIDDLE = (157.0, 123.5)
CAMERAS = {
    "SIMPLE_PINHOLE": (FOCAL, *MIDDLE),
    "PINHOLE": (FOCAL, FOCAL, *MIDDLE),
    "SIMPLE_RADIAL": (FOCAL, *MIDDLE, -0.1),
    "RADIAL": (FOCAL, *MIDDLE, -0.1, 0.04),
    "OPENCV": (FOCAL, FOCAL, *MIDDLE, -0.1, 0.04, 0.002, -0.003),
    "SIMPLE_FISHEYE": (FOCAL, *MIDDLE),
    "FISHEYE": (FOCAL, FOCAL, *MIDDLE),
    "SIMPLE_RADIAL_FISHEYE": (FOCAL, *MIDDLE, 0.02),
    "RADIAL_FISHEYE": (FOCAL, *MIDDLE, 0.02, 0.01),
    "OPENCV_FISHEYE": (FOCAL, FOCAL, *MIDDLE, 0.02, 0.01, -0.01, 0.003),
}
OTHERS = {
    "FULL_OPENCV": (FOCAL, FOCAL, *MIDDLE, -0.1, 0.04, 0.002, -0.003, 0.01, 0.02, 0, 0.001),
    "FOV": (FOCAL, FOCAL, *MIDDLE, 0.3),
    "THIN_PRISM_FISHEYE": (FOCAL, FOCAL, *MIDDLE, 0.02, 0.01, 0.001, 0.002, 0, 0, 0.001, 0.001),
}


@pytest.fixture
def kept_colmap(kept_executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports have one process of COLMAP, as its start takes longer than they do."""
    monkeypatch.setattr(job, "Worker", kept_executor.worker)


def exact(cameras: dict[int, ModelCamera], names: list[str]) -> SparseModel:
    """A scene whose observations are where its points are projected to; cameras take turns."""
    views = views_of(len(names))
    numbers = np.array([sorted(cameras)[k % len(cameras)] for k in range(len(names))])
    views = replace(views, names=names, camera=numbers, cameras=cameras)
    scene = replace(tracks_of(views, 60, 1), views=views)
    xy = np.empty_like(scene.xy)
    for view in range(len(names)):
        mine = scene.view == view
        xy[mine] = project(views, view, scene.xyz[scene.point[mine]])
    assert np.isfinite(xy).all()
    return replace(scene, xy=xy)


def camera_of(model: str) -> ModelCamera:
    return ModelCamera(model, *SIZE, tuple(map(float, (CAMERAS | OTHERS)[model])))


def written(scene: SparseModel, folder: Path) -> Path:
    folder.mkdir(parents=True)
    scene.made().write_binary(folder)
    return folder


def model_of(folder: Path, *models: str, names: list[str] = ODD) -> tuple[SparseModel, Path]:
    cameras = {number: camera_of(model) for number, model in enumerate(models, 3)}
    scene = exact(cameras, names)
    return scene, written(scene, folder / "model")


def draw(scene: SparseModel, folder: Path, *left_out: str, **how: Any) -> Path:
    """Photographs of a scene, with its lens."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    pixels = np.column_stack([columns.ravel(), rows.ravel()])
    for view, name in enumerate(scene.views.names):
        if name not in left_out:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rays = scene.views.camera_of(view).made().cam_from_img(pixels)
            shown = surface(scene.views, view, rays * FOCAL + np.array(SIZE) / 2)
            gray = (texture(shown[:, 0], shown[:, 1]).clip(0, 1) * 255).round().astype(np.uint8)
            Image.fromarray(gray.reshape(SIZE[::-1])).save(path, **{"quality": 97, **how})
    return folder


def by_view(scene: SparseModel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Points and pixels that each image sees, COLMAP's origin."""
    return {
        name: (scene.xyz[scene.point[scene.view == v]], scene.xy[scene.view == v])
        for v, name in enumerate(scene.views.names)
    }


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["colmap-text", "colmap-binary"])
def test_colmap_reads_what_it_wrote(form: str, tmp_path: Path) -> None:
    scene, model = model_of(tmp_path, "OPENCV", "FOV", names=PLAIN)
    before = bytes_of(model)
    summary = pipeline.export_model(model, tmp_path / "out", format=form)
    again = read_scene(tmp_path / "out")
    assert again.views.names == PLAIN
    assert again.views.cameras == scene.views.cameras
    assert np.allclose(again.xyz, scene.xyz, atol=1e-12)
    assert np.allclose(again.xy, scene.xy, atol=1e-9)
    assert np.allclose(again.views.shift, scene.views.shift, atol=1e-12)
    assert (summary.images, summary.points, summary.observations) == (5, 60, len(scene.xy))
    assert bytes_of(model) == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *EXPORT_FORMS[form].files,
        "export.json",
    }


def test_a_text_model_is_exported_as_well(tmp_path: Path) -> None:
    scene, model = model_of(tmp_path, "OPENCV", names=PLAIN)
    pipeline.export_model(model, tmp_path / "text", format="colmap-text")
    pipeline.export_model(tmp_path / "text", tmp_path / "out", format="colmap-binary")
    assert np.allclose(read_scene(tmp_path / "out").xyz, scene.xyz)


def test_the_points_are_read_by_colmap(tmp_path: Path) -> None:
    scene, model = model_of(tmp_path, "FOV")
    pipeline.export_model(model, tmp_path / "out", format="ply")
    read = import_pycolmap().Reconstruction()
    read.import_PLY(tmp_path / "out" / "points.ply")
    found = np.array([point.xyz for point in read.points3D.values()])
    away = np.linalg.norm(found[:, None] - scene.xyz, axis=2)
    assert len(found) == len(scene.xyz)
    assert max(away.min(axis=0).max(), away.min(axis=1).max()) < 1e-6
    assert {tuple(point.color) for point in read.points3D.values()} == {(128, 128, 128)}


@pytest.mark.parametrize("model", CAMERAS)
def test_points_land_on_their_pixels_through_transforms_json(model: str, tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, model)
    pipeline.export_model(folder, tmp_path / "out", format="nerf")
    content = json.loads((tmp_path / "out" / "transforms.json").read_text(encoding="utf-8"))
    seen = by_view(scene)
    assert [frame["file_path"] for frame in content["frames"]] == [f"images/{n}" for n in ODD]
    for frame in content["frames"]:
        to_world = np.array(frame["transform_matrix"])
        assert np.isclose(np.linalg.det(to_world[:3, :3]), 1)
        xyz, xy = seen[frame["file_path"].removeprefix("images/")]
        assert np.abs(through_nerf(content, to_world, xyz) - xy).max() < NEAR
    fisheye = "FISHEYE" in model
    assert content["camera_model"] == ("OPENCV_FISHEYE" if fisheye else "OPENCV")
    assert content.get("is_fisheye", False) == fisheye
    assert (tmp_path / "out" / content["ply_file_path"]).is_file()


def through_nerf(lens: dict[str, Any], to_world: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Pixels of points by OpenCV: axes of OpenGL turned into its own."""
    local = (xyz - to_world[:3, 3]) @ to_world[:3, :3] * [1, -1, -1]
    K = np.array([[lens["fl_x"], 0, lens["cx"]], [0, lens["fl_y"], lens["cy"]], [0, 0, 1]])
    names = ("k1", "k2", "k3", "k4") if lens.get("is_fisheye") else ("k1", "k2", "p1", "p2")
    bent = np.array([lens[name] for name in names])
    still = np.zeros((3, 1))
    called = cv2.fisheye if lens.get("is_fisheye") else cv2
    found, _ = called.projectPoints(local[:, None], still, still, K, bent)
    return found[:, 0]


def test_several_cameras_stand_in_the_frames(tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, "OPENCV", "SIMPLE_PINHOLE")
    pipeline.export_model(folder, tmp_path / "out", format="nerf")
    content = json.loads((tmp_path / "out" / "transforms.json").read_text(encoding="utf-8"))
    assert "fl_x" not in content
    for frame in content["frames"]:
        xyz, xy = by_view(scene)[frame["file_path"].removeprefix("images/")]
        to_world = np.array(frame["transform_matrix"])
        assert np.abs(through_nerf(frame, to_world, xyz) - xy).max() < NEAR


@pytest.mark.parametrize("model", CAMERAS)
def test_points_land_on_their_pixels_through_openmvg(model: str, tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, model, model)
    pipeline.export_model(folder, tmp_path / "out", format="openmvg")
    content = json.loads((tmp_path / "out" / "sfm_data.json").read_text(encoding="utf-8"))
    views = {view["key"]: view["value"]["ptr_wrapper"]["data"] for view in content["views"]}
    assert [view["local_path"] + view["filename"] for view in views.values()] == ODD
    lenses = {one["key"]: one["value"] for one in content["intrinsics"]}
    kinds = [one.get("polymorphic_name") for one in lenses.values()]
    assert kinds[0] is not None
    assert kinds[1] is None  # the name of a kind stands where it is first seen
    assert lenses[1]["polymorphic_id"] + (1 << 31) == lenses[0]["polymorphic_id"]
    poses = {pose["key"]: pose["value"] for pose in content["extrinsics"]}
    count = 0
    for point in content["structure"]:
        for seen in point["value"]["observations"]:
            view = views[seen["key"]]
            pose = poses[view["id_pose"]]
            local = np.array(pose["rotation"]) @ (point["value"]["X"] - np.array(pose["center"]))
            lens = lenses[view["id_intrinsic"]]["ptr_wrapper"]["data"]
            found = through_openmvg(kinds[0], lens, local[:2] / local[2])
            assert np.abs(found - seen["value"]["x"]).max() < NEAR
            count += 1
    assert count == len(scene.xy)
    first = content["structure"][0]["value"]["observations"][0]
    assert np.allclose(np.array(first["value"]["x"]) + 0.5, scene.xy[0])


def through_openmvg(kind: str, lens: dict[str, Any], p: np.ndarray) -> np.ndarray:
    """As Camera_Pinhole_*.hpp of OpenMVG."""
    r2 = p @ p
    if kind == "pinhole_radial_k1":
        p = p * (1 + lens["disto_k1"][0] * r2)
    elif kind == "pinhole_radial_k3":
        k1, k2, k3 = lens["disto_k3"]
        p = p * (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3)
    elif kind == "pinhole_brown_t2":
        k1, k2, k3, t1, t2 = lens["disto_t2"]
        bent = p * (k1 * r2 + k2 * r2**2 + k3 * r2**3)
        x, y = p
        p = (
            p
            + bent
            + [t2 * (r2 + 2 * x * x) + 2 * t1 * x * y, t1 * (r2 + 2 * y * y) + 2 * t2 * x * y]
        )
    elif kind == "fisheye":
        theta = np.arctan(np.sqrt(r2))
        powers = theta ** np.array([3, 5, 7, 9])
        p = p * (theta + powers @ lens["fisheye"]) / np.sqrt(r2)
    else:
        assert kind == "pinhole"
    return lens["focal_length"] * p + lens["principal_point"]


@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL"])
def test_points_land_on_their_pixels_through_nvm(model: str, tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, model, names=PLAIN)
    summary = pipeline.export_model(folder, tmp_path / "out", format="nvm")
    tokens = (tmp_path / "out" / "model.nvm").read_text(encoding="utf-8").split()
    assert tokens.pop(0) == "NVM_V3"
    images = [[tokens.pop(0) for _ in range(11)] for _ in range(int(tokens.pop(0)))]
    assert [image[0] for image in images] == PLAIN
    assert {image[-1] for image in images} == {"0"}
    poses = np.array([image[1:-1] for image in images], float)
    errors = []
    for _ in range(int(tokens.pop(0))):
        xyz = np.array([tokens.pop(0) for _ in range(3)], float)
        assert [tokens.pop(0) for _ in range(3)] == ["128"] * 3
        for _ in range(int(tokens.pop(0))):
            view, _ = int(tokens.pop(0)), tokens.pop(0)
            xy = np.array([tokens.pop(0), tokens.pop(0)], float)
            focal, w, x, y, z, *centre, r = poses[view]
            turn = import_pycolmap().Rotation3d(np.array([x, y, z, w])).matrix()
            local = turn @ (xyz - centre)
            straight = xy * (1 + r * (xy @ xy) / focal**2)
            errors.append(np.linalg.norm(straight - focal * local[:2] / local[2]))
    assert tokens == ["0"]
    assert len(errors) == len(scene.xy)
    stated = [float(n[1]) for n in map(re.compile(r"up to (.*) px off").search, summary.notes) if n]
    assert bool(stated) == (model == "SIMPLE_RADIAL")
    assert max(errors) < max([NEAR, *(number + NEAR for number in stated)])
    assert max(errors) < 0.2
    assert "3.500 px away" in " ".join(summary.notes)  # of the principal point from the middle


@pytest.mark.parametrize("model", ["RADIAL", "OPENCV_FISHEYE", "FULL_OPENCV", "THIN_PRISM_FISHEYE"])
def test_the_files_of_kapture_hold_the_model(model: str, tmp_path: Path) -> None:
    names = [name for name in PLAIN if "," not in name]
    scene, folder = model_of(tmp_path, model, names=names)
    draw(scene, tmp_path / "photos", "4.png")
    summary = pipeline.export_model(
        folder, tmp_path / "out", format="kapture", images=tmp_path / "photos"
    )
    assert summary.left_out == {"4.png": "there is no such file"}
    sensors = tmp_path / "out" / "sensors"
    kept = [name for name in names if name != "4.png"]
    assert [(sensors / "records_data" / name).read_bytes() for name in kept] == [
        (tmp_path / "photos" / name).read_bytes() for name in kept
    ]
    cameras = {row[0]: row[3:] for row in table(sensors / "sensors.txt")}
    poses = {row[0]: np.array(row[2:], float) for row in table(sensors / "trajectories.txt")}
    records = {row[2]: row[:2] for row in table(sensors / "records_camera.txt")}
    rebuilt = tmp_path / "out" / "reconstruction"
    points = np.array(table(rebuilt / "points3d.txt"), float)
    assert list(records) == kept
    count = 0
    for number, kind, *seen in table(rebuilt / "observations.txt"):
        for name, row in zip(seen[::2], seen[1::2], strict=True):
            keypoints = np.fromfile(rebuilt / "keypoints" / kind / f"{name}.kpt").reshape(-1, 2)
            stamp, device = records[name]
            w, x, y, z, *shift = poses[stamp]
            turn = import_pycolmap().Rotation3d(np.array([x, y, z, w])).matrix()
            lens = ModelCamera(cameras[device][0], *SIZE, tuple(map(float, cameras[device][3:])))
            assert cameras[device][1:3] == [str(side) for side in SIZE]
            local = turn @ points[int(number), :3] + shift
            found = lens.made().img_from_cam(local[None])
            assert np.abs(found - keypoints[int(row)]).max() < NEAR
            count += 1
    assert count == summary.observations > 0


def table(path: Path) -> list[list[str]]:
    first, _, *lines = path.read_text(encoding="utf-8").splitlines()
    assert first == "# kapture format: 1.1"
    return [line.split(", ") for line in lines]


def test_kapture_itself_reads_its_folder_and_that_of_openmvg(tmp_path: Path) -> None:
    csv = pytest.importorskip("kapture.io.csv", reason="kapture is not installed")
    from kapture.converter.openmvg.import_openmvg import import_openmvg
    from kapture.io.records import TransferAction

    scene, folder = model_of(tmp_path, "RADIAL", names=["one/ü.jpg", 'two/"x".jpg', "it's.jpg"])
    for form in ("kapture", "openmvg"):
        pipeline.export_model(folder, tmp_path / form, format=form)
    read = csv.kapture_from_dir(str(tmp_path / "kapture"))
    assert np.allclose(read.points3d.as_array()[:, :3], scene.xyz)
    assert read.observations.observations_number() == len(scene.xy)
    assert {name for _, _, name in kapture_records(read)} == set(scene.views.names)
    for number, pose in zip(scene.views.numbers, scene.views.shift, strict=True):
        assert np.allclose(read.trajectories[int(number), "camera3"].t.ravel(), pose)
    (photos := tmp_path / "photos").mkdir()
    path = tmp_path / "openmvg" / "sfm_data.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "root_path": str(photos)}), encoding="utf-8")
    import_openmvg(str(path), None, None, str(tmp_path / "again"), TransferAction.skip, True)
    again = csv.kapture_from_dir(str(tmp_path / "again"))
    found = [pose for of_device in again.trajectories.values() for pose in of_device.values()]
    assert np.allclose([pose.t.ravel() for pose in found], scene.views.shift)
    assert {name.rpartition("/")[2] for _, _, name in kapture_records(again)} == {
        name.rpartition("/")[2] for name in scene.views.names
    }


def kapture_records(read: Any) -> list[tuple[int, str, str]]:
    return [
        (stamp, device, name)
        for stamp, of_device in read.records_camera.items()
        for device, name in of_device.items()
    ]


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_undistorted_photographs_show_points_where_they_belong(model: str, tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, model)
    exif = Image.Exif()
    exif[0x0112] = 6
    photos = draw(scene, tmp_path / "photos", "deep/er/3.jpg", exif=exif)
    (photos / "4.png").write_bytes((photos / "4.png").read_bytes()[:300])
    summary = pipeline.export_model(folder, tmp_path / "out", format="dense", images=photos)
    assert summary.left_out.keys() == {"deep/er/3.jpg", "4.png"}
    assert summary.left_out["4.png"].startswith("truncated: ")
    flat = read_scene(tmp_path / "out" / "sparse")
    assert flat.views.names == ODD[:3]
    assert summary.images == 3
    assert {camera.model for camera in flat.views.cameras.values()} == {"PINHOLE"}
    assert flat.errors().max() < NEAR
    assert len(flat.point) == summary.observations > 0
    assert (tmp_path / "out" / "stereo" / "patch-match.cfg").read_text("utf-8").count("auto") == 3
    for view, name in enumerate(ODD[:3]):
        camera = flat.views.camera_of(view)
        with Image.open(tmp_path / "out" / "images" / name) as image:
            assert image.size == (camera.width, camera.height)
            assert image.getexif().get(0x0112, 1) == 1  # it lies as its camera does
            gray = np.asarray(image.convert("L")) / 255
        xyz = flat.xyz[flat.point[flat.view == view]]
        x, y = project(flat.views, view, xyz).T - 0.5  # cv2 counts from the centre
        at = cv2.remap(gray.astype(np.float32), *np.float32([x, y]), cv2.INTER_LINEAR).ravel()
        true = texture(xyz[:, 0], xyz[:, 1]).clip(0, 1)
        inside = (x > 1) & (y > 1) & (x < camera.width - 2) & (y < camera.height - 2)
        assert np.median(np.abs(at - true)[inside]) < 0.01
        moved = cv2.remap(
            gray.astype(np.float32), *np.float32([x + 3, y]), cv2.INTER_LINEAR
        ).ravel()
        assert np.median(np.abs(moved - true)[inside]) > 0.03


@pytest.mark.parametrize("form", ["dense", "nerf", "kapture", "openmvg"])
def test_a_photograph_of_another_size_is_left_out(form: str, tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, "PINHOLE", names=PLAIN)
    photos, out = draw(scene, tmp_path / "photos"), tmp_path / "out"
    Image.new("L", (100, 90)).save(photos / "4.png")
    whole = (photos / "it's.jpg").read_bytes()
    (photos / "it's.jpg").write_bytes(whole[:-500])
    summary = pipeline.export_model(folder, out, format=form, images=photos)
    assert summary.left_out.pop("4.png") == "it has 100 × 90 pixels, and its camera 320 × 240"
    assert [*summary.left_out] == ["it's.jpg"]
    assert summary.images == len(scene.views) - 2
    copied = {path.name for path in out.rglob("*") if path.suffix in (".png", ".jpg")}
    assert not copied & {"4.png", "it's.jpg"}


def test_photographs_of_transforms_json_are_copied_and_missing_ones_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, folder = model_of(tmp_path, "PINHOLE")
    photos, out = draw(scene, tmp_path / "photos", ODD[1]), tmp_path / "out"
    words = ["model", "export", str(folder), "--format", "nerf", "--output", str(out)]
    assert main([*words, "--images", str(photos)]) == 0
    assert (
        'left out: 1 of the images; say "x".jpg: there is no such file' in capsys.readouterr().out
    )
    content = json.loads((out / "transforms.json").read_text(encoding="utf-8"))
    assert len(content["frames"]) == 4
    for frame in content["frames"]:
        path = frame["file_path"]
        assert (out / path).read_bytes() == (photos / path.removeprefix("images/")).read_bytes()
    marker = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert marker["left_out"] == {ODD[1]: "there is no such file"}
    assert main(words) == 0  # again, without photographs: those of before go
    assert not (out / "images").exists()


class Views(Scene):
    """Names that hloc can hold."""

    def name(self, camera: int) -> str:
        return f"part{camera % 2}/view_{camera:02}.jpg"


def test_hloc_has_the_keypoints_and_matches_of_the_database(tmp_path: Path) -> None:
    scene = Views(cameras=4, orientations={1: 6})
    run, model = tmp_path / "run", tmp_path / "run" / "sfm" / "sparse" / "0"
    scene.write(run)
    pipeline.reconstruct(str(run), executor="local", refine="none")
    database = (Path(run) / "sfm" / "database.db").read_bytes()
    summary = pipeline.export_model(model, tmp_path / "out", format="hloc", run=run)
    assert (Path(run) / "sfm" / "database.db").read_bytes() == database
    database = import_pycolmap().Database.open(run / "sfm" / "database.db")
    numbers = {image.name: image.image_id for image in database.read_all_images()}
    raw = raw_matches(run)
    with (
        h5py.File(tmp_path / "out" / "features.h5") as features,
        h5py.File(tmp_path / "out" / "matches.h5") as matches,
    ):
        for name, number in numbers.items():
            keypoints = features[name]["keypoints"][()] + 0.5  # as hloc's import does
            assert np.abs(keypoints - database.read_keypoints(number)[:, :2]).max() < NEAR
        lines = (tmp_path / "out" / "pairs.txt").read_text().splitlines()
        assert len(lines) == summary.counts["pairs"] == 6
        for name0, name1 in map(str.split, lines):
            pair = matches[f"{name0.replace('/', '-')}/{name1.replace('/', '-')}"]
            matches0, scores = pair["matches0"][()], pair["matching_scores0"][()]
            rows = np.flatnonzero(matches0 >= 0)
            true = database.read_matches(numbers[name0], numbers[name1])
            assert np.array_equal(
                np.column_stack([rows, matches0[rows]]), true[true[:, 0].argsort()]
            )
            assert set(scores[rows].tolist()) <= set(raw[name0, name1].tolist())
            assert len(set(scores[rows].tolist())) > 0.9 * len(rows)
            assert not scores[matches0 < 0].any()
    database.close()
    other = model_of(tmp_path / "other", "PINHOLE", names=PLAIN)[1]
    with pytest.raises(ReconstructionError, match=f"{run}: has no image of the model, as "):
        pipeline.export_model(other, tmp_path / "none", format="hloc", run=run)


def raw_matches(run: Path) -> dict[tuple[str, str], np.ndarray]:
    """The scores of every pair's inliers."""
    found = {}
    for path in (run / "matches").iterdir():
        rows = pq.read_table(path)
        names = zip(rows["image0"].to_pylist(), rows["image1"].to_pylist(), strict=True)
        columns = zip(unragged(rows["scores"]), unragged(rows["inliers"]), strict=True)
        found |= {pair: s[i] for pair, (s, i) in zip(names, columns, strict=True)}
    return found


def test_a_run_without_a_database_is_refused(tmp_path: Path) -> None:
    _, folder = model_of(tmp_path, "PINHOLE", names=PLAIN)
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match=r"has no sfm/database\.db; run eloftr reconstruct"):
        pipeline.export_model(folder, tmp_path / "out", format="hloc", run=tmp_path / "run")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "models", "sentence"),
    [
        ("nvm", ["OPENCV"], "camera 3: is OPENCV, and nvm knows SIMPLE_PINHOLE, PINHOLE, SIMPLE_R"),
        (
            "nerf",
            ["FULL_OPENCV"],
            "camera 3: is FULL_OPENCV, and nerf knows .*; export --format de",
        ),
        ("nerf", ["PINHOLE", "FISHEYE"], "cameras with and without fisheye lenses"),
        ("openmvg", ["FOV"], "camera 3: is FOV, and openmvg knows"),
        ("kapture", ["FISHEYE"], "camera 3: is FISHEYE, and kapture knows"),
    ],
)
def test_a_camera_that_a_format_does_not_know_is_one_sentence(
    form: str, models: list[str], sentence: str, tmp_path: Path
) -> None:
    _, folder = model_of(tmp_path, *models, names=["1.jpg", "2.jpg", "3.jpg"])
    with pytest.raises(ReconstructionError, match=sentence):
        pipeline.export_model(folder, tmp_path / "out", format=form)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", ["nvm", "openmvg"])
def test_two_focal_lengths_are_refused_where_one_fits(form: str, tmp_path: Path) -> None:
    camera = ModelCamera("PINHOLE", *SIZE, (300.0, 301.0, 160.0, 120.0))
    folder = written(exact({1: camera}, ["1.jpg", "2.jpg", "3.jpg"]), tmp_path / "model")
    with pytest.raises(ReconstructionError, match="has focal lengths 300 and 301, and"):
        pipeline.export_model(folder, tmp_path / "out", format=form)


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *((form, "a b.jpg") for form in ("colmap-text", "nvm", "hloc")),
        *((form, "../1.jpg") for form in ("nerf", "openmvg", "kapture", "dense", "hloc")),
        *(("kapture", name) for name in ("a,b.jpg", " a.jpg")),
        ("nerf", "/photos/1.jpg"),
        ("dense", "a.jpg "),
    ],
)
def test_a_name_that_readers_would_misread_is_refused(form: str, name: str, tmp_path: Path) -> None:
    _, folder = model_of(tmp_path, "PINHOLE", names=[name, "2.jpg", "3.jpg"])
    (tmp_path / "photos").mkdir()
    given: dict[str, Any] = {"images": tmp_path / "photos"} if form == "dense" else {}
    if form == "hloc":
        (tmp_path / "sfm").mkdir()
        for part in ("database.db", "keypoints.parquet"):
            (tmp_path / "sfm" / part).touch()
        given = {"run": tmp_path}
    with pytest.raises(ReconstructionError, match=f"{form} cannot hold this name, which"):
        pipeline.export_model(folder, tmp_path / "out", format=form, **given)


@pytest.mark.parametrize(
    ("form", "given", "sentence"),
    [
        ("dense", {}, "format dense: needs the photographs; give --images"),
        ("ply", {"images": "."}, "format ply: uses no photographs; leave --images out"),
        ("hloc", {}, "format hloc: needs a run folder; give --run"),
        ("ply", {"run": "."}, "format ply: uses no run; leave --run out"),
        ("obj", {}, "format 'obj': unknown; give one of colmap-text"),
    ],
)
def test_options_that_do_not_fit_a_format_are_refused(
    form: str, given: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        pipeline.export_model(tmp_path, tmp_path / "out", format=form, **given)


def test_the_model_and_other_results_are_never_written_over(tmp_path: Path) -> None:
    _, folder = model_of(tmp_path, "PINHOLE")
    for inside in (folder, folder / "out"):
        with pytest.raises(ReconstructionError, match="lies in the model itself"):
            pipeline.export_model(folder, inside, format="ply")
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(ReconstructionError, match="lies inside a folder of photographs"):
        pipeline.export_model(folder, photos / "out", format="nerf", images=photos)
    pipeline.export_model(folder, tmp_path / "out", format="ply")
    with pytest.raises(StorageError, match=r"holds points\.ply, which is no export as openmvg"):
        pipeline.export_model(folder, tmp_path / "out", format="openmvg")
    with pytest.raises(StorageError, match=r"holds export\.json, which is no export as nerf"):
        pipeline.export_model(folder, tmp_path / "out", format="nerf")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(StorageError, match=r"holds notes\.txt"):
        pipeline.export_model(folder, tmp_path / "mine", format="ply")
    with pytest.raises(ReconstructionError, match=r"holds no images.bin or images.txt"):
        pipeline.export_model(tmp_path, tmp_path / "new", format="ply")


def test_an_export_that_was_stopped_is_made_again_whole(tmp_path: Path) -> None:
    _, folder = model_of(tmp_path, "PINHOLE")
    out = tmp_path / "out"
    pipeline.export_model(folder, out, format="ply")
    whole = bytes_of(out)
    (out / "export.json").unlink()  # as a process leaves it that is killed before the end
    (out / ".export" / "made").mkdir(parents=True)
    (out / ".export" / "made" / "points.ply").write_text("half")
    pipeline.export_model(folder, out, format="ply")
    assert bytes_of(out) == whole


def test_a_damaged_model_is_one_sentence(tmp_path: Path) -> None:
    _, folder = model_of(tmp_path, "PINHOLE")
    (folder / "images.bin").write_bytes((folder / "images.bin").read_bytes()[:500])
    with pytest.raises(ReconstructionError, match=r"cannot read this model|process of COLMAP was"):
        pipeline.export_model(folder, tmp_path / "out", format="ply")
    assert not (tmp_path / "out" / "export.json").exists()


def test_photographs_and_results_may_be_at_urls(tmp_path: Path) -> None:
    scene, folder = model_of(tmp_path, "SIMPLE_RADIAL")
    draw(scene, tmp_path / "photos", ODD[2])
    memory = fsspec.filesystem("memory")
    try:
        memory.put(str(tmp_path / "photos"), "/exports/photos", recursive=True)
        for images, out in (("memory://exports/photos", "memory://exports/out"), ("photos", "out")):
            here = images if "://" in images else tmp_path / images
            there = out if "://" in out else tmp_path / out
            summary = pipeline.export_model(folder, there, format="dense", images=here)
            assert summary.left_out == {ODD[2]: "there is no such file"}
        memory.get("/exports/out", str(tmp_path / "fetched"), recursive=True)
        assert bytes_of(tmp_path / "fetched") == bytes_of(tmp_path / "out")
    finally:
        memory.rm("/exports", recursive=True)
        shutil.rmtree(tmp_path / "photos")
