"""The benchmark of the lowest score of a match compares the same pairs at every threshold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality import thresholds


def test_it_reports_every_set_at_every_threshold(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    how = ("--data", data, "--sets", "fountain11,homography16", "--long-side", 320)
    options = (*how, "--pairs", 2, "--thresholds", 0.2, 0.1, "--out", out)
    assert thresholds.main([*map(str, options)]) == 0
    table = capsys.readouterr().out
    found = json.loads(out.read_text())["thresholds"]
    assert list(found) == ["0.2", "0.1"]
    for name in ("fountain11", "homography16"):
        strict, lenient = (judged["sets"][name] for judged in found.values())
        assert strict["pairs"] == lenient["pairs"] == 2
        assert strict["matches"] < lenient["matches"]
        assert strict["share"] > lenient["share"]
        assert table.count(f"| {name} ") == 2
    assert [judged["sets"]["fountain11"]["verified"] for judged in found.values()] == [1, 1]
    assert [one["apart"] for one in found.values()] == [2, 2]
    assert found["0.2"]["apart_verified"] == 0
    assert table.count("| apart ") == 2


def test_an_unknown_set_is_one_sentence(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert thresholds.main(["--data", str(data), "--sets", "photos"]) == 2
    assert "photos: not a set with ground truth" in capsys.readouterr().err
