"""Known poses: every format that holds them, triangulation with them, priors, pairs, mistakes."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pycolmap
import pytest
from rendered import Rendered, render
from scipy.spatial.transform import Rotation
from synthetic_run import Scene
from test_documentation import commands, shape

import pipeline
from pipeline.cli import main
from pipeline.errors import PairListError, ReconstructionError
from pipeline.execute.executor import Executor
from pipeline.pairs.pair_list import read_pairs
from pipeline.pairs.poses.angles import (
    GIMBAL,
    OMEGA_PHI_KAPPA,
    YAW_PITCH_ROLL,
    rotations_of_angles,
)
from pipeline.pairs.poses.known import KnownPoses, Poses
from pipeline.pairs.poses.read import read_poses
from pipeline.pairs.spatial import geodetic, on_earth
from pipeline.reconstruct.exports.nerf import write_nerf
from pipeline.reconstruct.poses.contradictions import check_poses
from pipeline.reconstruct.poses.options import PoseOptions
from pipeline.reconstruct.poses.priors import positions_of_poses, rotation_notes
from pipeline.reconstruct.positions.align import align_models
from pipeline.reconstruct.summary import ReconstructionSummary
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews, SparseModel

pytestmark = pytest.mark.usefixtures("kept_processes")

QUATERNIONS = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")
GL = np.diag([1.0, -1, -1])
SCENE = Scene()
NAMES = [SCENE.name(camera) for camera in range(SCENE.cameras)]
ROTATIONS, SHIFTS, CENTRES = (
    np.array(SCENE.rotations),
    np.array(SCENE.translations),
    SCENE.centres(),
)
PARAMS = (SCENE.focal, SCENE.focal, SCENE.size[0] / 2, SCENE.size[1] / 2)
MAX_ERROR = 4.0  # pixels
# The same scene in a world of other axes, and not around its origin.
WORLD = Rotation.from_rotvec([0.7, -0.4, 0.9]).as_matrix()
MOVED = CENTRES @ WORLD + [3.0, -4.0, 2.0]
TURNED = Poses.of_rotations(ROTATIONS @ WORLD, MOVED)


def quaternions(rotations: np.ndarray) -> np.ndarray:
    found: np.ndarray = Rotation.from_matrix(rotations).as_quat()[:, [3, 0, 1, 2]]
    return found


def write_csv(path: Path, header: tuple[str, ...], rows: np.ndarray) -> Path:
    lines = [
        ",".join([name, *map(repr, row)]) for name, row in zip(NAMES, rows.tolist(), strict=False)
    ]
    path.write_text("\n".join([",".join(["image", *header]), *lines]) + "\n")
    return path


def views_of_scene(names: list[str] = NAMES) -> ModelViews:
    count = len(names)
    camera = ModelCamera("PINHOLE", *SCENE.size, PARAMS)
    numbers = np.arange(1, count + 1)
    ones = np.ones(count, np.int64)
    return ModelViews(names, numbers, ones, ROTATIONS[:count], SHIFTS[:count], {1: camera})


def model_of_scene() -> Any:
    """A COLMAP model without points."""
    nothing = np.empty(0, np.int64)
    empty = np.empty((0, 3)), np.empty((0, 3), np.uint8), nothing, nothing, np.empty((0, 2))
    return SparseModel(views_of_scene(), *empty).made()


def colmap_binary(folder: Path) -> Path:
    target = folder / "model"
    target.mkdir()
    model_of_scene().write_binary(target)
    return target


def colmap_text(folder: Path) -> Path:
    """images.txt and cameras.txt alone, as people write them by hand."""
    target = folder / "text"
    target.mkdir()
    lines = ["# images"]
    for row, name in enumerate(NAMES):
        numbers = [*quaternions(ROTATIONS)[row].tolist(), *SHIFTS[row].tolist()]
        lines += [f"{row + 1} {' '.join(map(repr, numbers))} 1 {name}", ""]
    (target / "images.txt").write_text("\n".join(lines) + "\n")
    params = " ".join(map(str, PARAMS))
    (target / "cameras.txt").write_text(f"1 PINHOLE {SCENE.size[0]} {SCENE.size[1]} {params}\n")
    return target


def images_txt(folder: Path) -> Path:
    return colmap_text(folder) / "images.txt"


def table(folder: Path) -> Path:
    both = np.column_stack([quaternions(ROTATIONS), SHIFTS])
    return write_csv(folder / "poses.csv", QUATERNIONS, both)


def parquet(folder: Path) -> Path:
    both = np.column_stack([quaternions(ROTATIONS), SHIFTS])
    columns = {"image": NAMES, **dict(zip(QUATERNIONS, both.T, strict=True))}
    pq.write_table(pa.table(columns), folder / "poses.parquet")
    return folder / "poses.parquet"


def centres_table(folder: Path) -> Path:
    both = np.column_stack([CENTRES, quaternions(ROTATIONS)])
    return write_csv(folder / "centres.csv", ("x", "y", "z", "qw", "qx", "qy", "qz"), both)


def angles_of(axes: str, matrices: np.ndarray) -> np.ndarray:
    return Rotation.from_matrix(matrices).as_euler(axes, degrees=True)


# North, east, down of east, north, up; and the axes of a camera that looks down, and ahead, in
# those of an aircraft: the first column is its x.
NED = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
DOWN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
AHEAD = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])


def omega_table(folder: Path) -> Path:
    angles = angles_of("XYZ", ROTATIONS.transpose(0, 2, 1) @ GL)
    both = np.column_stack([CENTRES, angles])
    return write_csv(folder / "opk.csv", ("x", "y", "z", *OMEGA_PHI_KAPPA), both)


def yaw_table(folder: Path) -> Path:
    angles = angles_of("ZYX", NED @ ROTATIONS.transpose(0, 2, 1) @ DOWN.T)
    both = np.column_stack([CENTRES, angles])
    return write_csv(folder / "ypr.csv", ("x", "y", "z", *YAW_PITCH_ROLL), both)


def gimbal_table(folder: Path) -> Path:
    angles = angles_of("ZYX", NED @ ROTATIONS.transpose(0, 2, 1) @ AHEAD.T)
    both = np.column_stack([CENTRES, angles])
    return write_csv(folder / "gimbal.csv", ("x", "y", "z", *GIMBAL), both)


def transforms(folder: Path, axes: np.ndarray = GL, **more: Any) -> Path:
    """As other programs write it, in this project's axes where `axes` says so."""
    frames = []
    for row, name in enumerate(NAMES):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = ROTATIONS[row].T @ axes, CENTRES[row]
        frames.append({"file_path": f"./images/{name}", "transform_matrix": matrix.tolist()})
    width, height = SCENE.size
    camera = {"fl_x": SCENE.focal, "w": width, "h": height, "cx": width / 2, "cy": height / 2}
    path = folder / "transforms.json"
    path.write_text(json.dumps({**camera, **more, "frames": frames}))
    return path


Writer = Callable[[Path], Path]
WRITERS: list[Writer] = [
    *(colmap_binary, colmap_text, images_txt, table, parquet, centres_table),
    *(omega_table, yaw_table, gimbal_table, transforms),
]


class Made(NamedTuple):
    """A run, and what was made of it with known poses."""

    folder: Path
    run: Path
    summary: ReconstructionSummary

    @property
    def database(self) -> Path:
        return self.run / "sfm" / "database.db"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, kept_processes: None) -> Made:
    """All images but the last one have poses."""
    folder = tmp_path_factory.mktemp("poses")
    SCENE.write(folder / "run")
    poses = write_csv(
        *(folder / "poses.csv", QUATERNIONS),
        np.column_stack([quaternions(ROTATIONS), SHIFTS])[:-1],
    )
    summary = pipeline.reconstruct(str(folder / "run"), poses=poses, refine="none")
    return Made(folder, folder / "run", summary)


def resolved(path: Path) -> KnownPoses:
    from pipeline.names.resolve import Resolver

    return read_poses(path, known=Resolver(NAMES))


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
def test_every_format_tells_the_same_poses(writer: Writer, tmp_path: Path) -> None:
    found = resolved(writer(tmp_path))
    rows = [found.names.index(name) for name in NAMES]
    assert found.poses is not None
    assert np.allclose(found.poses.rotations()[rows], ROTATIONS, atol=1e-9)
    assert np.allclose(found.centres[rows], CENTRES, atol=1e-9)
    assert np.allclose(found.poses.shift[rows], SHIFTS, atol=1e-9)


def test_angles_mean_what_the_page_says() -> None:
    def axes(kind: tuple[str, str, str], *degrees: float) -> list[list[float]]:
        (rotation,) = rotations_of_angles(kind, np.array([degrees], float))
        right, down, ahead = rotation
        return [np.round(axis, 6).tolist() for axis in (right, -down, ahead)]

    east, north, up = np.eye(3).tolist()
    west, south, below = (-np.eye(3)).tolist()
    straight_down = [east, north, below]  # right and top of the photograph, and its view
    assert axes(OMEGA_PHI_KAPPA, 0, 0, 0) == straight_down
    assert axes(OMEGA_PHI_KAPPA, 90, 0, 0) == [east, up, north]
    assert axes(OMEGA_PHI_KAPPA, 0, 0, 90) == [north, west, below]
    assert axes(YAW_PITCH_ROLL, 0, 0, 0) == straight_down
    assert axes(YAW_PITCH_ROLL, 90, 0, 0) == [south, east, below]
    assert axes(YAW_PITCH_ROLL, 0, 90, 0) == [east, up, north]
    assert axes(YAW_PITCH_ROLL, 0, 0, 90) == [below, north, west]
    assert axes(GIMBAL, 0, -90, 0) == straight_down
    assert axes(GIMBAL, 90, 0, 0) == [south, up, east]


def test_transforms_json_comes_back_exactly(tmp_path: Path) -> None:
    camera = ModelCamera("OPENCV", 720, 540, (800.0, 790.0, 355.5, 271.0, 0.1, -0.02, 1e-3, 2e-3))
    views = replace(views_of_scene(), cameras={1: camera})
    scene = replace(SparseModel.of(model_of_scene()), views=views)
    write_nerf(scene, tmp_path)
    found = resolved(tmp_path / "transforms.json")
    assert found.names == NAMES
    assert found.poses is not None
    assert np.abs(found.poses.rotations() - ROTATIONS).max() < 1e-15
    assert np.abs(found.poses.shift - SHIFTS).max() < 1e-14
    (taken,) = found.intrinsics
    assert (taken.model, taken.params, taken.size) == (camera.model, camera.params, (720, 540))
    assert list(taken.images) == NAMES


@pytest.mark.parametrize(
    ("more", "model"),
    [
        ({}, "PINHOLE"),
        ({"k1": 0.1}, "OPENCV"),
        ({"k1": 0.1, "k3": 0.01}, "FULL_OPENCV"),
        ({"camera_model": "OPENCV_FISHEYE", "k4": 0.01}, "OPENCV_FISHEYE"),
        ({"is_fisheye": True}, "OPENCV_FISHEYE"),
    ],
)
def test_cameras_of_transforms_json(tmp_path: Path, more: dict[str, Any], model: str) -> None:
    (entry,) = resolved(transforms(tmp_path, **more)).intrinsics
    assert (entry.model, entry.params[:4], entry.fixed) == (model, PARAMS, True)


def test_fixed_poses_stay_to_the_last_bit(made: Made) -> None:
    model = pycolmap.Reconstruction(str(made.run / "sfm" / "sparse" / "0"))
    images = {image.name: image for image in model.images.values() if image.has_pose}
    assert sorted(images) == sorted(NAMES[:-1])
    for row, name in enumerate(NAMES[:-1]):
        pose = images[name].cam_from_world()
        given = quaternions(ROTATIONS)[row]
        assert pose.rotation.quat[[3, 0, 1, 2]].tolist() == given.tolist()
        assert pose.translation.tolist() == SHIFTS[row].tolist()


def test_points_of_fixed_poses_lie_where_they_are(made: Made) -> None:
    scene = read_scene(made.run / "sfm" / "sparse" / "0")
    nearest = np.linalg.norm(scene.xyz[:, None] - SCENE.points[None], axis=2).min(axis=1)
    assert len(scene.xyz) > 600
    assert np.median(nearest) < 0.02  # the cameras are 6.5 away
    assert made.summary.models[0].error < 1.0


def test_images_without_a_pose_are_named(made: Made) -> None:
    assert made.summary.unregistered == [NAMES[-1]]
    (note,) = [note for note in made.summary.notes if "without a pose" in note]
    assert note == f"1 image without a pose in poses.csv not in the model: {NAMES[-1]}"


@pytest.mark.parametrize(
    ("convention", "matrices", "axes"),
    [
        ("camera to world with the axes of OpenCV (y down, z forward)", "world", np.eye(3)),
        ("world to camera with the axes of OpenGL (y up, z backward)", "camera", GL),
        ("camera to world with the axes of OpenGL (y up, z backward)", "world", GL),
    ],
)
def test_poses_in_another_convention_are_noticed(
    made: Made, tmp_path: Path, convention: str, matrices: str, axes: np.ndarray
) -> None:
    rotation, shift = axes @ ROTATIONS, SHIFTS @ axes
    if matrices == "world":
        rotation, shift = rotation.transpose(0, 2, 1), CENTRES
    wrong = write_csv(
        tmp_path / "wrong.csv", QUATERNIONS, np.column_stack([quaternions(rotation), shift])
    )
    with pytest.raises(ReconstructionError) as refused:
        check_poses(made.database, resolved(wrong), MAX_ERROR)
    assert str(refused.value).startswith(
        "wrong.csv: its poses, read as world to camera with the axes of OpenCV"
    )
    assert f"they fit when they are read as {convention}" in str(refused.value)


@pytest.mark.parametrize(
    ("order", "header", "centred"),
    [
        ("x, y, z, w in the columns qw, qx, qy, qz", ("qw", "qx", "qy", "qz"), False),
        ("w, x, y, z in the columns qx, qy, qz, qw", ("qx", "qy", "qz", "qw"), False),
        ("x, y, z, w in the columns qw, qx, qy, qz", ("qw", "qx", "qy", "qz"), True),
    ],
)
def test_quaternions_in_another_order_are_noticed(
    made: Made, tmp_path: Path, order: str, header: tuple[str, ...], centred: bool
) -> None:
    """Also those of the camera to the world, where the columns of the place are x, y, z."""
    turned = TURNED.rotations()
    numbers = quaternions(turned.transpose(0, 2, 1) if centred else turned)
    if order.startswith("x"):
        numbers = numbers[:, [1, 2, 3, 0]]
    header += ("x", "y", "z") if centred else ("tx", "ty", "tz")
    both = np.column_stack([numbers, MOVED if centred else TURNED.shift])
    path = write_csv(tmp_path / "order.csv", header, both)
    with pytest.raises(ReconstructionError) as refused:
        check_poses(made.database, resolved(path), MAX_ERROR)
    maps = "camera to world" if centred else "world to camera"
    assert f"they fit when they are read as {maps} with the axes of OpenCV" in str(refused.value)
    assert f" and quaternions in the order {order}, so convert" in str(refused.value)


@pytest.mark.parametrize("to_world", [True, False])
def test_priors_in_another_convention_are_named(tmp_path: Path, to_world: bool) -> None:
    turned = TURNED.rotations()
    numbers = quaternions(turned.transpose(0, 2, 1) if to_world else turned)
    places = MOVED if to_world else TURNED.shift
    both = np.column_stack([numbers if to_world else numbers[:, [1, 2, 3, 0]], places])
    path = write_csv(tmp_path / "log.csv", QUATERNIONS, both)
    known = resolved(path)
    trusted = positions_of_poses(known, PoseOptions(str(path), "priors", 0.01))
    models = [model_of_scene()]
    align_models(models, trusted)
    (note,) = rotation_notes(models, known, trusted)
    assert "of log.csv, read as world to camera with the axes of OpenCV (y down, z forward)" in note
    maps = "camera to world" if to_world else "world to camera"
    fits = f"they fit when they are read as {maps} with the axes of OpenCV (y down, z forward)"
    order = "" if to_world else " and quaternions in the order x, y, z, w in the columns qw"
    assert fits + order in note
    assert to_world is note.endswith("z forward)")


def test_transforms_json_with_the_axes_of_opencv_is_noticed(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match=r"fit when .* camera to world .* of OpenCV"):
        check_poses(made.database, resolved(transforms(tmp_path, np.eye(3))), MAX_ERROR)
    path = transforms(tmp_path)
    assert check_poses(made.database, resolved(path), MAX_ERROR) == []


def test_gimbal_angles_under_other_names_are_noticed(made: Made, tmp_path: Path) -> None:
    path = gimbal_table(tmp_path)
    path.write_text(path.read_text().replace("gimbal_", ""))
    with pytest.raises(ReconstructionError, match="the angles gimbal_yaw, gimbal_pitch"):
        check_poses(made.database, resolved(path), MAX_ERROR)


def test_a_wrong_pose_is_named_and_wrong_ones_are_refused(made: Made, tmp_path: Path) -> None:
    both = np.column_stack([quaternions(ROTATIONS), SHIFTS])
    both[2, 4:] += [1.0, -1.0, 0.5]
    path = write_csv(tmp_path / "one.csv", QUATERNIONS, both)
    (note,) = check_poses(made.database, resolved(path), MAX_ERROR)
    assert note == (
        f"the poses of 1 image contradict most of their verified matches; check them: {NAMES[2]}"
    )
    shuffled = write_csv(tmp_path / "all.csv", QUATERNIONS, np.roll(both, 1, axis=0))
    with pytest.raises(ReconstructionError, match="no other usual convention fits"):
        check_poses(made.database, resolved(shuffled), MAX_ERROR)


def test_cameras_of_the_poses_are_kept(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run knows no focal length; without transforms.json nothing tells it."""
    replace(SCENE, prior=False).write(tmp_path / "run")
    words = ["reconstruct", str(tmp_path / "run"), "--refine", "none"]
    assert main([*words, "--poses", str(transforms(tmp_path))]) == 0
    assert "camera 1: 6 images, kept as given, by" in capsys.readouterr().out
    model = pycolmap.Reconstruction(str(tmp_path / "run" / "sfm" / "sparse" / "0"))
    (camera,) = {tuple(camera.params.tolist()) for camera in model.cameras.values()}
    assert camera == PARAMS
    assert main([*words, "--poses", str(table(tmp_path))]) == 2
    error = capsys.readouterr().err
    assert "nothing tells its camera, and of 6 images" in error
    assert "of 6 images with a fixed pose 6 have no known camera; give" in error


def test_poses_as_priors_bring_the_model_to_their_place_on_earth(
    made: Made, tmp_path: Path
) -> None:
    """A log of GNSS in degrees; one accuracy is bad, and the place beside it 8 m off."""
    origin = np.array([50.0, 14.0, 300.0])
    middle = on_earth(origin[None], height=True)
    latitude, longitude = np.radians(origin[:2])
    east = np.array([-np.sin(longitude), np.cos(longitude), 0])
    up = np.array(
        [
            np.cos(latitude) * np.cos(longitude),
            np.cos(latitude) * np.sin(longitude),
            np.sin(latitude),
        ]
    )
    axes = np.stack([east, np.cross(up, east), up])
    places = 10 * CENTRES + np.random.default_rng(0).normal(0, 0.02, CENTRES.shape)
    places[3] += [8, 0, 0]
    degrees = np.array([geodetic(place) for place in middle + places @ axes])
    error = np.where(np.arange(len(NAMES)) == 3, 10.0, 0.02)
    header = ("latitude", "longitude", "altitude", "horizontal_error", "vertical_error", *GIMBAL)
    angles = angles_of("ZYX", NED @ ROTATIONS.transpose(0, 2, 1) @ AHEAD.T)
    both = np.column_stack([degrees, error, error, angles])
    log = write_csv(tmp_path / "log.csv", header, both)
    log.write_text(log.read_text().replace("gimbal_", ""))
    summary = pipeline.reconstruct(
        str(made.run), tmp_path / "out", poses=log, poses_are="priors", refine="none"
    )
    views = ModelViews.of(pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0")))
    rows = [NAMES.index(name) for name in views.names]
    assert len(rows) == len(NAMES)
    off = views.centres() - 10 * CENTRES[rows]
    assert np.linalg.norm(off - np.median(off, axis=0), axis=1).max() < 0.15  # metres
    assert any("models are in metres to the east" in note for note in summary.notes)
    (note,) = [note for note in summary.notes if "the rotations of log.csv" in note]
    assert note.endswith(
        "they fit when they are read as the angles gimbal_yaw, gimbal_pitch, gimbal_roll"
    )
    with pycolmap.Database.open(tmp_path / "out" / "database.db") as opened:
        priors = opened.read_all_pose_priors()
        names = {image.image_id: image.name for image in opened.read_all_images()}
    assert len(priors) == len(NAMES)
    for prior in priors:
        expected = error[NAMES.index(names[prior.corr_data_id.id])]
        assert np.allclose(prior.position_covariance, expected**2 * np.eye(3))


@pytest.fixture(scope="module")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return render(tmp_path_factory.mktemp("photographed") / "images")


def test_tracks_are_measured_again_with_poses_that_stay(
    photographed: Rendered, tmp_path: Path, kept_executor: Executor
) -> None:
    """A database whose keypoints are 1 px off, as another program may have made it."""
    scene, images = photographed.scene, photographed.images
    views = scene.views
    with pycolmap.Database.open(tmp_path / "given.db") as opened:
        camera = views.cameras[1].made()
        camera.has_prior_focal_length = True
        opened.write_camera(camera, use_camera_id=True)
        rows = scene.keypoint_rows()
        for row, name in enumerate(views.names):
            image = pycolmap.Image(name=name, camera_id=1, image_id=row + 1)
            opened.write_image(image, use_image_id=True)
            opened.write_keypoints(row + 1, scene.xy[scene.view == row].astype(np.float32))
        for first in range(len(views)):
            for second in range(first + 1, len(views)):
                of = [
                    dict(zip(scene.point[scene.view == k], rows[scene.view == k], strict=True))
                    for k in (first, second)
                ]
                shared = sorted(of[0].keys() & of[1].keys())
                matches = np.array([[of[0][k], of[1][k]] for k in shared], np.uint32)
                geometry = pycolmap.TwoViewGeometry()
                geometry.config, geometry.inlier_matches = 2, matches
                opened.write_matches(first + 1, second + 1, matches)
                opened.write_two_view_geometry(first + 1, second + 1, geometry)
    lines = ["image,qw,qx,qy,qz,tx,ty,tz"]
    given = quaternions(views.rotation)
    for row, name in enumerate(views.names):
        lines.append(
            ",".join([name, *map(repr, [*given[row].tolist(), *views.shift[row].tolist()])])
        )
    (tmp_path / "poses.csv").write_text("\n".join(lines))
    summary = pipeline.reconstruct(
        database=tmp_path / "given.db",
        output=tmp_path / "out",
        images=str(images),
        poses=tmp_path / "poses.csv",
        refine=RefineOptions(rounds=1, sizes=(800,)),
        executor=kept_executor,
    )
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse" / "0"))
    for row, name in enumerate(views.names):
        pose = model.find_image_with_name(name).cam_from_world()
        assert pose.rotation.quat[[3, 0, 1, 2]].tolist() == given[row].tolist()
        assert pose.translation.tolist() == views.shift[row].tolist()
    found, mapped = read_scene(tmp_path / "out/sparse/0"), read_scene(tmp_path / "out/mapped/0")
    assert summary.models[0].rounds[0].kept
    assert np.median(off_surface(found)) < 0.3 * np.median(off_surface(mapped))
    assert len(found.point) / len(found.xyz) > 1.3 * len(mapped.point) / len(mapped.xyz)


def off_surface(scene: SparseModel) -> np.ndarray:
    """How far points lie from both planes of the drawn scene: (P,)."""
    found: np.ndarray = np.minimum(np.abs(scene.xyz[:, 2]), np.abs(scene.xyz[:, 2] + 0.7))
    return found


def test_pairs_look_the_same_way(tmp_path: Path) -> None:
    """Two rows of cameras, back to back: none is paired with one that looks the other way."""
    places = np.array([[x, y, 0] for y in (0.0, 0.1) for x in range(3)])
    turned = [np.eye(3)] * 3 + [np.diag([-1.0, 1, -1])] * 3
    both = np.column_stack([places, quaternions(np.array(turned))])
    poses = write_csv(tmp_path / "p.csv", ("x", "y", "z", "qw", "qx", "qy", "qz"), both)
    output = tmp_path / "pairs.csv"
    words = ["pairs", "poses", "--poses", str(poses), "--output", str(output)]
    assert main([*words, "--nearest", "2"]) == 0
    names = sorted(NAMES)
    listed = [
        [NAMES.index(names[k]) for k in pair] for pair in read_pairs(str(output), names).pairs
    ]
    assert len(listed) == 6
    assert all((first < 3) == (second < 3) for first, second in listed)
    assert main([*words, "--nearest", "2", "--radius", "1"]) == 0
    assert len(read_pairs(str(output), names).pairs) == 4
    assert main([*words, "--nearest", "5", "--angle", "180"]) == 0
    assert len(read_pairs(str(output), names).pairs) == 15


def test_an_infinite_number_of_a_table_is_named(tmp_path: Path) -> None:
    both = np.column_stack([quaternions(ROTATIONS), SHIFTS])
    both[2, 6] = np.inf
    found = resolved(write_csv(tmp_path / "poses.csv", QUATERNIONS, both))
    assert found.notes == [f"1 row of poses.csv without a pose, as {NAMES[2]} (tz is inf)"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("p.csv", "image,x,y,z\na,1,2,3\n", "holds positions and no rotations"),
        ("p.csv", "image,qw\na,1\n", "needs columns"),
        ("p.csv", "image,qw,qx,qy,qz,tx,ty,tz\na,3,0,0,0,0,0,0\n", "row 1: qw, qx, qy, qz have"),
        ("p.csv", "image,qw,qx,qy,qz,tx,ty,tz\na,1,0,0,0,x,0,0\n", "row 1 has 'x' as tx"),
        ("p.json", "[]", "is no transforms.json"),
        ("p.json", "{", "is no JSON"),
        ("p.json", '{"frames": 3}', "is no transforms.json, as it has no list of frames"),
        ("p.json", '{"frames": [{}]}', "p.json, frame 1: has no file_path"),
        ("p.json", '{"frames": [{"file_path": "a"}]}', "the frame of a has no transform_matrix"),
        (
            "p.json",
            '{"frames": [{"file_path": "a", "transform_matrix": [1, "x"]}]}',
            "transform_matrix of a is no matrix of numbers",
        ),
        (
            "p.json",
            '{"frames": [{"file_path": "a", "transform_matrix": [[1, NaN]]}]}',
            "transform_matrix of a holds nan",
        ),
        (
            "p.csv",
            "a.jpg,1,0,0,0,2,5,3\n",
            "needs columns image, qw, qx, qy, qz, tx, ty, tz, or image and a position with its "
            "height, as latitude, longitude, altitude or x, y, z; its first line, which names the "
            "columns, has a.jpg, 1, 0,",
        ),
        (
            "p.json",
            json.dumps({"frames": [{"file_path": "a", "transform_matrix": [[2, 0], [0, 2]]}]}),
            "transform_matrix of a is no rotation",
        ),
        ("p.txt", "1 1 0 0 0 0 0 0 1 a.jpg\n2 1 0 0 0 1 0 0 1 b.jpg\n", "leave a line empty"),
        ("p.txt", "hello world\n", "line 1: is no image of COLMAP"),
        ("p.txt", "# nothing\n", "holds no pose"),
        ("p.doc", "", "holds no poses by its ending"),
        ("nowhere/p.json", None, "cannot be read"),
    ],
)
def test_files_that_hold_no_poses_are_refused(
    tmp_path: Path, name: str, text: str | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    words = ["pairs", "poses", "--poses", str(tmp_path / name), "--dry-run"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert sentence.removeprefix("holds ") in err
    assert err.count("\n") == 1


def test_a_pose_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = transforms(tmp_path)
    content = json.loads(path.read_text())
    content["frames"].append(content["frames"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(PairListError, match=r"transforms.json: has part0/view 00.jpg twice"):
        resolved(path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--poses", "p.csv", "--positions", "q.csv"], "--poses has positions as well"),
        (["--poses", "p.csv", "--position-error", "1"], "fixed poses do not err"),
        (["--poses", "p.csv", "--poses-are", "priors"], "say by --position-error"),
        (["--poses", "p.csv", "--blocks", "10"], "triangulated as a whole"),
        (["--poses", "other.csv"], "has poses of no image of the run"),
        (["--poses", "xyz.csv"], "has positions and no rotations, and fixed poses need both"),
    ],
)
def test_what_contradicts_is_one_sentence(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path).rename("p.csv")
    Path("other.csv").write_text(Path("p.csv").read_text().replace("view", "photo"))
    write_csv(Path("xyz.csv"), ("x", "y", "z"), CENTRES)
    assert main(["reconstruct", str(made.run), "--output", "out", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_the_commands_of_the_page_print_what_it_shows(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made.run.rename(tmp_path / "run")
    try:
        table(tmp_path)
        documented = [one for one in commands() if one.document == "known_poses.md" and one.output]
        assert len(documented) == 2
        for command in documented:
            printed = io.StringIO()
            with redirect_stdout(printed):
                assert main(shlex.split(command.text)[1:]) == 0
            assert shape(printed.getvalue().replace(f"{tmp_path}/", "")) == shape(command.output)
    finally:
        (tmp_path / "run").rename(made.run)
