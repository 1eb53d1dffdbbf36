"""The reconstruction benchmark: its errors are those of the model on disk, and a set it cannot
judge is refused.
"""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from synthetic_run import Scene
from yard_set import write_yard

import pipeline
from benchmarks.quality.reconstruction import (
    TITLES,
    load_truth,
    main,
    measure,
    reconstruct_sift,
    table,
)
from pipeline.demo.truth import DemoTruth
from pipeline.extras import import_pycolmap

pytestmark = pytest.mark.usefixtures("kept_processes")


class Measured(NamedTuple):
    """One run of the benchmark: its arguments, output, results, and the folder of the set."""

    arguments: list[str]
    printed: str
    results: dict[str, Any]
    work: Path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of four photographs."""
    scratch, folder = tmp_path_factory.mktemp("scene"), tmp_path_factory.mktemp("data") / "yard4"
    return write_yard(folder, scratch, views=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoTruth]:
    """A reconstruction of cameras that are known, and these."""
    scene, folder = Scene(cameras=5), tmp_path_factory.mktemp("run")
    scene.write(folder / "run")
    pipeline.reconstruct(str(folder / "run"))
    poses = {
        scene.name(k): (scene.rotations[k], scene.translations[k]) for k in range(scene.cameras)
    }
    return folder / "run" / "sfm" / "sparse" / "0", DemoTruth(folder, scene.size, {}, poses)


def test_errors_of_a_good_model_are_small_and_those_of_a_moved_camera_are_its_move(
    model: tuple[Path, DemoTruth],
) -> None:
    folder, truth = model
    good = measure(folder, truth)
    assert (good["registered"], good["of"]) == (5, 5)
    assert good["points"] > 100
    assert 2 < good["track_length"] < 5
    assert 0.2 < good["reprojection_px"] < 1.5
    assert set(good["rotation_deg"]) == set(good["position"]) == set(truth.poses)
    assert max(good["rotation_deg"].values()) < 1
    assert max(good["position"].values()) < 0.05

    name = min(truth.poses)
    R, t = truth.poses[name]
    angle = np.radians(10)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    turned = DemoTruth(truth.images, truth.size, {}, {**truth.poses, name: (turn @ R, turn @ t)})
    moved = measure(folder, turned)
    assert moved["rotation_deg"][name] == pytest.approx(10, abs=1)
    assert moved["position"] == pytest.approx(good["position"])


def test_the_errors_are_those_of_the_registered_images_alone(model: tuple[Path, DemoTruth]) -> None:
    folder, truth = model
    more = DemoTruth(
        truth.images,
        truth.size,
        {},
        {**truth.poses, "never seen.jpg": truth.poses[min(truth.poses)]},
    )
    record = measure(folder, more)
    assert (record["registered"], record["of"]) == (5, 6)
    assert "never seen.jpg" not in record["rotation_deg"]


def test_no_model_is_no_image_registered_and_still_a_row(
    tmp_path: Path, model: tuple[Path, DemoTruth]
) -> None:
    folder, truth = model
    nothing = measure(tmp_path / "sparse" / "0", truth)
    assert nothing == {"registered": 0, "of": 5}
    seconds = {"matching": 12.3, "mapping": 4.0}
    rows = {method: {**nothing, "seconds": seconds} for method in TITLES}
    text = table(
        {"a": rows, "longer name": {"ours": {**measure(folder, truth), "seconds": seconds}}}
    )
    assert len({len(line) for line in text.splitlines()}) == 1
    assert len(text.splitlines()) == 5
    assert "0/5" in text
    assert "12 + 4" in text


@pytest.fixture(scope="module")
def measured(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The benchmark on the set with its known camera: what it was told, printed and left."""
    folder, printed = tmp_path_factory.mktemp("measured"), StringIO()
    work, out = folder / "work", folder / "results.json"
    arguments = ["--data", str(photographs.parent), "--sets", "yard4", "--work", str(work)]
    with redirect_stdout(printed):
        code = main([*arguments, "--out", str(out), "--long-side", "320", "--known-cameras"])
    assert code == 0
    return Measured(arguments, printed.getvalue(), json.loads(out.read_text()), work / "yard4")


def test_both_pipelines_reconstruct_a_set_and_the_result_says_how(
    measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [line.split("|")[2].strip() for line in measured.printed.splitlines()]
    assert methods == ["method", "-" * 17, "ours, as mapped", "ours", "SIFT"]
    results = measured.results
    assert results["settings"] == {
        "long_side": 320,
        "mapper": "incremental",
        "known_cameras": True,
    }
    assert {"pycolmap", "ray", "torch"} <= results["environment"]["versions"].keys()
    assert len(results["environment"]["weights_sha256"]) == 64
    ours, sift = results["sets"]["yard4"]["ours"], results["sets"]["yard4"]["sift"]
    assert set(ours["seconds"]) == {"matching", "mapping"}
    assert set(sift["seconds"]) == {"features", "matching", "mapping"}
    assert ours["matching"]["pairs"] == 6
    assert main(measured.arguments) == 2
    assert "--work" in capsys.readouterr().err


def test_sift_keeps_known_cameras_and_finds_the_others(
    photographs: Path, measured: Measured, tmp_path: Path
) -> None:
    truth, cameras = load_truth(photographs)
    [camera] = cameras
    expected = [float(number) for number in camera.partition(":")[2].split(",")]
    found = {
        "OPENCV": (measured.results["sets"]["yard4"]["sift"], measured.work),
        "SIMPLE_RADIAL": (reconstruct_sift(truth, tmp_path, None), tmp_path),
    }
    for kind, (record, folder) in found.items():
        assert record["registered"] >= 3
        assert np.median(list(record["rotation_deg"].values())) < 3
        model = import_pycolmap().Reconstruction(str(folder / "sift" / "sparse" / "0"))
        assert {camera.model.name for camera in model.cameras.values()} == {kind}
        kept = all(camera.params.tolist() == expected for camera in model.cameras.values())
        assert kept == (kind == "OPENCV")


def test_a_known_camera_has_colmaps_origin_and_order(photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(photographs, tmp_path / "set")
    rows = json.loads((photographs / "poses.json").read_text())
    for row in rows.values():
        row |= {
            "K": [[300, 0, 159.5], [0, 310, 119.5], [0, 0, 1]],
            "dist": [0.1, -0.2, 0.001, 0.002],
        }
    (tmp_path / "set" / "poses.json").write_text(json.dumps(rows))
    assert load_truth(tmp_path / "set")[1] == {
        "OPENCV:300.0,310.0,160.0,120.0,0.1,-0.2,0.001,0.002"
    }


def test_sets_that_cannot_be_judged_are_refused_in_one_sentence(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main(["--data", str(tmp_path), "--sets", "set", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("reconstruction: ")
        assert error.count("\n") == 1
        return error

    assert "poses.json" in refused()
    shutil.copytree(photographs, tmp_path / "set")
    rows = json.loads((photographs / "poses.json").read_text())
    rows["view_00.jpg"]["K"][0][0] += 1
    (tmp_path / "set" / "poses.json").write_text(json.dumps(rows))
    assert "2 cameras" in refused("--known-cameras")
    assert "no such file" in refused("--weights", "nowhere")
    (tmp_path / "set" / "images" / "view_01.jpg").unlink()
    assert "different names" in refused()


def test_the_real_sets_hold_a_pose_for_every_photograph(data: Path) -> None:
    for name, images, cameras in (
        ("fountain11", 11, 1),
        ("sceaux11", 11, 1),
        ("sacre_coeur17", 17, 17),
    ):
        truth, found = load_truth(data / name)
        assert (len(truth.poses), len(found)) == (images, cameras)
