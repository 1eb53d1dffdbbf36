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

pytestmark = pytest.mark.usefixtures("kept_processes")


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


def test_control_points_are_where_they_were_measured(tmp_path: Path) -> None:
    """Heights are not known, as those of a flat ground, and its points are taken as they are."""
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=6, num_points3D=40
    )
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)

    def residual(off: float, mark: float = 0) -> float | None:
        lines = ["gcp,easting,northing,height,image,x,y"]
        for number, point in list(model.points3D.items())[:10]:
            east, north, height = 30 * point.xyz + [5e5, 4e6, 100] + [off * (number % 2), 0, 0]
            for row, element in enumerate(point.track.elements[:3]):
                image = model.images[element.image_id]
                x, y = image.points2D[element.point2D_idx].xy
                x += mark * (row == 0) * (1 if x < image.camera.width / 2 else -1)
                lines.append(f"{number},{east},{north},{height},{image.name},{x},{y}")
        (tmp_path / "gcp.csv").write_text("\n".join(lines))
        return surveys.control_residual(model, tmp_path / "gcp.csv")

    exact, wrong = residual(0), residual(2)
    assert exact == pytest.approx(0, abs=1e-3)
    assert residual(0, mark=200) == pytest.approx(0, abs=1e-3)  # the other two marks agree
    assert wrong is not None
    assert 0.4 < wrong < 1.1
    (tmp_path / "gcp.csv").write_text("gcp,easting,northing,height,image,x,y\na,0,0,0,no.jpg,1,1\n")
    assert surveys.control_residual(model, tmp_path / "gcp.csv") is None
