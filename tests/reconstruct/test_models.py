"""Models are looked at and mended: each test knows the answer by how its models are made."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import pipeline
from benchmarks.scale.scenes import FOCAL, HEIGHT, WIDTH, survey
from pipeline.cli import main
from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.models import job
from pipeline.reconstruct.models.align import similarity_of, similarity_of_matrix, similarity_text
from pipeline.reconstruct.models.files import MADE, WRITTEN
from pipeline.reconstruct.models.merge import TrackedModel
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.plan import read_scene
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews

pycolmap = import_pycolmap()
MOVE = Similarity(2.5, Rotation.from_rotvec([0.3, -1.0, 2.0]).as_matrix(), np.array([7.0, -80, 3]))
FILES = {f"{name}.bin" for name in ("cameras", "frames", "images", "points3D", "rigs")}


def made_survey(side: int = 4) -> pycolmap.Reconstruction:
    """A model of a survey without errors: cameras, keypoints and points are the truth."""
    scene = survey(side)
    views = ModelViews(
        [f"{row:03}.jpg" for row in range(len(scene))],
        np.arange(1, len(scene) + 1),
        np.ones(len(scene), np.int64),
        scene.rotation,
        -np.einsum("nij,nj->ni", scene.rotation, scene.centre),
        {1: ModelCamera("SIMPLE_PINHOLE", WIDTH, HEIGHT, (FOCAL, WIDTH / 2, HEIGHT / 2))},
    )
    scene.noise = 0.0
    seen = scene._keypoints(np.random.default_rng(0))
    point = np.concatenate([points for points, _ in seen])
    view = np.repeat(np.arange(len(seen)), [len(points) for points, _ in seen])
    keypoint = np.concatenate([np.arange(len(points)) for points, _ in seen])
    order = np.lexsort((view, point))
    order = order[np.bincount(point)[point[order]] >= 2]
    used, rows = np.unique(point[order], return_inverse=True)
    colour = np.tile([[10, 20, 30]], (len(used), 1)).astype(np.uint8)
    arrays = scene.xyz[used], colour, rows, view[order], keypoint[order]
    return TrackedModel(views, [xy for _, xy in seen], *arrays).made()


def written(model: pycolmap.Reconstruction, folder: Path, kind: str = "binary") -> Path:
    folder.mkdir(parents=True)
    (model.write_binary if kind == "binary" else model.write_text)(folder)
    return folder


def half(model: Path, output: Path, names: list[str]) -> Path:
    """The images of that part of a model."""
    pipeline.crop_model(model, output, images=names)
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def kept_process(kept_executor: Any) -> Iterator[None]:
    """COLMAP's process is one of the suite, which has spent its seconds on imports."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(job, "call", kept_executor.call)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(made_survey(), tmp_path_factory.mktemp("survey") / "model")


@pytest.fixture(scope="module")
def names(plain: Path) -> list[str]:
    return read_scene(plain).views.names


@pytest.fixture(scope="module")
def moved(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in another world."""
    output = tmp_path_factory.mktemp("moved") / "model"
    pipeline.transform_model(plain, output, similarity=similarity_text(MOVE))
    return output


@pytest.fixture(scope="module")
def rigged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a rig of two cameras, all of which see six points."""
    made = pycolmap.Reconstruction()
    cameras = [
        pycolmap.Camera.create_from_model_name(n, "SIMPLE_PINHOLE", 500.0, 640, 480) for n in (1, 2)
    ]
    rig = pycolmap.Rig()
    rig.rig_id = 1
    rig.add_ref_sensor(cameras[0].sensor_id)
    beside = pycolmap.Rigid3d(pycolmap.Rotation3d(), [-0.5, 0, 0])
    rig.add_sensor(cameras[1].sensor_id, beside)
    for camera in cameras:
        made.add_camera(camera)
    made.add_rig(rig)
    xyz = np.random.default_rng(0).uniform([-1, -1, 7], [1, 1, 9], (6, 3))
    for number in range(3):
        frame = pycolmap.Frame()
        frame.frame_id, frame.rig_id = number + 1, 1
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), [0.4 * number, 0.2 * number**2, 0])
        frame.rig_from_world = pose
        images = []
        for side, (camera, local) in enumerate(
            zip(cameras, (pose, beside * pose), strict=True), start=1
        ):
            xy = camera.img_from_cam(xyz @ local.rotation.matrix().T + local.translation)
            images.append(pycolmap.Image(f"{number}-{side}.jpg", xy, side, 2 * number + side))
            frame.add_data_id(images[-1].data_id)
        made.add_frame(frame)
        for image in images:
            image.frame_id = number + 1
            made.add_image(image)
        made.register_frame(number + 1)
    for row, place in enumerate(xyz):
        track = pycolmap.Track()
        for number in range(1, 7):
            track.add_element(number, row)
        made.add_point3D(place, track, np.zeros(3, np.uint8))
    return written(made, tmp_path_factory.mktemp("rig") / "model")


def test_the_numbers_of_a_model_are_those_it_was_made_of(plain: Path) -> None:
    (info,) = pipeline.model_info(plain)
    truth = pycolmap.Reconstruction(str(plain))
    assert (info.images, info.points) == (16, truth.num_points3D())
    assert info.observations == truth.compute_num_observations()
    assert info.track_length == pytest.approx(truth.compute_mean_track_length())
    assert info.error == pytest.approx(0, abs=1e-6)
    assert info.behind == 0
    (camera,) = info.cameras
    assert (camera.model, camera.width, camera.height) == ("SIMPLE_PINHOLE", WIDTH, HEIGHT)
    assert (camera.focal, camera.images) == (FOCAL, 16)
    seen = sorted((image.num_points3D, image.name) for image in truth.images.values())
    assert [(one.points, one.name) for one in info.fewest] == seen[:5]
    assert info.points_of_an_image[::2] == (seen[0][0], seen[-1][0])
    low, high = info.cameras_box
    centres = survey(4).centre
    assert np.allclose([low, high], [centres.min(0), centres.max(0)])
    assert "16, in 16 frames of 1 rig\n" in info.text()


def test_a_model_without_points_has_numbers_too(plain: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(str(plain))
    for number in list(model.point3D_ids()):
        model.delete_point3D(number)
    (info,) = pipeline.model_info(written(model, tmp_path / "bare"))
    assert (info.points, info.error, info.points_box, info.track_length) == (0, None, None, 0)
    assert "mean error –" in info.text()


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("left", [-1, -20, 0.5, 8, 0])
def test_a_file_that_is_cut_off_is_named(
    plain: Path, tmp_path: Path, name: str, left: float
) -> None:
    """COLMAP reads numbers that are not there, or without end."""
    place = Path(shutil.copytree(plain, tmp_path / "model"))
    data = (place / name).read_bytes()
    (place / name).write_bytes(data[: int(len(data) * left) if left == 0.5 else int(left)])
    cause = f"COLMAP cannot read this model ({name} is cut off or damaged)"
    with pytest.raises(ReconstructionError, match=re.escape(f"{place}: {cause}; copy or make it")):
        pipeline.model_info(place)


@pytest.mark.parametrize("what", ["camera 1", "003.jpg", "point 7"])
def test_numbers_that_are_not_finite_are_refused(plain: Path, tmp_path: Path, what: str) -> None:
    model = pycolmap.Reconstruction(str(plain))
    if what == "camera 1":
        model.cameras[1].params = [float("nan"), *model.cameras[1].params[1:]]
    elif what == "point 7":
        model.points3D[7].xyz = [0.0, float("inf"), 0.0]
    else:
        frame = model.images[4].frame_id
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), [float("nan"), 0, 0])
        model.frames[frame].rig_from_world = pose
    place = written(model, tmp_path / "strange")
    moved = partial(pipeline.transform_model, output=tmp_path / "out", scale=2)
    for work in (pipeline.model_info, moved):
        with pytest.raises(ReconstructionError, match=f"{what} has numbers that are not finite"):
            work(place)


def test_images_of_one_name_are_refused(plain: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(str(plain))
    model.images[4].name = model.images[2].name
    place = written(model, tmp_path / "twice")
    with pytest.raises(ReconstructionError, match=f"several images named {model.images[2].name}"):
        pipeline.model_info(place)


def test_json_of_a_model_without_points_is_read_by_strict_parsers(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = pycolmap.Reconstruction(str(plain))
    for number in list(model.point3D_ids()):
        model.delete_point3D(number)
    bare = written(model, tmp_path / "bare")
    words = ["model", "transform", str(bare), "--scale", "2", "--output", str(tmp_path / "out")]

    def refuse(word: str) -> None:
        raise ValueError(word)

    assert main(words) == 0
    assert "mean reprojection error –\n" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert summary["after"]["error"] is None


@pytest.mark.parametrize("kind", ["binary", "text"])
@pytest.mark.parametrize("old", [False, True])
def test_models_of_any_kind_and_age_are_read(
    plain: Path, tmp_path: Path, kind: str, old: bool
) -> None:
    model = written(pycolmap.Reconstruction(str(plain)), tmp_path / "model", kind)
    for path in model.iterdir():
        if old and path.stem in ("rigs", "frames"):  # COLMAP before 3.12 had none
            path.unlink()
    (one,), (other,) = pipeline.model_info(model), pipeline.model_info(plain)
    assert (one.images, one.observations, one.rigs) == (16, other.observations, 1)
    assert one.points_box == pytest.approx(np.array(other.points_box))


def test_a_moved_model_is_equal_and_the_scale_is_known(plain: Path, moved: Path) -> None:
    found = pipeline.compare_models(plain, moved)
    assert found.similarity[0] == pytest.approx(2.5)
    assert found.position.largest < 1e-6
    assert found.rotation.largest < 1e-6
    assert (len(found.images), found.only_in_model, found.only_in_reference) == (16, [], [])
    again = similarity_of(found.similarity)
    assert np.allclose(again.rotation, MOVE.rotation)
    assert np.allclose(again.shift, MOVE.shift)
    assert np.allclose(read_scene(moved).xyz, MOVE(read_scene(plain).xyz))
    assert pipeline.compare_models(moved, plain).similarity[0] == pytest.approx(0.4)


def test_one_camera_that_was_moved_is_the_worst(plain: Path, moved: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(str(moved))
    image = model.find_image_with_name("005.jpg")
    pose = image.cam_from_world()
    turn = pycolmap.Rotation3d(Rotation.from_euler("x", 4, degrees=True).as_matrix())
    centre = image.projection_center() + np.array([3.0, 0, 4])
    rotation = turn * pose.rotation
    made = pycolmap.Rigid3d(rotation, -(rotation.matrix() @ centre))
    model.frames[image.frame_id].set_cam_from_world(image.camera_id, made)
    found = pipeline.compare_models(plain, written(model, tmp_path / "wrong"))
    first, second = found.images[:2]
    assert (first.name, first.position) == ("005.jpg", pytest.approx(5))
    assert first.rotation == pytest.approx(4)
    assert second.position < 1e-6
    assert found.position.median < 1e-6


def test_models_are_compared_by_names_and_not_by_numbers(
    plain: Path, moved: Path, names: list[str], tmp_path: Path
) -> None:
    tracked = TrackedModel.of(pycolmap.Reconstruction(str(moved)))
    tracked.views.numbers[:] = tracked.views.numbers[::-1] + 100
    order = np.argsort(tracked.views.numbers)
    assert order.tolist() != sorted(order)
    other = written(tracked.made(), tmp_path / "other")
    part = half(plain, tmp_path / "part", names[3:])
    found = pipeline.compare_models(part, half(other, tmp_path / "rest", names[:12]))
    assert (len(found.images), found.position.largest < 1e-6) == (9, True)
    assert found.only_in_model == names[12:]
    assert found.only_in_reference == names[:3]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([0, 1], r"has 2 images in common with .*, and 3 are needed"),
        ([0, 1, 2], r"lie on one line, so that nothing tells how it is turned"),
    ],
)
def test_what_cannot_be_compared_is_said(
    plain: Path, tmp_path: Path, rows: list[int], sentence: str
) -> None:
    tracked = TrackedModel.of(pycolmap.Reconstruction(str(plain)))
    for row in rows:
        centre = np.array([10.0 * row, 0, 30])
        tracked.views.shift[row] = -tracked.views.rotation[row] @ centre
    model = written(tracked.made(), tmp_path / "line")
    part = half(model, tmp_path / "part", [tracked.views.names[row] for row in rows])
    with pytest.raises(ReconstructionError, match=sentence):
        pipeline.compare_models(part, model)


def test_models_of_two_scenes_are_not_brought_together(plain: Path, tmp_path: Path) -> None:
    tracked = TrackedModel.of(pycolmap.Reconstruction(str(plain)))
    tracked.views.shift[:] = np.random.default_rng(1).normal(0, 30, (16, 3))
    other = written(tracked.made(), tmp_path / "other")
    with pytest.raises(ReconstructionError, match="no similarity brings the 16 images in common"):
        pipeline.compare_models(other, plain)


@pytest.mark.parametrize("way", ["scale", "matrix", "array", "to"])
def test_every_way_to_move_a_model_moves_it(
    plain: Path, moved: Path, tmp_path: Path, way: str
) -> None:
    matrix = np.column_stack([MOVE.scale * MOVE.rotation, MOVE.shift])
    np.savetxt(tmp_path / "matrix.txt", [*matrix, [0, 0, 0, 1]])
    given = {
        "scale": {"scale": 2.5},
        "matrix": {"matrix": tmp_path / "matrix.txt"},
        "array": {"matrix": matrix},
        "to": {"to": moved},
    }
    before = contents(plain)
    summary = pipeline.transform_model(plain, tmp_path / "out", **given[way])
    expected = read_scene(plain).xyz * 2.5 if way == "scale" else read_scene(moved).xyz
    assert np.allclose(read_scene(tmp_path / "out").xyz, expected)
    assert read_scene(tmp_path / "out").errors().max() < 1e-6
    assert contents(tmp_path / "out").keys() == {*FILES, "points.ply"}
    assert contents(plain) == before
    assert any(note.startswith("moved by the similarity 2.5") for note in summary.notes)
    assert summary.after.points == summary.before[0].points


@pytest.mark.parametrize(
    "text",
    ["1 2 3", "0 1 0 0 0 1 2 3", "1 0 0 0 0 1 2 3", "1 1 0 0 0 1 2 nan", "1 1 0 0 0 1 2 x"],
)
def test_what_is_no_similarity_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^similarity "):
        similarity_of(text)


@pytest.mark.parametrize(
    "text",
    ["1 0 0\n0 1 0\n0 0 1\n", "-1 0 0 0\n0 1 0 0\n0 0 1 0\n", "1 0 0 0\n0 2 0 0\n0 0 1 0\n", ""],
)
def test_what_is_no_matrix_of_a_similarity_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^m\.txt: "):
        similarity_of_matrix(text, "m.txt")


def test_a_rig_stays_one_when_it_is_moved_or_cropped(rigged: Path, tmp_path: Path) -> None:
    pipeline.transform_model(rigged, tmp_path / "large", scale=3)
    large = pycolmap.Reconstruction(str(tmp_path / "large"))
    assert (large.num_rigs(), large.num_frames(), large.num_images()) == (1, 3, 6)
    (sensor,) = large.rigs[1].non_ref_sensors
    assert large.rigs[1].sensor_from_rig(sensor).translation.tolist() == [-1.5, 0, 0]
    assert read_scene(tmp_path / "large").errors().max() < 1e-6
    pipeline.crop_model(rigged, tmp_path / "part", images=["0-1.jpg", "0-2.jpg", "2-2.jpg"])
    part = pycolmap.Reconstruction(str(tmp_path / "part"))
    assert (part.num_rigs(), part.num_frames(), part.num_images()) == (1, 2, 3)
    assert [point.track.length() for point in part.points3D.values()] == [3] * 6
    assert read_scene(tmp_path / "part").errors().max() < 1e-6


def test_a_crop_keeps_exactly_the_points_inside(plain: Path, tmp_path: Path) -> None:
    box = (-5.0, -5, -1, 12, 14, 4)
    before = contents(plain)
    summary = pipeline.crop_model(plain, tmp_path / "out", box=box)
    whole = pycolmap.Reconstruction(str(plain)).points3D
    part = pycolmap.Reconstruction(str(tmp_path / "out"))
    inside = {
        number: point.xyz
        for number, point in whole.items()
        if (point.xyz >= box[:3]).all() and (point.xyz <= box[3:]).all()
    }
    assert 0 < len(inside) < len(whole)
    assert {n: p.xyz.tolist() for n, p in part.points3D.items()} == {
        n: xyz.tolist() for n, xyz in inside.items()
    }
    seeing = {e.image_id for n in inside for e in whole[n].track.elements}
    assert {*part.images} == seeing
    assert all(part.points3D[n].track.length() == whole[n].track.length() for n in inside)
    assert all((point.color == [10, 20, 30]).all() for point in part.points3D.values())
    assert summary.after.points == len(inside)
    assert contents(plain) == before


def test_strays_are_cropped_by_percentiles(plain: Path, tmp_path: Path) -> None:
    model = pycolmap.Reconstruction(str(plain))
    stray = next(iter(model.points3D))
    model.points3D[stray].xyz = [1e5, 0, 0]
    pipeline.crop_model(
        written(model, tmp_path / "stray"), tmp_path / "out", percentile=1, storage={}
    )
    left = pycolmap.Reconstruction(str(tmp_path / "out")).points3D
    assert stray not in left
    assert 0.9 * model.num_points3D() < len(left) < model.num_points3D()


def test_images_of_a_list_keep_what_two_of_them_see(
    plain: Path, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("# some\n" + "\n".join([*names[:3], "gone.jpg"]) + "\n\n")
    summary = pipeline.crop_model(plain, tmp_path / "out", images=tmp_path / "list.txt")
    part = pycolmap.Reconstruction(str(tmp_path / "out"))
    assert sorted(image.name for image in part.images.values()) == names[:3]
    whole = pycolmap.Reconstruction(str(plain))
    seen = {
        number
        for number, point in whole.points3D.items()
        if sum(element.image_id in part.images for element in point.track.elements) >= 2
    }
    assert {*part.points3D} == seen
    for number, image in part.images.items():  # keypoints keep their numbers
        assert len(image.points2D) == len(whole.images[number].points2D)
    assert "not in the model: 1 of the list, gone.jpg" in summary.notes


def test_halves_of_a_model_become_the_whole(
    plain: Path, moved: Path, names: list[str], tmp_path: Path
) -> None:
    one, two = half(plain, tmp_path / "a", names[:10]), half(moved, tmp_path / "b", names[6:])
    before = contents(one), contents(two)
    summary = pipeline.merge_models([one, two], tmp_path / "out")
    assert (contents(one), contents(two)) == before
    found = pipeline.compare_models(tmp_path / "out", plain)
    assert len(found.images) == 16
    assert found.similarity[0] == pytest.approx(1)
    assert found.position.largest < 1e-6
    whole, made = read_scene(plain), read_scene(tmp_path / "out")
    assert made.errors().max() < 1e-4
    assert made.views.names == names
    assert len(made.views.cameras) == 1
    # Every point that two images of one half see is one point, with all observations of the halves.
    seen = [
        {
            row
            for row in range(len(whole.xyz))
            if np.isin(whole.view[whole.point == row], part).sum() >= 2
        }
        for part in (range(10), range(6, 16))
    ]
    assert len(made.xyz) == len(seen[0] | seen[1])
    assert np.unique(np.round(made.xyz, 3), axis=0).shape == made.xyz.shape
    assert len(seen[0] & seen[1]) > 50
    assert f"{len(seen[0] & seen[1])} points united" in summary.notes[0]


def test_merging_does_not_need_the_same_keypoints_or_cameras(
    plain: Path, moved: Path, names: list[str], tmp_path: Path
) -> None:
    """The second model is of other features, of another camera, and has the same numbers."""
    model = pycolmap.Reconstruction(str(moved))
    tracked = TrackedModel.of(model)
    other = [xy + 0.5 for xy in tracked.keypoints]
    params = (FOCAL, WIDTH / 2 + 0.5, HEIGHT / 2 + 0.5)
    tracked.views.cameras[1] = ModelCamera("SIMPLE_PINHOLE", WIDTH, HEIGHT, params)
    tracked.keypoints[:] = other
    tracked.views.numbers[:] = np.roll(tracked.views.numbers, 3)
    order = np.argsort(tracked.views.numbers)
    assert (order != np.arange(16)).all()
    two = half(written(tracked.made(), tmp_path / "whole"), tmp_path / "b", names[6:])
    one = half(plain, tmp_path / "a", names[:10])
    summary = pipeline.merge_models([one, two], tmp_path / "out")
    assert "aligned by the centres of their cameras" in summary.notes[0]
    made = read_scene(tmp_path / "out")
    assert (len(made.views), len(made.views.cameras)) == (16, 2)
    assert len(made.xyz) == summary.before[0].points + summary.before[1].points
    assert pipeline.compare_models(tmp_path / "out", plain).position.largest < 1e-6
    # In common images, keypoints of the second are off by half a pixel in the first's camera.
    assert made.errors().max() == pytest.approx(np.hypot(0.5, 0.5), abs=1e-3)


def test_second_observations_of_united_points_are_left_out_and_counted(
    plain: Path, names: list[str], tmp_path: Path
) -> None:
    tracked = TrackedModel.of(pycolmap.Reconstruction(str(plain)))
    tracked.keypoints[7] = tracked.keypoints[7] + 0.5  # a common image, of other features
    whole = written(tracked.made(), tmp_path / "whole")
    one, two = half(plain, tmp_path / "a", names[:10]), half(whole, tmp_path / "b", names[6:])
    (note,) = pipeline.merge_models([one, two], tmp_path / "out").notes
    second = read_scene(two)
    rows = [second.views.names.index(name) for name in names[6:10]]
    seen = [{*second.point[second.view == row].tolist()} for row in rows]
    doubled = len(seen[1] & (seen[0] | seen[2] | seen[3]))  # the other images tell what is united
    assert doubled > 50
    assert f", {doubled} observations left out: an image sees a point once" in note


def test_a_chain_of_models_is_merged_in_any_order(
    plain: Path, names: list[str], tmp_path: Path
) -> None:
    parts = [half(plain, tmp_path / f"{k}", names[k : k + 8]) for k in (0, 8, 4)]
    summary = pipeline.merge_models(parts, tmp_path / "out")
    assert summary.after.images == 16
    assert [note.split(":")[0] for note in summary.notes] == [str(parts[2]), str(parts[1])]
    with pytest.raises(ReconstructionError, match="has 0 images in common with"):
        pipeline.merge_models(parts[:2], tmp_path / "none")
    assert not {*contents(tmp_path / "none")} & FILES


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_models_are_read_and_written_at_urls(
    plain: Path, names: list[str], tmp_path: Path, scheme: str
) -> None:
    top = "memory://models" if scheme == "memory" else f"file://{tmp_path}"
    for name, data in contents(plain).items():
        fsspec.filesystem(scheme).makedirs(f"{top}/in", exist_ok=True)
        fsspec.filesystem(scheme).pipe_file(f"{top}/in/{name}", data)
    (info,) = pipeline.model_info(f"{top}/in")
    assert (info.model.startswith("memory://"), info.images) == (scheme == "memory", 16)
    pipeline.crop_model(f"{top}/in", f"{top}/out", images=names[:5])
    pipeline.crop_model(f"{top}/in", f"{top}/out", images=names[:7])
    found = pipeline.compare_models(f"{top}/out", plain)
    assert (len(found.images), found.position.largest < 1e-6) == (7, True)
    made = {Path(name).name for name in fsspec.filesystem(scheme).find(f"{top}/out")}
    assert made == {*FILES, "points.ply"}
    with pytest.raises(ReconstructionError, match="is a given model or lies in one"):
        pipeline.transform_model(f"{top}/in", f"{top}/in/large", scale=2)


def test_what_an_output_holds_is_replaced_whole_and_the_rest_stays(
    plain: Path, tmp_path: Path
) -> None:
    output = written(pycolmap.Reconstruction(str(plain)), tmp_path / "out", "text")
    (output / "notes.md").write_text("mine")
    (output / MADE).mkdir()  # of a command that was killed
    (output / MADE / "images.bin").write_bytes(b"half")
    pipeline.transform_model(plain, output, scale=2)
    assert contents(output).keys() == {*FILES, "points.ply", "notes.md"}
    assert np.allclose(read_scene(output).xyz, 2 * read_scene(plain).xyz)


def test_what_is_left_of_a_command_that_is_killed_is_no_mixture_of_models(
    plain: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at every single change of the output, as a kill would."""
    steps = 0
    unlink, replace = Path.unlink, Path.replace

    def stopping(function: Callable, most: int) -> Callable:
        def change(path: Path, *arguments: object, **named: object) -> object:
            nonlocal steps
            if path.name in WRITTEN:
                steps += 1
                if steps > most:
                    raise KeyboardInterrupt
            return function(path, *arguments, **named)

        return change

    worlds = [read_scene(folder).xyz for folder in (plain, moved)]
    read = 0
    for most in range(2, 30, 3):
        output = tmp_path / str(most)
        shutil.copytree(plain, output)
        steps = 0
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", stopping(unlink, most))
            patched.setattr(Path, "replace", stopping(replace, most))
            with suppress(KeyboardInterrupt):
                pipeline.crop_model(moved, output, percentile=20)
        try:
            left = read_scene(output).xyz
        except Exception:
            assert not {"cameras.bin", "cameras.txt"} <= contents(output).keys()
            continue
        read += 1
        assert any(np.isin(left, world).all() for world in worlds)
    assert read > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["info", "nowhere"], "nowhere: holds no images.bin or images.txt; give the folder of one"),
        (["info", "cut"], "cut: COLMAP cannot read this model"),
        (["info", "plain", "--scratch", "x"], "x: is no use as scratch, because all models are in"),
        (["info", "memory://void/model"], "no such folder"),
        (["compare", "plain", "nowhere"], "nowhere: holds no images.bin"),
        (["transform", "plain", "--output", "out"], "transform: needs one way to move the model"),
        (
            ["transform", "plain", "--output", "out", "--scale", "2", "--to", "plain"],
            "transform: needs one way to move the model",
        ),
        (["transform", "plain", "--output", "out", "--scale", "-2"], "scale -2: is no size"),
        (["transform", "plain", "--output", "out", "--matrix", "no.txt"], "cannot be read as text"),
        (["transform", "plain", "--output", "plain", "--scale", "2"], "plain: is a given model or"),
        (["transform", "plain", "--output", "out", "--to", "nowhere"], "nowhere: holds no images"),
        (["crop", "plain", "--output", "out"], "crop: needs to know what to keep"),
        (["crop", "plain", "--output", "out", "--box", "1 2 3"], "box '1 2 3': is no box"),
        (["crop", "plain", "--output", "out", "--box", "0 0 0 1 -1 1"], "is no box"),
        (
            ["crop", "plain", "--output", "o", "--box", "9e3 0 0 9e4 1 1"],
            "no point lies in the box",
        ),
        (["crop", "plain", "--output", "out", "--percentile", "50"], "percentile 50: leaves no"),
        (["crop", "plain", "--output", "out", "--images", "list.txt"], "has none of the 1 images"),
        (
            ["crop", "plain", "--output", "out", "--images", "empty.txt"],
            "empty.txt: names no image",
        ),
        (
            ["crop", "plain", "--output", "out", "--images", "cut"],
            "cut: cannot be read as text (is not a regular file); check the file.",
        ),
        (["crop", "plain", "--output", "cut/a/cameras.bin", "--percentile", "5"], "cannot be writ"),
        (["merge", "plain", "--output", "out"], "merge: needs two models at least"),
        (["merge", "plain", "plain", "--output", "plain/out"], "is a given model or lies in one"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(plain, "plain")
    shutil.copytree(plain, "cut")
    Path("cut/points3D.bin").write_bytes(Path("plain/points3D.bin").read_bytes()[:1000])
    Path("cut/a").write_text("a file")
    Path("list.txt").write_text("gone.jpg\n")
    Path("empty.txt").write_text("# nothing\n")
    before = contents(Path("plain"))
    assert main(["model", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"eloftr model {words[0]}: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert contents(Path("plain")) == before
    assert not (Path("out") / "images.bin").exists()


def test_commands_print_text_json_and_csv(
    plain: Path,
    moved: Path,
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["model", "info", str(plain), str(moved)]) == 0
    assert capsys.readouterr().out.count("observations:") == 2
    assert main(["model", "info", str(plain), "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)["models"]
    assert (info["images"], info["cameras"][0]["model"]) == (16, "SIMPLE_PINHOLE")
    assert main(["model", "compare", str(plain), str(moved), "--csv", "all.csv"]) == 0
    shown = capsys.readouterr().out
    with open("all.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert sorted(row["name"] for row in rows) == names
    assert max(float(row["position"]) for row in rows) < 1e-6
    (line,) = [line for line in shown.splitlines() if line.startswith("similarity:")]
    numbers = line.partition(":")[2].strip()
    assert main(["model", "transform", str(plain), "--output", "b", "--similarity", numbers]) == 0
    assert np.allclose(read_scene(Path("b")).xyz, read_scene(moved).xyz)
    capsys.readouterr()
    assert main(["model", "compare", str(plain), "b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["images"]), found["reference"]) == (16, "b")
    assert main(["model", "merge", str(plain), str(plain), "--output", "c", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["after"]["images"] == 16
