from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.datasets import (
    Cameras,
    Pair,
    View,
    epipolar_residuals,
    fit_fundamental,
    homogeneous,
    load_pairs,
    load_view,
)
from benchmarks.quality.judging import judge, pose_auc, summarise
from benchmarks.quality.quality import evaluate_set, main, table
from benchmarks.quality.sift import detect_sift, match_sift

INTRINSICS = np.array([[900.0, 0, 500], [0, 910.0, 380], [0, 0, 1]])
DISTORTION = np.array([-0.1, 0.02, 0.001, -0.0005])


def two_cameras(degrees: float = 12.0) -> Cameras:
    rotation, _ = cv2.Rodrigues(np.radians([[3.0], [degrees], [-2.0]]))
    return Cameras(
        (INTRINSICS, INTRINSICS), (DISTORTION, DISTORTION), rotation, np.array([-1.0, 0.1, 0.2])
    )


def seen_points(cameras: Cameras, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Scene points as both cameras see them, (M, 2) pixels each, lens distortion included."""
    scene = np.random.default_rng(0).uniform([-2, -1.5, 4], [2, 1.5, 9], (count, 3))
    rotation, _ = cv2.Rodrigues(cameras.rotation)
    zero = np.zeros(3)
    points0, _ = cv2.projectPoints(scene, zero, zero, cameras.intrinsics[0], cameras.distortion[0])
    points1, _ = cv2.projectPoints(
        scene, rotation, cameras.translation, cameras.intrinsics[1], cameras.distortion[1]
    )
    return points0[:, 0], points1[:, 0]


def write_set(folder: Path, rows: list[dict], images: dict[str, np.ndarray]) -> Path:
    (folder / "images").mkdir(parents=True)
    for name, grey in images.items():
        Image.fromarray(grey).save(folder / "images" / name)
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder


def texture(size: int = 480) -> np.ndarray:
    """Smooth random blobs at several scales: enough for a few hundred SIFT features."""
    random = np.random.default_rng(3)
    layers = [cv2.GaussianBlur(random.normal(size=(size, size)), (0, 0), s) * s for s in (2, 4, 8)]
    total = np.sum(layers, axis=0)
    return ((total - total.min()) / np.ptp(total) * 255).astype(np.uint8)


@pytest.fixture
def homography_set(tmp_path: Path) -> Path:
    """A photograph-like texture and its turned copy under the name of a real set; returns the data
    folder.
    """
    image = texture()
    matrix = np.array([[0.9, -0.2, 60.0], [0.15, 0.95, 10.0], [1e-4, -5e-5, 1.0]])
    marked = np.random.default_rng(1).uniform(50, 400, (8, 2))
    mapped = homogeneous(marked) @ matrix.T
    warped = cv2.warpPerspective(image, matrix, image.shape[::-1])
    row = {"pts0": marked.tolist(), "pts1": (mapped[:, :2] / mapped[:, 2:]).tolist()}
    row |= {"image0": "a.png", "image1": "b.png"}
    write_set(tmp_path / "homography16", [row], {"a.png": image, "b.png": warped})
    return tmp_path


def test_auc_of_known_errors_is_the_area_by_hand() -> None:
    # Recall rises 0 → 1/4 up to 1°, → 2/4 up to 3°, stays to 5°: 0.125 + 0.75 + 1.0 = 1.875 of 5.
    assert pose_auc([3.0, 1.0, 30.0, np.inf], 5) == pytest.approx(1.875 / 5)
    assert pose_auc([0.0, 0.0], 5) == 1.0
    assert pose_auc([np.inf, 7.0], 5) == 0.0


def test_true_matches_under_distortion_have_no_error_and_give_the_pose() -> None:
    cameras = two_cameras()
    pair = Pair("a", "b", cameras=cameras)
    points0, points1 = seen_points(cameras)
    assert pair.errors(points0, points1).max() < 0.01
    rotation, translation = cameras.pose_errors(points0, points1, 0.5 / 900) or (90, 90)
    assert rotation < 0.01
    assert translation < 0.05


def test_without_a_list_the_pairs_of_a_set_are_all_pairs_of_its_poses(tmp_path: Path) -> None:
    scene = np.random.default_rng(0).uniform([-2, -1.5, 4], [2, 1.5, 9], (50, 3))
    poses, seen = {}, {}
    for number, degrees in enumerate((0.0, 9.0, -14.0)):
        turn = np.radians([[3.0], [degrees], [number]])
        place = np.array([[-0.4, 0.1, 0.2]]) * number
        name = f"{number}.jpg"
        poses[name] = {
            "K": INTRINSICS.tolist(),
            "R": cv2.Rodrigues(turn)[0].tolist(),
            "t": place[0].tolist(),
            "dist": DISTORTION.tolist(),
        }
        seen[name] = cv2.projectPoints(scene, turn, place, INTRINSICS, DISTORTION)[0][:, 0]
    (tmp_path / "sceaux11").mkdir()
    (tmp_path / "sceaux11" / "poses.json").write_text(json.dumps(poses))
    pairs = load_pairs(tmp_path / "sceaux11")
    assert [pair.names for pair in pairs] == [
        ("0.jpg", "1.jpg"),
        ("0.jpg", "2.jpg"),
        ("1.jpg", "2.jpg"),
    ]
    for pair in pairs:
        assert pair.errors(*(seen[name] for name in pair.names)).max() < 0.01


def test_pose_error_is_the_angle_between_estimate_and_truth() -> None:
    cameras = two_cameras(12.0)
    points0, points1 = seen_points(cameras)
    turned = Cameras(cameras.intrinsics, cameras.distortion, np.eye(3), np.array([0.0, 1.0, 0.0]))
    rotation, translation = turned.pose_errors(points0, points1, 0.5 / 900) or (0, 0)
    expected = np.degrees(np.linalg.norm(cv2.Rodrigues(cameras.rotation)[0]))
    assert rotation == pytest.approx(expected, abs=0.05)
    direction = cameras.translation / np.linalg.norm(cameras.translation)
    assert translation == pytest.approx(np.degrees(np.arccos(direction[1])), abs=0.1)


def test_pose_survives_half_the_matches_being_wrong_and_repeats_exactly() -> None:
    cameras = two_cameras()
    points0, points1 = seen_points(cameras)
    points1[::2] = np.random.default_rng(2).uniform(0, 900, points1[::2].shape)
    first = cameras.pose_errors(points0, points1, 0.5 / 900)
    assert first is not None
    assert max(first) < 0.5
    assert first == cameras.pose_errors(points0, points1, 0.5 / 900)


def test_four_matches_or_none_are_a_failed_pose_without_a_crash() -> None:
    cameras = two_cameras()
    pair = Pair("a", "b", cameras=cameras)
    points0, points1 = seen_points(cameras, 4)
    view = View(np.zeros((64, 64), np.uint8), np.ones(2))
    assert cameras.pose_errors(points0, points1, 0.001) is None
    record = judge(pair, (view, view), (np.zeros((0, 2)), np.zeros((0, 2))), 1.0, 0.001)
    assert record["share"] == 0
    assert record["median_error_px"] is None
    assert set(record["rotation_translation_errors_deg"]) == {None}
    assert summarise([record])["auc20"] == 0


def test_fundamental_matrix_is_fitted_to_distances_not_to_algebra() -> None:
    cameras = two_cameras()
    flat = Cameras(
        cameras.intrinsics, (np.zeros(4), np.zeros(4)), cameras.rotation, cameras.translation
    )
    points0, points1 = seen_points(flat, 12)
    exact = fit_fundamental(points0, points1)
    assert np.abs(epipolar_residuals(exact, points0, points1)).max() < 1e-4
    assert abs(np.linalg.det(exact / np.linalg.norm(exact))) < 1e-12

    noisy = points1 + np.random.default_rng(4).normal(0, 1, points1.shape)
    eight_point, _ = cv2.findFundamentalMat(points0, noisy, cv2.FM_8POINT)
    fitted = fit_fundamental(points0, noisy)
    squares = [(epipolar_residuals(f, points0, noisy) ** 2).sum() for f in (fitted, eight_point)]
    assert squares[0] < squares[1]


def test_keypoints_of_a_resized_image_return_to_the_same_place(tmp_path: Path) -> None:
    grey = np.zeros((700, 1000), np.uint8)
    grey[400:416, 600:624] = 255
    Image.fromarray(grey).save(tmp_path / "a.png")
    view = load_view(tmp_path / "a.png", 640)
    assert view.grey.shape == (448, 640)
    rows, columns = np.indices(view.grey.shape)
    weight = view.grey / view.grey.sum(dtype=np.float64)
    centre = np.array([[(columns * weight).sum(), (rows * weight).sum()]])
    np.testing.assert_allclose(view.to_original(centre), [[611.5, 407.5]], atol=0.1)


def test_a_small_image_is_never_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (329, 278)).save(tmp_path / "a.png")
    assert load_view(tmp_path / "a.png", 640).grey.shape == (256, 320)
    assert load_view(tmp_path / "a.png", None).grey.shape == (278, 329)


def test_sift_follows_a_quarter_turn() -> None:
    image = texture()
    found0, found1 = match_sift(detect_sift(image), detect_sift(np.rot90(image)))
    expected = np.stack([found0[:, 1], image.shape[1] - 1 - found0[:, 0]], 1)
    assert len(found0) > 100
    assert (np.linalg.norm(found1 - expected, axis=1) < 2).mean() > 0.9


def test_sift_of_a_blank_image_is_no_match() -> None:
    blank = detect_sift(np.zeros((64, 64), np.uint8))
    assert [len(side) for side in match_sift(blank, detect_sift(texture()))] == [0, 0]
    assert [len(side) for side in match_sift(detect_sift(texture()), blank)] == [0, 0]


def test_a_matcher_is_judged_beside_sift_on_the_same_images(homography_set: Path) -> None:
    pairs = load_pairs(homography_set / "homography16")
    shapes: list[tuple[int, ...]] = []

    class Exact:
        def match(
            self, images0: list[np.ndarray], images1: list[np.ndarray], looks: int
        ) -> list[SimpleNamespace]:
            assert looks == 3
            shapes.extend(image.shape for image in images0 + images1)
            assert pairs[0].homography is not None
            keypoints0 = np.random.default_rng(5).uniform(50, 400, (40, 2)).astype(np.float32)
            scale = 480 / np.array(images0[0].shape[::-1])
            mapped = homogeneous((keypoints0 + 0.5) * scale - 0.5) @ pairs[0].homography.T
            keypoints1 = ((mapped[:, :2] / mapped[:, 2:] + 0.5) / scale - 0.5).astype(np.float32)
            keypoints1[:10] += 5
            return [
                SimpleNamespace(keypoints0=keypoints0, keypoints1=keypoints1, scores=np.ones(40))
            ]

    [record] = evaluate_set(homography_set / "homography16", pairs, 416, Exact(), looks=3)
    assert shapes == [(416, 416), (416, 416)]
    assert record["ours"]["share"] == 0.75
    assert record["sift"]["matches"] > 50
    assert record["sift"]["share"] > 0.9


def test_saved_sift_results_give_the_same_table_and_are_refused_elsewhere(
    homography_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "sift.json"
    common = ["--data", str(homography_set), "--sets", "homography16"]
    assert main([*common, "--out", str(saved)]) == 0
    first = capsys.readouterr().out
    assert main([*common, "--sift-from", str(saved)]) == 0
    assert capsys.readouterr().out == first

    refusals = {
        "long_side was 640": ["--sift-from", str(saved), "--long-side", "320"],
        "pixels was evaluated": ["--sift-from", str(saved), "--pixels", "original"],
        "has no sift_full": ["--sift-from", str(saved), "--sift-full"],
        "not a result": ["--sift-from", str(homography_set / "homography16" / "pairs.json")],
    }
    for reason, options in refusals.items():
        assert main([*common, *options]) == 2
        assert reason in capsys.readouterr().err
    image = homography_set / "homography16" / "images" / "a.png"
    Image.fromarray(texture()[::-1]).save(image)
    assert main([*common, "--sift-from", str(saved)]) == 2
    assert "holds other images" in capsys.readouterr().err


def test_some_pairs_of_a_set_can_be_judged(
    homography_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = homography_set / "homography16"
    (row,) = json.loads((folder / "pairs.json").read_text())
    (folder / "pairs.json").write_text(json.dumps([row] * 5))
    common = ["--data", str(homography_set), "--sets", "homography16", "--pairs"]
    assert main([*common, "2", "--out", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["most_pairs"] == 2
    assert len(result["sets"]["homography16"]["pairs"]) == 2
    assert main([*common, "0"]) == 2
    assert "at least one pair is needed" in capsys.readouterr().err


def test_an_unknown_set_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path), "--sets", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_table_columns_line_up_and_a_failed_set_still_prints() -> None:
    summary = {"matches": 3.0, "right": 1.0, "share": 0.5, "auc5": 0.1, "auc10": 0.2, "auc20": 0.3}
    point = {"matches": 1200.0, "right": 0.0, "share": 0.0}
    text = table(
        {
            "fox50": {"summary": {"ours": summary, "sift": summary}, "pairs": [{}]},
            "kusvod22": {"summary": {"ours": point, "sift": point}, "pairs": [{}, {}]},
        }
    )
    assert text.startswith("Each cell: ours / SIFT")
    assert len({len(line) for line in text.splitlines()[2:]}) == 1
    assert "10.0 / 10.0" in text
    assert "1200 / 1200" in text


def test_real_sets_hold_their_own_marked_points_and_sample_the_same_pairs(data: Path) -> None:
    marked = json.loads((data / "kusvod22" / "pairs.json").read_text())
    for pair, row in zip(load_pairs(data / "kusvod22"), marked, strict=True):
        assert pair.errors(np.array(row["pts0"]), np.array(row["pts1"])).max() < 1.5, pair.image0
    fox = load_pairs(data / "fox50")
    assert len(fox) == 200
    assert [p.image0 + p.image1 for p in fox] == [
        p.image0 + p.image1 for p in load_pairs(data / "fox50")
    ]


def test_sift_finds_the_pose_of_neighbouring_fountain_views(data: Path) -> None:
    pairs = load_pairs(data / "fountain11")[:1]
    [record] = evaluate_set(data / "fountain11", pairs, 640)
    assert record["sift"]["share"] > 0.8
    assert np.max(record["sift"]["rotation_translation_errors_deg"]) < 3
    [tight] = evaluate_set(data / "fountain11", pairs, 640, pixels="original")
    assert tight["sift"]["matches"] == record["sift"]["matches"]
    assert tight["sift"]["right"] < record["sift"]["right"]
