"""`eloftr report`, and the report that other commands write at their end."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from small_run import SMALL, Done
from synthetic_run import Scene

import pipeline
from pipeline.cli.console import Console
from pipeline.cli.reporting import report_at_end

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "report.md"
Eloftr = Callable[..., CompletedProcess[str]]


def test_match_writes_the_report_and_leaves_it_out_when_asked(
    done: Done, eloftr_here: Eloftr
) -> None:
    page = done.place / "run" / "report.html"
    assert b"view 0.jpg" in page.read_bytes()
    page.unlink()
    match = ("match", "--images", "photos", "--output", "run", *SMALL, "--no-report")
    assert eloftr_here(*match, cwd=done.place).returncode == 0
    assert not page.exists()


def test_a_run_is_reported_as_a_page_and_as_json(done: Done, eloftr_here: Eloftr) -> None:
    shown = eloftr_here("report", "run", cwd=done.place)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == "pairs:        6 of 4 images, finished"
    assert lines[-1].startswith(f"report:       {done.place / 'run' / 'report.html'}, ")
    numbers = re.compile(r"[\d,.]*\d|/\S*(?=/run/)")
    (block,) = re.findall(r"\$ eloftr report run\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert numbers.sub("#", shown.stdout) == numbers.sub("#", block)
    made = eloftr_here("report", "run", "--format", "json", "--output", "r.json", cwd=done.place)
    assert made.returncode == 0
    found = json.loads((done.place / "r.json").read_text())
    assert found["counts"]["pairs"] == 6
    assert found["counts"]["failed"] == 3
    assert re.search(r"r\.json, \d+\.\d kB\n", made.stdout)


def test_two_runs_are_compared_and_one_is_not_with_itself(
    done: Done, eloftr_here: Eloftr, tmp_path: Path
) -> None:
    again = shutil.copytree(done.place / "run", tmp_path / "again")
    both = eloftr_here("report", "run", again, "--json", cwd=done.place)
    assert json.loads(both.stdout)["output"] == str(done.place / "run" / "comparison.html")
    for given, said in (
        (("run", "run/"), "run: is given twice; give two runs to compare."),
        (("run", "--models", "photos"), "photos: holds no models; give the output of"),
        (("run", "--output", "photos"), "photos: is a folder; give the name of a file"),
    ):
        refused = eloftr_here("report", *given, cwd=done.place)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
        assert refused.stderr.count("\n") == 1


def test_plots_are_drawn_as_svg_and_as_pictures(
    done: Done, eloftr_here: Eloftr, tmp_path: Path
) -> None:
    run = done.place / "run"
    for kind in ("inliers", "matches", "ratio", "matrix"):
        for ending in ("svg", "png"):
            path = tmp_path / f"{kind}.{ending}"
            drawn = eloftr_here(
                "draw", "--run", run, "--plot", kind, "--output", path, cwd=tmp_path
            )
            assert drawn.returncode == 0, drawn.stderr
            assert path.stat().st_size > 1000
    assert (tmp_path / "matrix.svg").read_text().count("<image ") == 1
    assert "inliers of a verified pair" in (tmp_path / "inliers.svg").read_text()
    other = eloftr_here(
        *("draw", "--run", run, "--plot", "matrix"), "--output", "m.txt", cwd=tmp_path
    )
    assert "use .svg, .pdf, .png or .jpg." in other.stderr
    refused = eloftr_here("draw", "--plot", "matrix", "--output", "x.svg", cwd=tmp_path)
    assert (refused.returncode, "give --run" in refused.stderr) == (2, True)


def test_a_model_that_is_elsewhere_has_the_report_beside_it(
    eloftr_here: Eloftr, tmp_path: Path
) -> None:
    Scene(cameras=4).write(tmp_path / "run")
    made = eloftr_here(
        *("reconstruct", "run", "--refine", "none", "--output", "model"), cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert b'<div id="model-view">' in (tmp_path / "model" / "report.html").read_bytes()
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("fault", ["expected", "bug"])
def test_a_report_that_fails_is_a_warning(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if fault == "bug":
        monkeypatch.setattr(pipeline, "report", lambda *given, **named: 1 / 0)
    report_at_end(Console("eloftr match"), str(tmp_path))
    said = "ZeroDivisionError" if fault == "bug" else "holds no run.json"
    out = capsys.readouterr().out
    assert out.startswith("warning: no report was written: ")
    assert said in out
