"""Refining a model: what it promises of photographs whose true cameras are known."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from rendered import Rendered, adjusted_model, render, rotation_errors

import pipeline
from pipeline.cli import main
from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.models.refining import RefineSummary
from pipeline.reconstruct.refine.adjust import Freedom, adjusted
from pipeline.reconstruct.refine.cameras import PRINCIPAL, decide_cameras, is_determined
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.photographs import PhotographCache
from pipeline.reconstruct.tracks.plan import plan_round, read_scene
from pipeline.reconstruct.tracks.scene import ModelCamera, SparseModel, project
from pipeline.reconstruct.tracks.surface import normals, references, tied_views
from pipeline.reconstruct.tracks.task import MOST_ATTEMPTS, UNREAD, MeasureReference
from pipeline.reconstruct.tracks.windows import Reference
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")
OPTIONS = RefineOptions(sizes=(200, 320))


@pytest.fixture(scope="module")
def refined(rendered: Rendered, model: Path) -> RefineSummary:
    return pipeline.refine(
        model,
        rendered.images,
        model.parent / "refined",
        options=OPTIONS,
        fixed_cameras=True,
        executor="local",
    )


def test_tracks_become_sharp_and_long_and_cameras_exact(
    rendered: Rendered, model: Path, refined: RefineSummary
) -> None:
    assert [made.kept for made in refined.rounds] == [True, True]
    assert refined.after.images == refined.before.images == 5
    assert refined.after.error < refined.before.error / 10
    assert refined.before.track_length == 3
    assert refined.after.track_length > 4.5
    true = rendered.scene.views
    before, after = (
        rotation_errors(read_scene(folder).views, true) for folder in (model, refined.output)
    )
    assert after.max() < before.max() / 5
    assert np.median(after) < np.median(before) / 10
    assert "mean track length" in (refined.output / "report.txt").read_text()
    told = json.loads((refined.output / "summary.json").read_text())
    assert told["asked"]["model"] == str(model)
    assert told["asked"]["fixed_cameras"] is True
    assert told["after"]["error"] == refined.after.error


def test_the_given_model_and_known_cameras_stay(
    rendered: Rendered, model: Path, refined: RefineSummary
) -> None:
    assert read_scene(refined.output).views.cameras == read_scene(model).views.cameras
    assert (
        SparseModel.of(adjusted_model(rendered.scene)).views.names == read_scene(model).views.names
    )
    assert (
        read_scene(model).xy.tobytes()
        == SparseModel.of(adjusted_model(rendered.scene)).xy.tobytes()
    )


def test_colours_of_points_are_kept(refined: RefineSummary) -> None:
    assert (read_scene(refined.output).colour == 128).all()
    assert (refined.output / "points.ply").stat().st_size > 1000


def test_a_scene_survives_the_way_to_colmap_and_back(rendered: Rendered) -> None:
    scene = rendered.scene
    again = SparseModel.of(scene.made())
    assert np.array_equal(again.point, scene.point)
    assert np.array_equal(again.view, scene.view)
    assert np.array_equal(again.xy, scene.xy)
    assert np.array_equal(again.xyz, scene.xyz)
    assert np.allclose(again.views.rotation, scene.views.rotation, atol=1e-12)
    assert again.views.names == scene.views.names
    assert again.views.cameras == scene.views.cameras
    errors = [point.error for point in scene.made().points3D.values()]
    assert np.isclose(np.mean(errors), scene.mean_error(), rtol=1e-9)


def test_one_definition_of_the_mean_error_is_told_everywhere(refined: RefineSummary) -> None:
    """It is COLMAP's. In a mean of all observations, points that are seen more often count more."""
    told = import_pycolmap().Reconstruction(refined.output).compute_mean_reprojection_error()
    scene = read_scene(refined.output)
    assert not np.isclose(scene.errors().mean(), told, rtol=1e-3)
    (info,) = pipeline.model_info(refined.output)
    last = refined.rounds[-1]
    for found in (scene.mean_error(), refined.after.error, last.error, info.error):
        assert np.isclose(found, told, rtol=1e-6)


def test_errors_are_those_of_every_observation_by_itself(rendered: Rendered) -> None:
    scene = rendered.scene
    # A view without observations, and one that a point lies behind.
    scene = scene.keep(scene.view != 3)
    xyz = scene.xyz.copy()
    xyz[scene.point[0]] = 2 * scene.views.centres()[scene.view[0]]
    scene = replace(scene, xyz=xyz)
    found = scene.errors()
    assert np.isinf(found[0])
    for view in range(len(scene.views)):
        mine = scene.view == view
        seen = project(scene.views, view, scene.xyz[scene.point[mine]])
        errors = np.linalg.norm(seen - scene.xy[mine], axis=1)
        assert np.array_equal(found[mine], np.where(np.isfinite(errors), errors, np.inf))


def test_angles_are_the_largest_between_rays(rendered: Rendered) -> None:
    scene = rendered.scene
    centres = scene.views.centres()
    for row in range(20):
        rays = centres[scene.view[scene.point == row]] - scene.xyz[row]
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        largest = np.arccos((rays @ rays.T).min().clip(-1, 1))
        assert np.isclose(scene.angles()[row], largest, atol=1e-6)


def test_normals_are_those_of_the_planes(rendered: Rendered) -> None:
    scene = rendered.scene
    found = normals(scene, references(scene))
    away = np.abs(scene.xyz[:, 0]) > 0.6  # from the step between the planes
    assert (found[away] @ [0, 0, -1] > 0.99).mean() > 0.9


def test_views_that_share_most_points_are_tied(rendered: Rendered) -> None:
    scene = rendered.scene
    seen = np.zeros((len(scene.views), len(scene.xyz)), bool)
    seen[scene.view, scene.point] = True
    shared = (seen[:, None] & seen[None]).sum(axis=2)
    for view, tied in enumerate(tied_views(scene, 2)):
        others = np.delete(np.arange(5), view)
        assert view not in tied
        assert shared[view, tied].min() >= np.sort(shared[view, others])[-2]


def test_a_window_is_found_where_it_was_moved_to() -> None:
    """The place is right to a hundredth of a pixel under a turn, a stretch and another light."""
    random = np.random.default_rng(0)
    waves = random.normal(0, 0.25, (40, 2))
    phases = random.uniform(0, 2 * np.pi, 40)

    def value(xy: np.ndarray) -> np.ndarray:
        return np.asarray(0.5 + np.sin(xy @ waves.T + phases).sum(axis=-1) / 30)

    y, x = np.mgrid[:120, :160]
    pixels = np.stack([x, y], axis=-1) + 0.5
    turn = np.array([[1.15, 0.2], [-0.1, 0.9]])
    there = np.array([80.3, 61.7])
    here = np.array([70.4, 55.2])
    image = (255 * value(pixels)).round().astype(np.uint8)
    back = (pixels - there) @ np.linalg.inv(turn).T + here
    other = (255 * (0.1 + 0.8 * value(back))).round().astype(np.uint8)
    reference = Reference(image, here[None], radius=7)
    start = np.array([[[1.1, 0.1], [0.0, 1.0]]])
    found = reference.find(other, np.array([0]), there[None] + [[1.2, -0.9]], start, steps=8)
    assert np.abs(found.xy - there).max() < 0.02
    assert found.correlation[0] > 0.999
    assert np.isclose(found.moved[0], 1.5, atol=0.05)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_read_as_they_are_stored(tmp_path: Path, orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    read = PhotographCache(Folder(str(tmp_path)), 100).read(
        "a.png", ModelCamera("PINHOLE", 64, 48, ())
    )
    assert np.array_equal(read, stored)


def test_decoded_photographs_are_kept_within_a_bound(tmp_path: Path) -> None:
    camera = ModelCamera("PINHOLE", 64, 48, ())
    for number in range(5):
        Image.new("L", (64, 48), number).save(tmp_path / f"{number}.png")
    photographs = PhotographCache(Folder(str(tmp_path)), 100, most=2 * 64 * 48)
    for number in (0, 1, 2, 3, 4, 3):
        assert photographs.read(f"{number}.png", camera)[0, 0] == number
    assert list(photographs.kept) == ["4.png", "3.png"]


def copied(rendered: Rendered, to: Path) -> Path:
    return Path(shutil.copytree(rendered.images, to))


def refine(model: Path, images: Path, output: Path, fixed: bool = True) -> RefineSummary:
    return pipeline.refine(
        model, images, output, options=OPTIONS, fixed_cameras=fixed, executor="local"
    )


@pytest.mark.parametrize("harm", ["missing", "truncated", "another size"])
def test_a_photograph_that_cannot_be_read_keeps_its_observations(
    rendered: Rendered, model: Path, tmp_path: Path, harm: str
) -> None:
    images = copied(rendered, tmp_path / "images")
    harmed = images / "2.png"
    if harm == "missing":
        harmed.unlink()
    elif harm == "truncated":
        harmed.write_bytes(harmed.read_bytes()[:5000])
    else:
        Image.open(harmed).resize((400, 300)).save(harmed)
    summary = refine(model, images, tmp_path / "refined")
    assert [made.kept for made in summary.rounds] == [True, True]
    assert [made.weak for made in summary.rounds] == [["2.png"]] * 2
    assert any(failure.startswith("2.png: ") for failure in summary.failures)
    scene = read_scene(summary.output)
    assert len(scene.views) == 5
    assert (np.bincount(scene.view) >= 15).all()
    assert summary.text().count("note: 2.png") >= 1


def test_smaller_copies_of_all_photographs_are_refused_before_any_work(
    rendered: Rendered, model: Path, tmp_path: Path
) -> None:
    images = copied(rendered, tmp_path / "images")
    for path in images.iterdir():
        Image.open(path).resize((400, 300)).save(path)
    with pytest.raises(ReconstructionError, match="png has 400×300 pixels, and its camera "):
        refine(model, images, tmp_path / "refined")
    assert not (tmp_path / "refined" / "refine").exists()


def test_photographs_without_texture_leave_the_model_as_it_was(
    model: Path, rendered: Rendered, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name in rendered.scene.views.names:
        Image.new("L", (320, 240), 90).save(tmp_path / "images" / name)
    summary = refine(model, tmp_path / "images", tmp_path / "refined")
    assert not summary.better
    assert summary.after == summary.before
    assert all(made.why for made in summary.rounds)
    assert "not kept" in summary.text()


def test_images_that_show_something_else_never_make_a_model_worse(
    model: Path, rendered: Rendered, tmp_path: Path
) -> None:
    """PhotographCache in the wrong order: no window is found where the model says."""
    images = tmp_path / "images"
    images.mkdir()
    names = rendered.scene.views.names
    for name, other in zip(names, names[::-1], strict=True):
        shutil.copy(rendered.images / other, images / name)
    summary = refine(model, images, tmp_path / "refined")
    assert summary.after.images == 5
    assert summary.after.error <= summary.before.error


def several_cameras(scene: SparseModel) -> SparseModel:
    """Every view with a camera of its own, whose true principal point is off the centre."""
    camera = scene.views.cameras[1]
    views = replace(
        scene.views,
        camera=scene.views.numbers.copy(),
        cameras={int(number): camera for number in scene.views.numbers},
    )
    return replace(scene, views=views)


def exact(rendered: Rendered, away: tuple[float, float] = (0.0, 0.0)) -> SparseModel:
    """Observations without noise, of a camera whose principal point is so many pixels away."""
    scene = rendered.scene
    xy = np.empty_like(scene.xy)
    for row in range(len(scene.point)):
        view = scene.view[row]
        place = scene.views.rotation[view] @ scene.xyz[scene.point[row]] + scene.views.shift[view]
        xy[row] = 300 * place[:2] / place[2] + [160, 120] + np.array(away)
    noise = np.random.default_rng(3).normal(0, 0.01, xy.shape)
    return replace(scene, xy=xy + noise)


def test_views_of_one_lens_share_a_camera_and_its_principal_point_is_found(
    tmp_path: Path,
) -> None:
    rendered = render(tmp_path / "images", count=7)
    scene = several_cameras(exact(rendered, away=(9.0, -6.0)))
    scene = adjusted(scene, 0.5, Freedom())
    shared, freedom, lines = decide_cameras(scene, 0.5, Freedom())
    assert list(shared.views.cameras) == [1]
    assert set(shared.views.camera.tolist()) == {1}
    assert freedom.principal == {1}
    assert PRINCIPAL in lines[0]
    found = adjusted(shared, 0.5, freedom).views.cameras[1]
    assert np.allclose(found.params[1:3], (169, 114), atol=1.5)


def scattered(rendered: Rendered, away: tuple[float, float], noise: float) -> SparseModel:
    """1,500 points between the surfaces, seen with so many pixels of noise."""
    scene, random = rendered.scene, np.random.default_rng(5)
    views = scene.views
    xyz = random.uniform(scene.xyz.min(0), scene.xyz.max(0), (1500, 3))
    place = np.einsum("vij,pj->vpi", views.rotation, xyz) + views.shift[:, None]
    xy = 300 * place[..., :2] / place[..., 2:] + [160, 120] + np.array(away)
    inside = (np.abs(xy - [160, 120]) < [160, 120]).all(-1)
    view, point = np.nonzero(inside & (inside.sum(0) > 1))
    kept, rows = np.unique(point, return_inverse=True)
    seen = xy[view, point] + random.normal(0, noise, (len(view), 2))
    grey = np.zeros((len(kept), 3), np.uint8)
    return replace(scene, xyz=xyz[kept], colour=grey, view=view, point=rows, xy=seen).sorted()


@pytest.mark.parametrize(("away", "found"), [((9.0, -6.0), True), ((0.0, 0.0), False)])
def test_a_principal_point_is_found_though_noise_hides_what_the_cost_falls_by(
    away: tuple[float, float], found: bool, tmp_path: Path
) -> None:
    rendered = render(tmp_path / "images", count=7)
    scene = adjusted(scattered(rendered, away, 0.07), 0.5, Freedom())
    decided, freedom, lines = decide_cameras(scene, 0.5, Freedom())
    assert freedom.principal == ({1} if found else set())
    if found:
        (share,) = re.findall(r"principal point determined \(cost (0\.\d+) of", lines[0])
        assert 0.95 < float(share) < 0.96
        after = adjusted(decided, 0.5, freedom).views.cameras[1]
        assert np.allclose(after.params[1:3], (169, 114), atol=1)


@pytest.mark.parametrize(("noise", "agree"), [(0.07, True), (0.3, True), (1.5, False)])
def test_halves_of_the_points_tell_about_one_principal_point_or_it_is_not_determined(
    noise: float, agree: bool, tmp_path: Path
) -> None:
    rendered = render(tmp_path / "images", count=7)
    scene = adjusted(scattered(rendered, (9.0, -6.0), noise), 0.5, Freedom())
    assert is_determined(scene, 1, 0.5, Freedom(principal=frozenset([1]))) == agree


def test_views_of_two_lenses_do_not_share_a_camera(tmp_path: Path) -> None:
    rendered = render(tmp_path / "images", count=7)
    scene = several_cameras(exact(rendered))
    wide = replace(scene.views.cameras[1], params=(270.0, 160.0, 120.0, 0.0))
    cameras = {number: wide if number > 3 else c for number, c in scene.views.cameras.items()}
    local = np.array([160, 120])
    zoomed = scene.views.camera[scene.view] > 3
    xy = np.where(zoomed[:, None], (scene.xy - local) * 0.9 + local, scene.xy)
    scene = replace(scene, xy=xy, views=replace(scene.views, cameras=cameras))
    scene = adjusted(scene, 0.5, Freedom())
    same, freedom, lines = decide_cameras(scene, 0.5, Freedom())
    assert same.views.cameras == scene.views.cameras
    assert (freedom, lines) == (Freedom(), [])


@pytest.mark.parametrize("told", [True, False])
def test_cameras_that_exif_tells_apart_are_not_shared(rendered: Rendered, told: bool) -> None:
    scene = several_cameras(exact(rendered))
    priors = dict.fromkeys(scene.views.cameras, 300.0) if told else {}
    shared, _, lines = decide_cameras(scene, 0.5, Freedom(priors=priors))
    assert len(shared.views.cameras) == (5 if told else 1)
    assert len(lines) == (0 if told else 1)


def test_a_plane_determines_neither_principal_point_nor_distortion(tmp_path: Path) -> None:
    scene = exact(render(tmp_path / "images", count=7), away=(9.0, -6.0))
    scene = scene.keep((scene.xyz[:, 2] > -0.1)[scene.point])  # the farther plane alone
    same, freedom, lines = decide_cameras(adjusted(scene, 0.5, Freedom()), 0.5, Freedom())
    assert (freedom, lines) == (Freedom(), [])
    assert same.views.cameras[1].params[1:3] == (160.0, 120.0)


def test_fixed_cameras_are_never_shared(rendered: Rendered) -> None:
    scene = several_cameras(rendered.scene)
    freedom = Freedom(fixed=frozenset(scene.views.cameras))
    same, allowed, lines = decide_cameras(scene, 0.5, freedom)
    assert (same.views.cameras, allowed, lines) == (scene.views.cameras, freedom, [])


def test_a_reference_whose_processes_die_is_given_up(rendered: Rendered, model: Path) -> None:
    views, tasks = plan_round(model, OPTIONS)
    measure = MeasureReference(views, Folder(str(rendered.images)), OPTIONS, 200)
    assert len(measure(tasks[0], MOST_ATTEMPTS).tracks)
    given_up = measure(tasks[0], MOST_ATTEMPTS + 1)
    assert not len(given_up.tracks)
    assert b"processes died" in given_up.tracks.schema.metadata[UNREAD]


def test_tasks_hold_every_point_once(model: Path) -> None:
    _, tasks = plan_round(model, OPTIONS)
    points = np.concatenate([task.points for task in tasks])
    assert np.array_equal(np.sort(points), np.arange(150))
    assert len({task.name for task in tasks}) == len(tasks)


def test_tasks_hold_their_observations_in_the_order_of_the_scene(model: Path) -> None:
    scene = read_scene(model)
    reference = references(scene)
    _, tasks = plan_round(model, OPTIONS)
    assert [task.view for task in tasks] == np.unique(reference).tolist()
    for task in tasks:
        assert task.points.tolist() == np.flatnonzero(reference == task.view).tolist()
        mine = reference[scene.point] == task.view
        own, others = mine & (scene.view == task.view), mine & (scene.view != task.view)
        assert np.array_equal(task.points, scene.point[own])
        assert np.array_equal(task.xy, scene.xy[own])
        assert np.array_equal(task.xyz, scene.xyz[task.points])
        assert np.array_equal(task.points[task.member_point], scene.point[others])
        assert np.array_equal(task.member_view, scene.view[others])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sizes": ()}, "at least 100"),
        ({"sizes": (50,)}, "at least 100"),
        ({"radius": 1}, "give 2 to 30"),
        ({"steps": 0}, "give 1 to 50"),
        ({"views": 0}, "give 1 to 10000"),
        ({"new_correlation": 1.5}, "between 0 and 1"),
        ({"errors": (0.0, 1.0)}, "above 0"),
        ({"angles": (-1.0, 1.0)}, "between 0 and 90"),
    ],
)
def test_wrong_options_are_one_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ReconstructionError, match=sentence):
        RefineOptions(**change)  # type: ignore[arg-type]


def no_model(model: Path, place: Path) -> Path:
    place.mkdir()
    return place


def damaged(model: Path, place: Path) -> Path:
    shutil.copytree(model, place)
    (place / "images.bin").write_bytes(b"\0" * 100)
    return place


def empty(model: Path, place: Path) -> Path:
    place.mkdir()
    import_pycolmap().Reconstruction().write_binary(place)
    return place


@pytest.mark.parametrize("make", [no_model, damaged, empty])
def test_what_is_no_model_is_one_sentence(
    model: Path,
    rendered: Rendered,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    make: Callable[[Path, Path], Path],
) -> None:
    place = make(model, tmp_path / "model")
    assert main(["refine", str(place), "--images", str(rendered.images)]) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"eloftr refine: {place}: ")
    assert error.endswith(".")


def test_points_that_are_cut_off_are_a_sentence(
    model: Path, rendered: Rendered, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Path(shutil.copytree(model, tmp_path / "model"))
    points = place / "points3D.bin"
    points.write_bytes(points.read_bytes()[:-20])  # COLMAP by itself would read without end
    assert main(["refine", str(place), "--images", str(rendered.images)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    cause = "COLMAP cannot read this model (points3D.bin is cut off or damaged)"
    assert line == f"eloftr refine: {place}: {cause}; copy or make it again."


def test_a_model_at_a_url_is_refined(model: Path, rendered: Rendered, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(model), "/models/one", recursive=True)
    short = RefineOptions(rounds=1, sizes=(150,))
    how = {"options": short, "fixed_cameras": True, "executor": "local"}
    here = pipeline.refine(model, rendered.images, tmp_path / "here", **how)
    there = pipeline.refine("memory://models/one", rendered.images, tmp_path / "there", **how)
    assert there.after == here.after
    for name in ("points3D.bin", "images.bin", "cameras.bin"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@pytest.mark.parametrize("kind", ["binary", "text"])
def test_another_model_in_the_same_place_begins_anew(
    rendered: Rendered, tmp_path: Path, kind: str
) -> None:
    place, out = tmp_path / "model", tmp_path / "refined"
    place.mkdir()
    described = []
    for away in (0.0, 2.0):
        scene = replace(rendered.scene, xy=rendered.scene.xy + away)
        made = adjusted_model(scene)
        (made.write_text if kind == "text" else made.write_binary)(place)
        pipeline.refine(place, rendered.images, out, options=RefineOptions(rounds=1, sizes=(150,)))
        described.append((out / "refine" / "refine.json").read_text())
    assert described[0] != described[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--output", "MODEL/out"), "MODEL/out: is a given model or lies in one; give another"),
        (("--output", "IMAGES"), "IMAGES: lies inside a folder of photographs; give another"),
        (("--threads", "0"), "0 threads: give a number above zero, or -1 for all cores."),
        (("--output", "http://127.0.0.1:9/out"), "http://127.0.0.1:9/out: cannot be written to"),
        (("--output", "/dev/null/out"), "/dev/null/out: cannot be written to (Not a directory)"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    model: Path,
    rendered: Rendered,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    def filled(text: str) -> str:
        return text.replace("MODEL", str(model)).replace("IMAGES", str(rendered.images))

    given = [filled(argument) for argument in arguments]
    assert main(["refine", str(model), "--images", str(rendered.images), *given]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"eloftr refine: {filled(sentence)}")


def test_the_command_refines_any_model(
    model: Path, rendered: Rendered, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = Path(shutil.copytree(model, tmp_path / "model"))
    arguments = ["--images", str(rendered.images), "--refine-sizes", "200,320", "--json"]
    assert main(["refine", str(place), *arguments, "--fixed-cameras", "--executor", "local"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["output"] == str(tmp_path / "model-refined")
    assert summary["after"]["error"] < summary["before"]["error"]
    assert len(summary["rounds"]) == 2
