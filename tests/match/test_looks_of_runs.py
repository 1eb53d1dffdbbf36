"""Runs with further looks at a pair: more is found, and the run says how it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from job_process import rows, tables
from pictures import texture
from PIL import Image

import pipeline
from pipeline.cli import main
from pipeline.errors import ArgumentError, RunError
from pipeline.match.options import MOST_LOOKS, MatchingOptions
from pipeline.match.plan import Cost

pytestmark = pytest.mark.usefixtures("kept_processes")

QUICK: dict[str, Any] = {"long_side": 288, "executor": "local", "turns": "off", "scales": "off"}
SIZE = 288, 224
# What three cameras see of a texture, from ahead and from two sides.
VIEWS = (
    (1, 0, 20, 0, 1, 20, 0, 0),
    (1.5, 0.1, 0, 0.45, 1.3, -20, 2.2e-3, 0),
    (0.7, -0.1, 60, -0.35, 1.1, 40, -1.0e-3, 0),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` that show one place slanted, and runs of them with one look and with two."""
    place = tmp_path_factory.mktemp("looks")
    (place / "photos").mkdir()
    ground = texture(2 * SIZE[0], 2 * SIZE[1], 5)
    for number, view in enumerate(VIEWS):
        seen = ground.transform(SIZE, Image.Transform.PERSPECTIVE, view, Image.Resampling.BICUBIC)
        seen.save(place / "photos" / f"view {number}.jpg", quality=95)
    pipeline.match(place / "photos", place / "once", **QUICK)
    pipeline.match(place / "photos", place / "twice", looks=2, **QUICK)
    return place


def test_two_looks_find_more_inliers(place: Path) -> None:
    once, twice = (rows(place / name) for name in ("once", "twice"))
    assert [row["image1"] for row in once] == [row["image1"] for row in twice]
    found = [[row["num_inliers"] or 0 for row in run] for run in (once, twice)]
    assert sum(found[1]) > 1.2 * sum(found[0]) > 50
    assert all(second >= 0.9 * first for first, second in zip(*found, strict=True))
    for row in twice:
        for x, y in row["keypoints1"]:
            assert -0.5 <= x <= SIZE[0] - 0.5
            assert -0.5 <= y <= SIZE[1] - 0.5


def test_a_run_says_how_often_it_looked_where_it_did_so_again(place: Path, tmp_path: Path) -> None:
    options = [
        json.loads((place / name / "run.json").read_text())["options"] for name in ("once", "twice")
    ]
    assert "looks" not in options[0]
    assert options[1]["looks"] == 2
    with pytest.raises(RunError, match="looks was 2, now 1"):
        pipeline.match(place / "photos", place / "twice", **QUICK)
    pipeline.match(place / "photos", tmp_path / "again", looks=2, **QUICK)
    assert tables(tmp_path / "again") == tables(place / "twice")


def test_a_dry_run_counts_the_looks(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Cost("CPU core", 2.0, 3.0).looked(1) == Cost("CPU core", 2.0, 3.0)
    assert Cost("CPU core", 2.0, 3.0).looked(3) == Cost("CPU core", 2.0, 13.0)
    command = ["match", "--images", str(place / "photos"), "--output", str(tmp_path / "run")]
    assert main([*command, "--long-side", "288", "--looks", "5", "--dry-run"]) == 0
    printed = re.search(r"\(([\d.]+) s an encode, ([\d.]+) s a pair", capsys.readouterr().out)
    assert printed is not None
    encode, match = map(float, printed.groups())
    assert match > 4 * encode > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("looks", [0, MOST_LOOKS + 1])
def test_numbers_of_looks_out_of_range_are_refused(looks: int) -> None:
    with pytest.raises(ArgumentError, match=f"looks must be from 1 to {MOST_LOOKS}, not {looks}"):
        MatchingOptions(looks=looks)
