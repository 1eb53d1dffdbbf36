"""Runs with further looks at a pair: more is found, and the run says how it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from job_process import rows, tables
from pictures import slanted_views

import pipeline
from pipeline.cli import main
from pipeline.errors import ArgumentError, RunError
from pipeline.match.options import MOST_LOOKS, MatchingOptions
from pipeline.match.plan import Cost, cost_line

pytestmark = pytest.mark.usefixtures("kept_processes")

QUICK: dict[str, Any] = {"long_side": 288, "executor": "local", "turns": "off", "scales": "off"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` that show one place slanted, and runs of them with one look and with two."""
    place = tmp_path_factory.mktemp("looks")
    (place / "photos").mkdir()
    for number, seen in enumerate(slanted_views()):
        seen.save(place / "photos" / f"view {number}.jpg", quality=95)
    pipeline.match(place / "photos", place / "once", looks=1, **QUICK)
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
            assert -0.5 <= x <= 287.5
            assert -0.5 <= y <= 223.5


def test_a_run_says_how_often_it_looked_where_it_did_so_again(place: Path, tmp_path: Path) -> None:
    options = [
        json.loads((place / name / "run.json").read_text())["options"] for name in ("once", "twice")
    ]
    assert "looks" not in options[0]
    assert options[1]["looks"] == 2
    with pytest.raises(RunError, match="looks was 2, now 3"):
        pipeline.match(place / "photos", place / "twice", **QUICK)
    pipeline.match(place / "photos", tmp_path / "again", looks=2, **QUICK)
    assert tables(tmp_path / "again") == tables(place / "twice")


def test_a_dry_run_tells_the_cost_of_one_look_and_of_all(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Cost("CPU core", 2.0, 3.0).looked(1) == Cost("CPU core", 2.0, 3.0)
    assert Cost("CPU core", 2.0, 3.0).looked(3) == Cost("CPU core", 2.0, 13.0)
    pending = pa.table({"images": [["a", "b", "c"]], "pairs": [["a b", "a c"]]})
    once, often = (cost_line(Cost("CPU core", 2.0, 3.0), 640, pending, n) for n in (1, 3))
    assert "to do: about 12 s on one CPU core" in once
    assert often == f"{once}; 32 s with 3 looks at every pair"
    command = ["match", "--images", str(place / "photos"), "--output", str(tmp_path / "run")]
    for looks, told in ((["--looks", "5"], "5 looks"), ([], "3 looks"), (["--looks", "1"], "")):
        assert main([*command, "--long-side", "288", "--dry-run", *looks]) == 0
        printed = capsys.readouterr().out
        assert re.search(r"\([\d.]+ s an encode, [\d.]+ s a pair", printed)
        assert ("looks" in printed, told in printed) == (bool(told), True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("looks", [0, MOST_LOOKS + 1])
def test_numbers_of_looks_out_of_range_are_refused(looks: int) -> None:
    with pytest.raises(ArgumentError, match=f"looks must be from 1 to {MOST_LOOKS}, not {looks}"):
        MatchingOptions(looks=looks)
