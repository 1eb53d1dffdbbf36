"""The benchmark of finer passes, on a few views of one texture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import views

from benchmarks.quality import detail
from benchmarks.quality.datasets import Cameras, Pair

pytestmark = pytest.mark.usefixtures("kept_processes")


@pytest.mark.timeout(600)
def test_it_compares_finer_passes_with_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "some" / "images"
    images.mkdir(parents=True)
    for k, picture in enumerate(views(3, (512, 384))):
        picture.save(images / f"{k}.png")
    out = tmp_path / "detail.json"
    arguments = ["--data", str(tmp_path), "--sets", "some", "--passes", "160:0", "160:1"]
    assert detail.main([*arguments, "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text())["sets"].values()
    coarse, fine = found["160:0"], found["160:1"]
    assert coarse["pairs"] == fine["pairs"] == fine["verified"] == 3
    assert "detail" not in coarse
    assert fine["detail"]["finer"] == 3
    assert fine["inliers"] > 2 * coarse["inliers"]
    assert capsys.readouterr().out.count("some") == 2


def test_wide_pairs_are_those_whose_cameras_are_turned() -> None:
    for degrees in (0, 30, 90):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        rotation = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])
        both = np.eye(3), np.eye(3)
        cameras = Cameras(both, (np.zeros(4), np.zeros(4)), rotation, np.array([1.0, 0, 0]))
        assert detail.angle(Pair("a", "b", cameras=cameras)) == pytest.approx(degrees)
