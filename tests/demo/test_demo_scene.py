"""The demo scene on disk: pictures, truth and cache; and errors that are measured against it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.demo import scene as demo_scene
from pipeline.demo.raycaster import Scene, correspond, render
from pipeline.demo.scene import cameras, courtyard, make_demo_scene
from pipeline.demo.truth import DemoTruth, Pose, compare_with_truth
from pipeline.errors import ReconstructionError

SIZE = (160, 120)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> DemoTruth:
    return make_demo_scene(tmp_path_factory.mktemp("scene") / "demo", views=5, size=SIZE)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return courtyard(np.random.default_rng(0), 170 * SIZE[0] / 640)


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_scene, "_photograph", refuse)


def test_the_folder_holds_pictures_and_their_cameras(truth: DemoTruth) -> None:
    folder = truth.images.parent
    assert {entry.name for entry in folder.iterdir()} == {"images", "truth.json"}
    names = [f"view_0{k}.jpg" for k in range(5)]
    assert sorted(entry.name for entry in truth.images.iterdir()) == names == list(truth.poses)
    for name in names:
        with Image.open(truth.images / name) as image:
            assert image.size == SIZE
            lens = image.getexif().get_ifd(0x8769)
        assert lens[0xA405] * np.hypot(*SIZE) / np.hypot(36, 24) == pytest.approx(
            truth.K[name][0, 0]
        )
        pixels_per_mm = float(lens[0xA20E]) / 10  # its unit is the centimetre
        assert float(lens[0x920A]) * pixels_per_mm == pytest.approx(truth.K[name][0, 0], rel=1e-3)
        R, t = truth.poses[name]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) == pytest.approx(1)
        assert t.shape == (3,)


def test_the_pictures_show_the_scene_from_the_true_cameras(truth: DemoTruth, scene: Scene) -> None:
    name = "view_02.jpg"
    image, _ = render(scene, truth.K[name], *truth.poses[name], SIZE[::-1])
    other, _ = render(scene, truth.K[name], *truth.poses["view_03.jpg"], SIZE[::-1])
    picture = np.asarray(Image.open(truth.images / name), float)
    picture *= image.mean() / picture.mean()  # its exposure is its own
    assert np.abs(picture - image).mean() < 8
    assert np.abs(picture - other).mean() > 25


def test_neighbouring_views_of_the_full_scene_overlap_by_60_percent(scene: Scene) -> None:
    K = np.array([[138.7, 0, 79.5], [0, 138.7, 59.5], [0, 0, 1]])
    poses = cameras(12)
    depths = [render(scene, K, *pose, SIZE[::-1], samples=1)[1] for pose in poses]
    for k in range(11):
        _, visible = correspond(depths[k], K, *poses[k], K, *poses[k + 1], depths[k + 1])
        assert visible.mean() > 0.6, f"views {k} and {k + 1}"


def test_an_existing_scene_is_reused(truth: DemoTruth, no_rendering: None) -> None:
    again = make_demo_scene(truth.images.parent, views=5, size=SIZE)
    assert again.images == truth.images
    for name, (R, t) in truth.poses.items():
        np.testing.assert_array_equal(again.poses[name][0], R)
        np.testing.assert_array_equal(again.poses[name][1], t)


def test_the_same_seed_gives_the_same_pictures_and_a_missing_one_is_made_again(
    tmp_path: Path,
) -> None:
    first = make_demo_scene(tmp_path / "demo", views=2, size=(64, 48))
    pictures = [path.read_bytes() for path in sorted(first.images.iterdir())]
    (first.images / "view_01.jpg").unlink()
    make_demo_scene(tmp_path / "demo", views=2, size=(64, 48))
    assert [path.read_bytes() for path in sorted(first.images.iterdir())] == pictures


def test_other_options_replace_the_scene(tmp_path: Path) -> None:
    make_demo_scene(tmp_path, views=3, size=(64, 48))  # an empty folder is as good as none
    truth = make_demo_scene(tmp_path, views=2, size=(48, 40))
    assert sorted(path.name for path in truth.images.iterdir()) == ["view_00.jpg", "view_01.jpg"]
    assert json.loads((tmp_path / "truth.json").read_text())["options"]["size"] == [48, 40]


def test_an_interrupted_scene_leaves_nothing(tmp_path: Path, no_rendering: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_demo_scene(tmp_path / "demo", views=2, size=(64, 48))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("foreign", ["holiday.jpg", "truth.json", "images/holiday.jpg"])
def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path, foreign: str) -> None:
    folder = tmp_path / "demo"
    if foreign == "images/holiday.jpg":
        make_demo_scene(folder, views=2, size=(64, 48))
    path = folder / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match="something else than a demo scene"):
        make_demo_scene(folder, views=3, size=(64, 48))
    assert path.read_text() == "mine"


def test_wrong_arguments_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 views"):
        make_demo_scene(tmp_path / "demo", views=1)
    with pytest.raises(ValueError, match="32×32"):
        make_demo_scene(tmp_path / "demo", size=(640, 16))
    assert not (tmp_path / "demo").exists()


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    unit = np.array(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), -unit)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def moved(truth: DemoTruth, scale: float, Q: np.ndarray, s: np.ndarray) -> dict[str, Pose]:
    """The true poses in the frame where world points x become scale · Q @ x + s."""
    return {name: (R @ Q.T, scale * t - R @ Q.T @ s) for name, (R, t) in truth.poses.items()}


def test_errors_are_zero_in_any_frame_and_scale(truth: DemoTruth) -> None:
    poses = moved(truth, 0.2, rotation((1, 2, 3), 130), np.array([5.0, -7, 2]))
    errors = compare_with_truth(poses, truth)
    assert errors.names == list(truth.poses)
    assert errors.missing == []
    assert errors.rotation.max() < 1e-9
    assert errors.position.max() < 1e-12


def test_a_known_error_is_measured(truth: DemoTruth) -> None:
    poses = moved(truth, 3.0, rotation((0, 1, 1), 70), np.array([1.0, 0, 0]))
    R, t = poses["view_03.jpg"]
    centre = -R.T @ t
    turned = rotation((0, 0, 1), 2.5) @ R  # in place: its centre stays
    poses["view_03.jpg"] = (turned, -turned @ centre)
    errors = compare_with_truth(poses, truth)
    np.testing.assert_allclose(errors.rotation, [0, 0, 0, 2.5, 0], atol=1e-9)


def test_a_camera_out_of_place_is_found() -> None:
    poses = {f"view_{k:02d}.jpg": pose for k, pose in enumerate(cameras(12))}
    truth = DemoTruth(Path("images"), SIZE, {}, poses)
    R, t = poses["view_06.jpg"]
    aside = {**poses, "view_06.jpg": (R, t + R @ [0, 0, 0.1])}  # 10 cm lower
    errors = compare_with_truth(aside, truth)
    assert errors.names[errors.position.argmax()] == "view_06.jpg"
    assert 0.07 < errors.position.max() * errors.spread < 0.1  # the alignment takes a part of it


def test_views_that_are_missing_are_named(truth: DemoTruth) -> None:
    poses = dict(truth.poses)
    del poses["view_01.jpg"]
    assert compare_with_truth(poses, truth).missing == ["view_01.jpg"]


def test_too_few_or_unknown_views_are_refused(truth: DemoTruth) -> None:
    two = {name: truth.poses[name] for name in ("view_00.jpg", "view_01.jpg")}
    with pytest.raises(ReconstructionError, match="only 2 views"):
        compare_with_truth(two, truth)
    with pytest.raises(ValueError, match=r"no view 'other\.jpg'"):
        compare_with_truth({**truth.poses, "other.jpg": truth.poses["view_00.jpg"]}, truth)


def test_sift_finds_true_matches_between_neighbours() -> None:
    cv2 = pytest.importorskip("cv2")
    scene = courtyard(np.random.default_rng(0), 60)
    K = np.array([[277.3, 0, 159.5], [0, 277.3, 119.5], [0, 0, 1]])
    poses = cameras(12)[4:6]
    views = [render(scene, K, *pose, (240, 320)) for pose in poses]
    sift = cv2.SIFT_create()
    found = [
        sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None) for image, _ in views
    ]
    nearest = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    good = [a for a, b in nearest if a.distance < 0.8 * b.distance]
    points0 = np.array([found[0][0][match.queryIdx].pt for match in good])
    points1 = np.array([found[1][0][match.trainIdx].pt for match in good])
    flow, _ = correspond(views[0][1], K, *poses[0], K, *poses[1], views[1][1])
    x, y = np.rint(points0).astype(int).T
    right = np.linalg.norm(points0 + flow[y, x] - points1, axis=1) < 2
    assert right.sum() > 150
    assert right.mean() > 0.8
