"""The benchmark of surveys, on a few views of one texture of which some are turned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import views
from PIL import Image

from benchmarks.quality import surveys
from pipeline.photos.turns import turned


@pytest.mark.timeout(600)
def test_it_reports_with_and_without_turns_and_sift(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "monstree23" / "images"
    images.mkdir(parents=True)
    for k, picture in enumerate(views(3, (320, 256))):
        Image.fromarray(turned(np.asarray(picture), (0, 0, 180)[k])).save(images / f"{k}.png")
    out = tmp_path / "surveys.json"
    arguments = ["--data", str(tmp_path), "--sets", "monstree23", "--sift", "--out", str(out)]
    assert surveys.main(arguments) == 0
    (found,) = json.loads(out.read_text())["sets"].values()
    assert found["ours"]["pairs"] == found["sift"]["pairs"] == 3
    assert found["ours"]["off"]["verified"] == 1
    assert found["ours"]["verified"] == 3
    assert found["sift"]["verified"] == 3
    assert "by_heading" not in found["ours"]
    assert "monstree23  ours" in capsys.readouterr().out
