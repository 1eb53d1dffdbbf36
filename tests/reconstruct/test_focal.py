from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import Scene

from pipeline import reconstruct, tables
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.cameras.adjust import adjust_robustly
from pipeline.reconstruct.cameras.focal import SPREAD, steady_focal
from pipeline.reconstruct.cameras.options import CameraOptions

pycolmap = import_pycolmap()


def survey(noise: float = 0.5, relief: float = 2.0, tilt: float = 0.01, seed: int = 0):  # type: ignore[no-untyped-def]
    """(model, true focal length): views straight down on ground of some relief, one camera.

    Heights vary by nothing, so that focal length and height can hardly be told from each other.
    """
    rng = np.random.default_rng(seed)
    focal, width, height, above = 800.0, 800, 600, 100.0
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", focal, width, height)
    model.add_camera_with_trivial_rig(camera)
    points = rng.uniform([-60, -60, -relief], [100, 100, relief], (600, 3))
    seen: dict[int, list[tuple[int, int]]] = {}
    number = 0
    for x in range(0, 60, 20):
        for y in range(0, 60, 20):
            number += 1
            angles = rng.normal(0, tilt, 3)
            down = pycolmap.Rotation3d(angles).matrix() @ np.diag([1.0, -1.0, -1.0])
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(down), -down @ [x, y, above])
            local = points @ down.T + pose.translation
            pixels = local[:, :2] / local[:, 2:] * focal + [width / 2, height / 2]
            pixels += rng.normal(0, noise, pixels.shape)
            inside = np.flatnonzero(((pixels > 0) & (pixels < [width, height])).all(axis=1))
            image = pycolmap.Image(f"{number}.jpg", pixels[inside], camera_id=1, image_id=number)
            model.add_image_with_trivial_frame(image, pose)
            for index, point in enumerate(inside):
                seen.setdefault(int(point), []).append((number, index))
    for point, track in sorted(seen.items()):
        if len(track) > 2:
            elements = [pycolmap.TrackElement(*element) for element in track]
            model.add_point3D(points[point], pycolmap.Track(elements))
    return model, focal


def set_focal(model, focal: float) -> None:  # type: ignore[no-untyped-def]
    params = model.cameras[1].params.copy()
    params[0] = focal
    model.cameras[1].params = params


def test_a_survey_that_tells_little_of_its_focal_length_takes_that_of_exif() -> None:
    model, true = survey(relief=0.1, tilt=0.001)
    set_focal(model, 1.3 * true)
    adjust_robustly(model, 1.0, 1)
    found = model.cameras[1].mean_focal_length()
    assert abs(found / true - 1) > SPREAD
    decision = steady_focal(model, {1: 1.02 * true}, (), 1.0)
    assert decision is not None
    assert decision.found == pytest.approx(found)
    assert decision.kept == pytest.approx(model.cameras[1].mean_focal_length())
    assert abs(decision.kept / true - 1) < SPREAD
    assert abs(decision.kept / true - 1) < abs(found / true - 1) / 2
    assert decision.text().startswith("model 0: its images determine the focal length to ")
    assert model.compute_mean_reprojection_error() < 1


def test_a_focal_length_that_images_determine_stays_whatever_exif_says() -> None:
    model, true = survey(relief=40.0, tilt=0.3)
    adjust_robustly(model, 1.0, 1)
    found = model.cameras[1].params.copy()
    assert found[0] == pytest.approx(true, rel=0.01)
    assert steady_focal(model, {1: 1.3 * true}, (), 1.0) is None
    assert np.array_equal(model.cameras[1].params, found)


def test_cameras_without_a_prior_and_known_ones_are_left_alone() -> None:
    model, true = survey(relief=0.1, tilt=0.001)
    set_focal(model, 1.3 * true)
    before = model.cameras[1].params.copy()
    assert steady_focal(model, {}, (), 1.0) is None
    assert steady_focal(model, {2: true}, (), 1.0) is None
    assert steady_focal(model, {1: true}, {1}, 1.0) is None
    assert steady_focal(model, {1: 1.3 * 1.03 * true}, (), 1.0) is None  # they agree
    assert np.array_equal(model.cameras[1].params, before)


def test_the_report_tells_what_became_of_the_focal_length(tmp_path: Path) -> None:
    scene = Scene(cameras=3, noise=1.0)
    scene.points[:, 2] = 0  # a plane
    scene.write(tmp_path)
    rows = [row | {"focal": 900.0, "camera": "Lens"} for row in scene.images().to_pylist()]
    for path in (tmp_path / "images").iterdir():
        pq.write_table(pa.Table.from_pylist(rows, tables.IMAGES), path)
    summary = reconstruct(str(tmp_path))
    assert "camera 1: 3 images, by EXIF says Lens, 900 px" in summary.text()
    (decision,) = summary.focal
    assert 800 < decision.kept < 900
    assert summary.models[0].focal[1] == pytest.approx(decision.kept)
    assert decision.text() in summary.text()
    known = CameraOptions.parse(intrinsics="SIMPLE_PINHOLE:800,360,270")
    assert reconstruct(str(tmp_path), cameras=known).focal == []
