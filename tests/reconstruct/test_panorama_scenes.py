"""Panoramas and fisheyes of a drawn room, from photographs to models, over both executors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pipeline
from benchmarks.quality.spheres import (
    fisheye_directions,
    gpano,
    panorama_poses,
    photograph,
    room,
    write_fisheyes,
    write_panoramas,
    write_photographs,
)
from pipeline.demo.raycaster import Scene
from pipeline.demo.scene import look_at
from pipeline.demo.truth import DemoTruth, Pose, compare_with_truth
from pipeline.errors import EloftrError, ReconstructionError, RunError
from pipeline.execute.executor import Executor
from pipeline.extras import import_pycolmap
from pipeline.match.options import VerificationOptions
from pipeline.match.verify import VerifyShard
from pipeline.photos.cameras.intrinsics import read_intrinsics
from pipeline.photos.panoramas.sphere import YAWS
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.tables import unragged

HOW: dict[str, Any] = {"long_side": 192, "turns": "off", "scales": "off"}
WIDTH = 512


@pytest.fixture(scope="module", autouse=True)
def _processes(kept_processes: None) -> None:
    """Of all commands here."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> DemoTruth:
    """Three panoramas of the room, and one that cannot be used."""
    folder = tmp_path_factory.mktemp("room") / "photos"
    made = write_panoramas(folder, 3, WIDTH, room())
    Image.new("RGB", (100, 100)).save(folder / "wrong.jpg", xmp=gpano())
    return made


@pytest.fixture(scope="module")
def run(truth: DemoTruth) -> Path:
    """Their matches."""
    output = truth.images.parent / "run"
    summary = pipeline.match(truth.images, output, executor="local", **HOW)
    assert summary["images"] == 3 * len(YAWS) + 1
    assert summary["failed_images"] == {"partial_panorama": 1}
    return output


@pytest.fixture(scope="module")
def model(run: Path) -> Any:
    """Their model."""
    summary = pipeline.reconstruct(str(run), executor="local")
    assert "model 0 holds 3 of 3 panoramas, each a rig of its faces." in summary.notes
    return import_pycolmap().Reconstruction(str(run / "sfm" / "sparse" / "0"))


def test_panoramas_are_where_they_were_taken(model: Any, truth: DemoTruth) -> None:
    errors = compare_with_truth(panorama_poses(model), truth)
    assert not errors.missing
    # Three places tell hardly how a model is turned about the line that they lie on.
    poses = panorama_poses(model)
    for first, second in (("pano_00.jpg", "pano_01.jpg"), ("pano_01.jpg", "pano_02.jpg")):
        found, true = (of[second][0] @ of[first][0].T for of in (poses, truth.poses))
        off = np.degrees(np.linalg.norm(found - true) / np.sqrt(2))
        assert off < 0.5  # a pixel of the panorama has 0.7 degrees
    assert errors.position.max() < 0.02


def test_the_faces_of_a_panorama_stay_rigid(model: Any) -> None:
    rigs = [rig for rig in model.rigs.values() if rig.num_sensors() > 1]
    assert [rig.num_sensors() for rig in rigs] == [len(YAWS)]
    assert model.num_reg_frames() == 3
    for camera in model.cameras.values():
        assert camera.params.tolist() == [camera.width / 2] * 3
    for frame in model.frames.values():
        poses = {}
        for data in frame.data_ids:
            image = model.images[data.id]
            yaw = float(image.name.rpartition("/yaw")[2][:3])
            poses[yaw] = image.cam_from_world()
        for yaw, pose in poses.items():
            between = pose * poses[0.0].inverse()
            assert np.allclose(between.translation, 0, atol=1e-9)
            angle = np.radians(yaw)
            assert np.allclose(between.rotation.matrix()[0], [np.cos(angle), 0, -np.sin(angle)])


def test_points_have_the_colours_of_panoramas(model: Any) -> None:
    colours = np.array([point.color for point in model.points3D.values()])
    assert len(np.unique(colours, axis=0)) > 10


def test_the_database_holds_the_rig_and_its_frames(run: Path, model: Any) -> None:
    pycolmap = import_pycolmap()
    with pycolmap.Database.open(run / "sfm" / "database.db") as opened:
        assert [rig.num_sensors() for rig in opened.read_all_rigs()].count(len(YAWS)) == 1
        frames = [len(frame.data_ids) for frame in opened.read_all_frames()]
        assert sorted(frames) == [len(YAWS)] * 3


def test_matches_map_back_to_the_pixels_of_panoramas(run: Path, truth: DemoTruth) -> None:
    table = pipeline.panorama_matches(run)
    assert table["image0"].to_pylist() == ["pano_00.jpg", "pano_00.jpg", "pano_01.jpg"]
    columns = (unragged(table[name]) for name in ("keypoints0", "keypoints1", "inliers"))
    names = zip(table["image0"].to_pylist(), table["image1"].to_pylist(), strict=True)
    for (name0, name1), points0, points1, inliers in zip(names, *columns, strict=True):
        rays = []
        for name, points in ((name0, points0), (name1, points1)):
            longitude, latitude = ((points + 0.5) / [WIDTH, WIDTH // 2] - 0.5).T * np.pi
            longitude = 2 * longitude
            flat = np.cos(latitude)
            ways = [flat * np.sin(longitude), np.sin(latitude), flat * np.cos(longitude)]
            rays.append(np.stack(ways, axis=1) @ truth.poses[name][0])
        centres = [-R.T @ t for R, t in (truth.poses[name] for name in (name0, name1))]
        baseline = (centres[1] - centres[0]) / np.linalg.norm(centres[1] - centres[0])
        off = np.abs(np.einsum("mi,mi->m", np.cross(rays[0], baseline), rays[1]))[inliers]
        assert np.degrees(np.arcsin(np.median(off))) < 0.5
    one = pipeline.panorama_matches(run, ("pano_01.jpg", "pano_00.jpg"))
    assert one.num_rows == 1


def test_faces_are_written_as_the_pictures_of_the_model(
    run: Path, model: Any, tmp_path: Path
) -> None:
    assert pipeline.write_faces(str(run), tmp_path) == 3 * len(YAWS)
    for image in model.images.values():
        with Image.open(tmp_path / image.name) as face:
            assert face.size == (image.camera.width, image.camera.height)


def test_a_list_names_panoramas_and_the_same_command_goes_on(
    truth: DemoTruth, kept_executors: Executor, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.txt").write_text("pano_00.jpg pano_01.jpg\npano_01.jpg none.jpg\n")
    how = {**HOW, "pairs": tmp_path / "pairs.txt", "executor": kept_executors, "max_pairs": 12}
    summary = pipeline.match(truth.images, tmp_path / "run", **how)
    assert summary["planned_pairs"] == len(YAWS) ** 2
    assert summary["failed"] == {"unknown_image": 1}
    whole = {
        (row["image0"], row["image1"]): row for row in pq.read_table(run / "matches").to_pylist()
    }
    found = pq.read_table(tmp_path / "run" / "matches").to_pylist()
    assert len(found) == len(YAWS) ** 2
    # Every number of a pair is that of the run on this machine, whose shards are others.
    assert all(row == whole[row["image0"], row["image1"]] for row in found)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")}
    (tmp_path / "run" / "done" / "00000001.json").unlink()
    again = pipeline.match(truth.images, tmp_path / "run", **how)
    assert 0 < again["session"]["pairs"] <= 12
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.parquet")}
    with pytest.raises(RunError, match="panoramas was auto, now off"):
        pipeline.match(truth.images, tmp_path / "run", panoramas="off", **HOW)


def test_what_cannot_be_asked_of_panoramas_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="blocks would part the faces"):
        pipeline.reconstruct(str(run), tmp_path / "sfm", blocks=20, executor="local")
    with pytest.raises(EloftrError, match="panoramas 'some': give auto, all, off"):
        pipeline.match(run, tmp_path / "other", panoramas="some")


def test_panoramas_and_photographs_are_one_scene(truth: DemoTruth, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    R, t = truth.poses["pano_01.jpg"]
    steps = [(0.3, 0.2, 0.1), (-0.4, 0.1, 0.0), (0.1, -0.4, 0.2)]
    shifted = [(R, t - R @ np.array(step)) for step in steps]
    K = np.array([[200.0, 0, 127.5], [0, 200, 95.5], [0, 0, 1]])
    rows, columns = np.mgrid[:192, :256]
    ways = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(K).T

    def draw(scene: Scene, pose: Pose) -> np.ndarray:
        return photograph(scene, pose, ways, 200)

    write_photographs(folder, shifted, (256, 192), draw, prefix="photo", scene=room())
    for name in ("pano_00.jpg", "pano_01.jpg", "pano_02.jpg"):
        (folder / name).write_bytes((truth.images / name).read_bytes())
    how = {**HOW, "long_side": 320}
    pipeline.match(folder, tmp_path / "run", executor="local", **how)
    # The cameras of faces are known, whatever is said of all images.
    cameras = CameraOptions.parse(intrinsics="PINHOLE:200,200,128,96")
    pipeline.reconstruct(str(tmp_path / "run"), cameras=cameras, refine="none", executor="local")
    model = import_pycolmap().Reconstruction(str(tmp_path / "run" / "sfm" / "sparse" / "0"))
    names = {model.images[number].name for number in model.reg_image_ids()}
    assert {f"photo_{k:02}.jpg" for k in range(3)} <= names
    assert len(names) == 3 * len(YAWS) + 3


FISHEYE = (-0.03, 0.004)


@pytest.fixture(scope="module")
def fisheyes(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoTruth, str]:
    """Four fisheyes of 180 degrees of the room, which look at one wall, and their camera."""
    centres = [(-2.2, 0.2, 1.5), (-0.7, -0.9, 2.2), (0.7, -0.8, 1.2), (2.2, 0.1, 1.8)]
    poses = [look_at(centre, (0, 3, 1.6)) for centre in centres]
    folder = tmp_path_factory.mktemp("fisheye") / "photos"
    return write_fisheyes(folder, poses, 256, FISHEYE, room())


def test_directions_of_the_drawn_fisheye_are_those_of_colmap() -> None:
    ways = fisheye_directions(64, 64 / np.pi, FISHEYE).reshape(-1, 3)
    seen = ways[:, 2] > 0.05
    camera = import_pycolmap().Camera.create_from_model_name(1, "RADIAL_FISHEYE", 1.0, 64, 64)
    camera.params = [64 / np.pi, 32, 32, *FISHEYE]
    rows, columns = np.mgrid[:64, :64]
    xy = np.stack([columns, rows], -1).reshape(-1, 2) + 0.5
    assert np.abs(camera.img_from_cam(ways[seen]) - xy[seen]).max() < 1e-3


def test_known_fisheyes_are_verified_by_their_rays_and_mapped(
    fisheyes: tuple[DemoTruth, str], tmp_path: Path
) -> None:
    truth, camera = fisheyes
    # A further look sees the wall better than what stands before it, and leaves pairs planar.
    how = {**HOW, "long_side": 256, "executor": "local", "looks": 1}
    pipeline.match(truth.images, tmp_path / "run", intrinsics=camera, **how)
    table = pq.read_table(tmp_path / "run" / "matches")
    images = pq.read_table(tmp_path / "run" / "images")
    geometry = {
        (first, second): kind
        for first, second, kind in zip(
            *(table[name].to_pylist() for name in ("image0", "image1", "geometry")), strict=True
        )
    }
    # The pair of both ends matches little but the wall, which may count as a plane.
    assert geometry.pop(("fisheye_00.jpg", "fisheye_03.jpg")) in ("calibrated", "planar")
    assert [*geometry.values()] == ["calibrated"] * 5
    assert table["F"].null_count == table.num_rows
    turns, ways = list[float](), list[float]()
    for name0, name1, pose in zip(
        *(table[name].to_pylist() for name in ("image0", "image1", "pose")), strict=True
    ):
        (R0, t0), (R1, t1) = (truth.poses[name] for name in (name0, name1))
        rotation = import_pycolmap().Rotation3d(np.array(pose[:4])).matrix()
        turns.append(np.degrees(np.linalg.norm(rotation - R1 @ R0.T) / np.sqrt(2)))
        way = t1 - R1 @ R0.T @ t0
        ways.append(np.dot(way / np.linalg.norm(way), pose[4:]))
    # The pairs that look from both ends at the wall have few matches.
    assert np.median(turns) < 2
    assert np.median(ways) > 0.98
    # No fundamental matrix fits bent rays closely.
    strict = VerificationOptions(max_error=0.3)
    plain, known = (
        sum(VerifyShard(strict, cameras)(table, images)["num_inliers"].to_pylist())
        for cameras in ((), read_intrinsics(camera))
    )
    assert known > 1.05 * plain
    summary = pipeline.reconstruct(str(tmp_path / "run"), refine="none", executor="local")
    assert summary.database.fixed_cameras
    model = import_pycolmap().Reconstruction(str(tmp_path / "run" / "sfm" / "sparse" / "0"))
    assert model.num_reg_images() == 4
    (kept,) = model.cameras.values()
    assert np.allclose(kept.params, read_intrinsics(camera)[0].params)
    with pytest.raises(RunError, match="its known cameras"):
        pipeline.match(truth.images, tmp_path / "run", **how)


def test_fisheyes_that_nothing_is_known_of_calibrate_themselves(
    fisheyes: tuple[DemoTruth, str], tmp_path: Path
) -> None:
    truth, _ = fisheyes
    pipeline.match(truth.images, tmp_path / "run", **{**HOW, "long_side": 256}, executor="local")
    cameras = CameraOptions.parse("RADIAL_FISHEYE", "single")
    pipeline.reconstruct(str(tmp_path / "run"), cameras=cameras, executor="local")
    model = import_pycolmap().Reconstruction(str(tmp_path / "run" / "sfm" / "sparse" / "0"))
    (camera,) = model.cameras.values()
    assert model.num_reg_images() == 4
    assert abs(camera.params[0] / (256 / np.pi) - 1) < 0.03


def test_a_camera_that_names_no_image_is_refused(truth: DemoTruth, tmp_path: Path) -> None:
    (tmp_path / "cameras.csv").write_text(
        "images,model,params\nnone.jpg,OPENCV_FISHEYE,200 200 320 320 0 0 0 0\n"
    )
    with pytest.raises(ReconstructionError, match=r"no image of the run is called none\.jpg"):
        pipeline.match(truth.images, tmp_path / "run", intrinsics=tmp_path / "cameras.csv")
