from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic_run import LONG_SIDE, Scene, matches_table

from pipeline import tables
from pipeline.extras import import_pycolmap
from pipeline.match.options import VerificationOptions
from pipeline.match.turns.between import scale_between, turn_between
from pipeline.match.verify import VERIFIED, VerifyShard
from pipeline.photos.sizes import resize_factor

OPTIONS = VerificationOptions(long_side=LONG_SIDE)
PAIRS = [(0, 1), (0, 2), (1, 3), (2, 5)]


def verify(matches: pa.Table, scene: Scene, options: VerificationOptions = OPTIONS) -> pa.Table:
    return VerifyShard(options)(matches, scene.images())


def epipolar_distance(
    fundamental: np.ndarray, points0: np.ndarray, points1: np.ndarray
) -> np.ndarray:
    lines = np.column_stack([points0, np.ones(len(points0))]) @ fundamental.T
    return np.abs((np.column_stack([points1, np.ones(len(points1))]) * lines).sum(1)) / np.hypot(
        *lines.T[:2]
    )


def test_true_matches_are_inliers_and_wrong_ones_are_not() -> None:
    scene = Scene()
    table = verify(scene.matches_of(PAIRS), scene)
    assert table.schema.equals(tables.MATCHES, check_metadata=True)
    for row, (first, second) in zip(table.to_pylist(), PAIRS, strict=True):
        assert row["geometry"] == "calibrated"
        assert row["num_inliers"] == sum(row["inliers"]) > 0.8 * len(row["inliers"])
        points = np.array(row["keypoints0"]), np.array(row["keypoints1"])
        inliers = np.array(row["inliers"])
        distance = epipolar_distance(np.reshape(row["F"], (3, 3)), *points)
        assert distance[inliers].max() < 2 * OPTIONS.max_error * resize_factor(
            *scene.size, LONG_SIDE
        )
        exact = scene.project(first), scene.project(second)
        assert np.median(epipolar_distance(np.reshape(row["F"], (3, 3)), *exact)) < 0.5


def test_pose_is_that_of_camera_one_from_camera_zero() -> None:
    scene = Scene(noise=0.2)
    row = verify(scene.matches_of([(1, 4)]), scene).to_pylist()[0]
    x, y, z, w = row["pose"][:4]
    rotation = scene.rotations[4] @ scene.rotations[1].T
    cosine = (np.trace(rotation) - 1) / 2
    assert 2 * np.arccos(abs(w)) == pytest.approx(np.arccos(cosine), abs=0.01)
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0]])
    assert np.sign([x, y]) == pytest.approx(np.sign(w * axis))
    assert np.linalg.norm([x, y, z, w]) == pytest.approx(1)
    translation = scene.translations[4] - rotation @ scene.translations[1]
    direction = translation / np.linalg.norm(translation)
    assert direction @ np.array(row["pose"][4:]) == pytest.approx(
        np.linalg.norm(row["pose"][4:]), rel=0.01
    )


def test_result_of_a_pair_depends_on_nothing_but_the_pair() -> None:
    scene = Scene()
    together = verify(scene.matches_of(PAIRS), scene)
    for row in (3, 0, 2, 1):
        alone = verify(scene.matches_of([PAIRS[row]]), scene)
        assert alone.to_pylist() == together.slice(row, 1).to_pylist()


@pytest.mark.parametrize("prior", [True, False])
def test_random_matches_are_refused(prior: bool) -> None:
    scene = Scene(prior=prior)
    rng = np.random.default_rng(0)
    rows = [
        (
            scene.name(0),
            scene.name(1),
            rng.uniform(0, np.array(scene.size) - 1, (2, n, 2)),
            np.ones(n),
        )
        for n in (30, 100, 150, 300, 1000)
    ]
    table = verify(matches_table(rows), scene)
    assert not set(table["geometry"].to_pylist()) & set(VERIFIED)
    assert table["num_inliers"].to_pylist() == [0] * len(rows)
    assert not any(any(inliers) for inliers in table["inliers"].to_pylist())


def test_few_inliers_are_enough_where_views_and_matches_agree() -> None:
    """A later round knows from other pairs how two photographs lie against each other."""
    scene = Scene(noise=0.3, outliers=0)
    points = np.stack([scene.project(0), scene.project(1)])[:, :24]
    points[1, 19:] = np.random.default_rng(0).uniform(0, np.array(scene.size) - 1, (5, 2))
    matches = matches_table([(scene.name(0), scene.name(1), points, np.ones(24))])

    def inliers(*view: float) -> int:
        views = np.array([view]) if view else None
        found = VerifyShard(OPTIONS)(matches, scene.images(), bool(view), views)
        return int(found["num_inliers"][0].as_py())

    true = turn_between(*points[:, :19]), float(np.log2(scale_between(*points[:, :19]) or 0))
    assert inliers() == 0  # as 25 are asked for
    assert 15 <= inliers(*true) <= 21
    assert inliers(true[0] - 15, true[1]) == inliers(true[0] + 360, true[1]) == inliers(*true)
    assert inliers(true[0] + 90, true[1]) == 0
    assert inliers(true[0], true[1] + 1) == 0


@pytest.mark.parametrize(
    ("right", "wrong", "score", "verified", "known", "again"),
    [
        (25, 12, 0.32, True, True, True),
        (17, 2, 0.32, False, True, False),
        (17, 8, 0.32, False, False, False),
        (25, 35, 0.32, True, False, False),
        (25, 35, 0.64, True, True, True),
        (25, 12, 0.16, True, False, False),
        (60, 100, 0.32, True, True, True),
    ],
)
def test_of_a_pair_that_is_tried_again_more_matches_have_to_agree(
    right: int, wrong: int, score: float, verified: bool, known: bool, again: bool
) -> None:
    """Wrong matches that many views make agree in a fifth to two fifths of all, and are faint.

    verified: in the first round. known, again: in a later one, where the views are known or not.
    """
    scene = Scene(noise=0.3, outliers=0)
    points = np.stack([scene.project(0), scene.project(1)])[:, : right + wrong]
    random = np.random.default_rng(0).uniform(0, np.array(scene.size) - 1, (wrong, 2))
    points[1, right:] = random
    matches = matches_table([(scene.name(0), scene.name(1), points, np.full(right + wrong, score))])
    good = points[:, :right]
    views = np.array([[turn_between(*good), np.log2(scale_between(*good) or 0)]])

    def found(*how: Any) -> bool:
        table = VerifyShard(OPTIONS)(matches, scene.images(), *how)
        return bool(table["num_inliers"][0].as_py() >= right)

    assert (found(), found(True, views), found(True)) == (verified, known, again)


def test_few_matches_take_few_trials_and_are_found_all_the_same() -> None:
    assert [OPTIONS.trials(n) for n in (25, 30, 40, 1000)] == [100, 100, 545, 2000]
    rows = []
    for seed in range(4):
        scene = Scene(seed=seed, noise=0.3, outliers=0)
        rng = np.random.default_rng(seed)
        for i, j in combinations(range(6), 2):
            points = np.stack([scene.project(i), scene.project(j)])[:, 40 * i : 40 * i + 30]
            points[1, 27:] = rng.uniform(0, np.array(scene.size) - 1, (3, 2))
            rows.append((scene.name(i), scene.name(j), points, np.ones(30)))
    assert min(verify(matches_table(rows), scene)["num_inliers"].to_pylist()) >= 25


def test_a_flat_scene_is_planar() -> None:
    scene = Scene()
    scene.points[:, 2] = 0
    assert verify(scene.matches_of([(0, 3)]), scene)["geometry"].to_pylist() == ["planar"]


def test_without_exif_the_pair_is_uncalibrated_and_has_no_essential_matrix() -> None:
    scene = Scene(prior=False)
    row = verify(scene.matches_of([(0, 3)]), scene).to_pylist()[0]
    assert row["geometry"] == "uncalibrated"
    assert row["E"] is None
    assert row["F"] is not None


def test_photographs_without_exif_are_not_taken_for_one_camera_s() -> None:
    scene = Scene(prior=False)
    row = verify(scene.matches_of([(0, 3)]), scene).to_pylist()[0]
    points = (np.array(row[name], np.float64) for name in ("keypoints0", "keypoints1"))
    pycolmap = import_pycolmap()
    ransac = pycolmap.RANSACOptions(
        max_error=OPTIONS.max_error * float(resize_factor(*scene.size, LONG_SIDE)),
        min_inlier_ratio=OPTIONS.min_inlier_ratio,
        confidence=OPTIONS.confidence,
        min_num_trials=100,
        max_num_trials=OPTIONS.max_num_trials,
        random_seed=0,
    )
    found = pycolmap.estimate_fundamental_matrix(
        *points, ransac
    )  # knows no camera, and draws the same samples
    np.testing.assert_array_equal(row["inliers"], found["inlier_mask"])
    np.testing.assert_allclose(row["F"], np.ravel(found["F"]), rtol=1e-9)


def test_pairs_that_are_not_matched_pass_through() -> None:
    scene = Scene()
    matches = scene.matches_of(PAIRS[:2])
    empty = matches_table([(scene.name(0), "lost.jpg", np.zeros((2, 0, 2)), np.zeros(0))])
    empty = empty.set_column(2, "status", pa.array(["failed"])).set_column(
        3, "reason", pa.array(["missing"])
    )
    table = verify(pa.concat_tables([matches, empty]), scene)
    last = table.to_pylist()[-1]
    assert (last["status"], last["reason"], last["geometry"]) == ("failed", "missing", "none")
    assert (last["inliers"], last["num_inliers"], last["pose"]) == ([], 0, None)
    assert table["geometry"].to_pylist()[:2] == ["calibrated"] * 2


def test_an_empty_shard_stays_empty() -> None:
    table = verify(tables.MATCHES.empty_table(), Scene())
    assert len(table) == 0
    assert table.schema.equals(tables.MATCHES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_become_a_failed_pair(value: float) -> None:
    scene = Scene()
    points = np.stack([scene.project(0), scene.project(1)])[:, :100]
    points[1, 7, 0] = value
    table = verify(matches_table([(scene.name(0), scene.name(1), points, np.ones(100))]), scene)
    row = table.to_pylist()[0]
    assert (row["status"], row["reason"], row["geometry"]) == ("failed", "bad_numbers", "none")
    assert row["inliers"] == [False] * 100


def test_lists_of_different_lengths_become_a_failed_pair() -> None:
    scene = Scene()
    matches = scene.matches_of([(0, 1)])
    short = tables.ragged([np.ones(3)], pa.list_(pa.float32()))
    position = matches.schema.get_field_index("scores")
    table = verify(matches.set_column(position, tables.MATCHES.field("scores"), short), scene)
    assert table["reason"].to_pylist() == ["bad_numbers"]


def test_a_matched_image_without_a_size_is_refused() -> None:
    scene = Scene()
    with pytest.raises(ValueError, match=r"'part1/view 01\.jpg', which is not in the images table"):
        VerifyShard(OPTIONS)(scene.matches_of([(0, 1)]), scene.images().slice(0, 1))


def test_error_threshold_follows_the_size_of_the_images() -> None:
    small, large = Scene(), Scene(size=(7200, 5400), focal=8000, noise=6)
    counts = [
        verify(scene.matches_of([(0, 2)]), scene)["num_inliers"].to_pylist()[0]
        for scene in (small, large)
    ]
    assert counts[0] == pytest.approx(counts[1], rel=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_error": 0},
        {"max_error": np.nan},
        {"long_side": 0},
        {"min_num_inliers": 3},
        {"min_inlier_ratio": 2},
        {"confidence": 1},
        {"random_seed": -1},
    ],
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="VerificationOptions"):
        VerificationOptions(**wrong)


def test_importing_pycolmap_keeps_the_signal_handlers_of_the_process() -> None:
    program = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: (print("ours", flush=True), os._exit(3)))
from pipeline.match.verify import import_pycolmap
import_pycolmap()
os.kill(os.getpid(), signal.SIGTERM)
signal.pause()
"""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (3, "ours"), signal.Signals(-done.returncode)
