"""The benchmark of turned and scaled photographs, on two photographs drawn here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import views

from benchmarks.quality.views import turned as benchmark

pytestmark = pytest.mark.usefixtures("kept_processes")


@pytest.mark.parametrize("change", [(0, 1.0), (90, 2.0), (45, 1.4), (180, 3.0)])
def test_points_of_a_changed_image_come_back(change: tuple[int, float]) -> None:
    image = np.zeros((96, 160), np.uint8)
    image[44:49, 78:83] = 255  # centred on (80, 46)
    picture = benchmark.changed(image, change)
    y, x = np.nonzero(picture > 100)
    weights = picture[y, x].astype(float)
    found = np.array([[np.average(x, weights=weights), np.average(y, weights=weights)]])
    np.testing.assert_allclose(benchmark.unchanged(found, image, change), [[80, 46]], atol=0.3)


@pytest.mark.timeout(600)
def test_it_reports_the_product_the_network_and_sift(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "kodak24").mkdir(parents=True)
    views(1, (320, 256))[0].save(tmp_path / "photos" / "kodak24" / "1.png")
    monkeypatch.setattr(benchmark, "CHANGES", (benchmark.ONE, (180, 1)))
    out = tmp_path / "turned.json"
    arguments = ["--data", str(tmp_path), "--sets", "kodak24", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["pairs"] == 1
    for method in benchmark.METHODS:
        assert found[method]["0° 1×"]["relative"] == 1
    assert found["off"]["180° 1×"]["relative"] == 0
    assert found["auto"]["180° 1×"]["relative"] > 0.9
    assert found["sift"]["180° 1×"]["relative"] > 0.8
    assert "180° 1×" in capsys.readouterr().out
