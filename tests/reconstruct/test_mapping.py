"""Images that nothing holds in place do not stay in a mapped model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rendered import tracks_of, views_of
from synthetic_run import Scene

import pipeline
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.mapping import MappingOptions, _without_strays, remove_strays

pytestmark = pytest.mark.usefixtures("kept_processes")

CAMERAS = 5


def whole() -> Any:
    """A model of five images, each with a camera of its own."""
    scene = tracks_of(views_of(CAMERAS), points=150, seed=0)
    cameras = {int(number): scene.views.cameras[1] for number in scene.views.numbers}
    views = replace(scene.views, camera=scene.views.numbers.copy(), cameras=cameras)
    return replace(scene, views=views).made()


def absurd_focal_length(model: Any) -> None:
    model.cameras[3].params = [-1.9e6, 160.0, 120.0, 0.0]


def absurd_distortion(model: Any) -> None:
    model.cameras[3].params = [300.0, 160.0, 120.0, 9e5]


def no_points(model: Any) -> None:
    for keypoint, point in enumerate(model.images[3].points2D):
        if point.has_point3D():
            model.delete_observation(3, keypoint)


@pytest.mark.parametrize("harm", [absurd_focal_length, absurd_distortion, no_points])
def test_an_image_that_nothing_holds_is_taken_out(harm: Callable[[Any], None]) -> None:
    model = whole()
    assert not remove_strays(model)
    harm(model)
    assert remove_strays(model)
    assert sorted(model.reg_image_ids()) == [1, 2, 4, 5]
    assert model.num_points3D() > 100


def test_a_model_of_nothing_else_stays_as_it_is() -> None:
    model = whole()
    for camera in model.cameras.values():
        camera.params = [-1.9e6, 160.0, 120.0, 0.0]
    assert not remove_strays(model)
    assert model.num_reg_images() == CAMERAS


def test_what_is_taken_out_is_tried_once_more(tmp_path: Path) -> None:
    Scene(cameras=5).write(tmp_path / "run")
    pipeline.reconstruct(str(tmp_path / "run"))
    pycolmap = import_pycolmap()
    model = pycolmap.Reconstruction(str(tmp_path / "run/sfm/sparse/0"))
    image = model.images[min(model.reg_image_ids())]
    model.cameras[image.camera_id].params = [-1.9e6, 0.0, 0.0, 0.0]
    how = pycolmap.IncrementalPipelineOptions(random_seed=0, extract_colors=False)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    again = _without_strays(model, tmp_path / "run/sfm/database.db", scratch, how)
    assert again.num_reg_images() == 5
    focal = [camera.mean_focal_length() for camera in again.cameras.values()]
    assert min(focal) > 0
    assert MappingOptions().max_error > again.compute_mean_reprojection_error()
