"""The benchmark of models without a truth: what it calls held out is, and its distances are those
of the epipolar geometry.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from yard_set import write_yard

from benchmarks.quality.agreement import TITLES, Model, agreement, halves, held_out, main, sampson

pytestmark = pytest.mark.usefixtures("kept_processes")

ASIDE = np.hstack([np.eye(3), [[-1.0], [0.0], [0.0]]])  # a camera one unit to the right
AHEAD = np.hstack([np.eye(3), np.zeros((3, 1))])


def test_halves_share_no_pair_and_miss_none() -> None:
    names = [f"{number}.jpg" for number in range(7)]
    first, second = halves(names)
    assert len(first) + len(second) == 21
    assert {*first}.isdisjoint(second)
    assert abs(len(first) - len(second)) == 1
    assert all(one < other for one, other in first + second)
    assert halves(names[::-1]) == (first, second)


def test_distances_are_pixels_from_epipolar_lines() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-1, 1, (20, 2)), rng.uniform(2, 5, 20)])
    seen0 = points[:, :2] / points[:, 2:]
    seen1 = (points[:, :2] - [1, 0]) / points[:, 2:]
    np.testing.assert_allclose(sampson(AHEAD, ASIDE, seen0, seen1, 500, 500), 0, atol=1e-9)
    # Lines are the rows here. The error of a match is shared by its two ends.
    along, across = seen1 + np.array([3 / 500, 0]), seen1 + np.array([0, 3 / 500])
    np.testing.assert_allclose(sampson(AHEAD, ASIDE, seen0, along, 500, 500), 0, atol=1e-9)
    found = sampson(AHEAD, ASIDE, seen0, across, 500, 500)
    np.testing.assert_allclose(found, 3 / np.sqrt(2))
    # The same direction is twice as many pixels in a camera of twice the focal length.
    found = sampson(AHEAD, ASIDE, seen0, across, 1e9, 1000)
    np.testing.assert_allclose(found, 6, rtol=1e-6)


def model_of(poses: dict[str, np.ndarray], folder: Path) -> Model:
    model = Model(folder / "absent")
    model.poses = poses
    return model


def test_models_that_differ_by_a_similarity_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    poses, moved = {}, {}
    for number in range(5):
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        rotation *= np.linalg.det(rotation)
        centre = rng.normal(size=3)
        name = f"{number}.jpg"
        poses[name] = np.column_stack([rotation, -rotation @ centre])
        there = 3 * turn @ centre + [1, 2, 3]
        moved[name] = np.column_stack([rotation @ turn.T, -rotation @ turn.T @ there])
    record = agreement((model_of(poses, tmp_path), model_of(moved, tmp_path)))
    assert (record["registered"], record["both"]) == ([5, 5], 5)
    for key in ("rotation_deg", "pairs_deg", "position"):
        assert max(record[key].values()) == pytest.approx(0, abs=1e-5)

    moved["0.jpg"] = moved["0.jpg"].copy()
    angle = np.radians(2)
    spin = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    moved["0.jpg"] = np.array(spin) @ moved["0.jpg"]
    record = agreement((model_of(poses, tmp_path), model_of(moved, tmp_path)))
    assert record["rotation_deg"]["0.jpg"] == pytest.approx(2)
    assert record["pairs_deg"]["0.jpg 1.jpg"] == pytest.approx(2)
    assert max(record["position"].values()) == pytest.approx(0, abs=1e-6)


def test_models_of_too_few_images_have_no_errors_and_still_a_row(tmp_path: Path) -> None:
    nothing = model_of({}, tmp_path)
    assert agreement((nothing, nothing)) == {"registered": [0, 0], "both": 0}
    judged = held_out({"ours": (nothing, nothing)}, {"ours": ({}, {})})
    assert judged == {"ours": {"ours": {"matches": 0}}}


def test_a_model_is_judged_by_the_pairs_of_the_other_half(tmp_path: Path) -> None:
    class Plain:
        """A camera of focal length 1 whose pixels are directions."""

        def cam_from_img(self, points: np.ndarray) -> np.ndarray:
            return points

        def mean_focal_length(self) -> float:
            return 1.0

    model = model_of({"a": AHEAD, "b": ASIDE}, tmp_path)
    model.cameras = {"a": Plain(), "b": Plain()}
    seen, unseen = np.zeros((4, 2)), np.array([[0.0, 2.0]])
    pairs = ("a", "b")
    own, other = {pairs: (seen, seen)}, {pairs: (seen[:1], unseen)}
    judged = held_out({"ours": (model, model)}, {"ours": (own, other)})["ours"]["ours"]
    assert judged["matches"] == 5  # of both halves, each by the model of the other one
    assert judged["median"] == 0
    none = held_out({"ours": (model, Model(tmp_path / "absent"))}, {"ours": (own, other)})
    assert none["ours"]["ours"] == {"matches": 0}  # images that some model lacks judge nobody


def test_both_methods_are_compared_on_real_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yard(tmp_path / "yard5", tmp_path, views=5)
    out = tmp_path / "results.json"
    assert main(["--data", str(tmp_path), "--sets", "yard5", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    record = results["sets"]["yard5"]
    assert record.keys() == TITLES.keys()
    ours = record["ours"]
    assert (ours["of"], ours["both"]) == (5, 5)
    assert max(ours["pairs_deg"].values()) < 1
    assert max(ours["position"].values()) < 0.1
    assert ours["held_out"]["ours"]["matches"] > 500
    assert ours["held_out"]["ours"]["median"] < 0.5
    printed = capsys.readouterr().out
    assert f"{ours['held_out']['ours']['median']:.3f} px" in printed
    assert results["environment"]["weights"] == "small"


def test_a_set_too_small_for_halves_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "yard3" / "images").mkdir(parents=True)
    row = {"R": np.eye(3).tolist(), "t": [0, 0, 0], "K": np.eye(3).tolist(), "w": 8, "h": 8}
    (tmp_path / "yard3" / "poses.json").write_text(json.dumps(dict.fromkeys("abc", row)))
    for name in "abc":
        (tmp_path / "yard3" / "images" / name).touch()
    assert main(["--data", str(tmp_path), "--sets", "yard3"]) == 2
    assert "yard3: 3 images; halves need 4 or more" in capsys.readouterr().err
