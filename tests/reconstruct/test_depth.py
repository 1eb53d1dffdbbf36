from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import render
from synthetic_run import Scene

from pipeline import reconstruct
from pipeline.cli import main
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.depth import Depth, PairDepths, depth_notes, model_depth, pair_depths
from pipeline.reconstruct.mapping import write_mapped
from pipeline.reconstruct.tracks.plan import read_scene

pytestmark = pytest.mark.usefixtures("kept_processes")

pycolmap = import_pycolmap()
SHIFTS = [[0, 0], [60, 10], [-50, 30], [20, -40], [90, 60]]


class Parts(Scene):
    """Parts of one photograph, each in the size of the others."""

    def project(self, camera: int) -> np.ndarray:
        seen = self.points @ self.rotations[0].T + self.translations[0]
        scale = [1, 1.1, 0.9, 1.2, 1][camera] if self.seed else 1
        middle = (np.array(self.size) - 1) / 2
        return seen[:, :2] / seen[:, 2:] * self.focal * scale + middle - SHIFTS[camera]


def turned(scene: Scene, step: float = 0.07) -> Scene:
    """All cameras in one place, each turned further by so many radians."""
    centre = scene.centres()[0]
    for i in range(scene.cameras):
        sine, cosine = np.sin(step * i), np.cos(step * i)
        scene.rotations[i] = (
            np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]]) @ scene.rotations[0]
        )
        scene.translations[i] = -scene.rotations[i] @ centre
    return scene


@pytest.mark.parametrize("cameras", [2, 5])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("prior", [True, False])
def test_parts_of_one_photograph_have_no_depth(
    tmp_path: Path, cameras: int, seed: int, prior: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    Parts(cameras=cameras, noise=0.1, outliers=0.02, seed=seed, prior=prior).write(tmp_path / "run")
    assert main(["reconstruct", str(tmp_path / "run")]) == 1
    text = capsys.readouterr().out
    pairs = cameras * (cameras - 1) // 2
    assert f"in {pairs} of {pairs} verified pairs (part0/view 00.jpg – " in text
    assert "take photographs from different places" in text
    assert "model 0 has no depth" in text or "nothing to map" in text
    assert text.count(" points, no depth") == text.count("images registered, ")


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("prior", [True, False])
def test_pairs_of_a_camera_that_only_turned_are_told(
    tmp_path: Path, noise: float, prior: bool
) -> None:
    turned(Scene(cameras=4, noise=noise, prior=prior, outliers=0.05)).write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert not summary.has_depth()
    assert "in 6 of 6 verified pairs (" in summary.text()


def test_a_scene_has_depth_and_no_note(tmp_path: Path) -> None:
    Scene(cameras=4).write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert summary.has_depth()
    assert [model.depth for model in summary.models] == [Depth.SCENE]
    assert "depth" not in summary.text()
    pairs = pair_depths(tmp_path / "sfm" / "database.db")
    assert (len(pairs.judged), pairs.without) == (6, [])


def test_a_plane_seen_from_different_places_has_depth_and_is_said_to_be_one(
    tmp_path: Path,
) -> None:
    scene = Scene(cameras=5, noise=0.3)
    scene.points[:, 2] = 0
    scene.write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert summary.has_depth()
    assert [model.depth for model in summary.models] == [Depth.PLANE]
    assert "points, a plane" in summary.text()
    assert "model 0 is a plane: its points lie on one" in summary.text()
    assert pair_depths(tmp_path / "sfm" / "database.db").without == []


def test_turned_views_beside_a_scene_do_not_take_its_depth(tmp_path: Path) -> None:
    scene = Scene(cameras=6)
    for i in (4, 5):  # the last three stand in one place
        scene.rotations[i], scene.translations[i] = scene.rotations[3], scene.translations[3]
    scene.write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert summary.has_depth()
    pairs = pair_depths(tmp_path / "sfm" / "database.db")
    assert len(pairs.without) == 3


def test_several_models_tell_their_images_and_what_they_are(tmp_path: Path) -> None:
    """Two groups of cameras see different halves of nothing in common."""
    scene = Scene(cameras=8)
    rows = [(i, j) for i in range(8) for j in range(i) if (i < 4) == (j < 4)]
    whole = scene.matches_of

    def matches_of(pairs: list[tuple[int, int]]):  # type: ignore[no-untyped-def]
        return whole([pair for pair in pairs if pair in rows or pair[::-1] in rows])

    scene.matches_of = matches_of  # type: ignore[method-assign]
    scene.write(tmp_path)
    summary = reconstruct(str(tmp_path))
    assert [model.images for model in summary.models] == [4, 4]
    assert {name for model in summary.models for name in model.names} == {
        scene.name(i) for i in range(8)
    }
    for model in summary.models:
        assert f"          images {', '.join(model.names)}\n" in summary.text()


def test_a_model_of_few_points_has_no_depth(tmp_path: Path) -> None:
    Scene(cameras=3).write(tmp_path)
    reconstruct(str(tmp_path))
    model = pycolmap.Reconstruction(tmp_path / "sfm" / "sparse" / "0")
    pairs = pair_depths(tmp_path / "sfm" / "database.db")
    assert model_depth(model, pairs)[0] is Depth.SCENE
    for point in list(model.points3D)[10:]:
        model.delete_point3D(point)
    assert model_depth(model, pairs)[0] is Depth.NONE
    (note,) = depth_notes([model], pairs)
    assert note.startswith("model 0 has no depth: it has 10 points; take photographs from more")


def test_observations_behind_their_cameras_are_no_part_of_a_mapped_model(
    tmp_path: Path,
) -> None:
    """The last adjustment of a mapper can lead points there, and their errors have no bound."""
    scene = render(tmp_path / "drawn", count=4).scene
    xyz = scene.xyz.copy()
    xyz[:20] = 2 * scene.views.centres().mean(axis=0) - xyz[:20]
    model = replace(scene, xyz=xyz).made()
    assert model.compute_mean_reprojection_error() > 1e100
    assert write_mapped([model], tmp_path, None).points == [len(xyz) - 20]
    kept = read_scene(tmp_path / "mapped" / "0")
    assert np.isfinite(kept.errors()).all()
    assert kept.mean_error() < 1
    model = replace(scene, xyz=2 * scene.views.centres().mean(axis=0) - scene.xyz).made()
    assert write_mapped([model], tmp_path, None).points == [0]
    assert model_depth(model, PairDepths([], []))[0] is Depth.NONE
