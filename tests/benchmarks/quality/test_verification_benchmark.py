"""The benchmark of verification: pairs that show the same are verified, and pairs that do not are
not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.quality import verification


def test_two_cameras_verify_every_true_pair_and_none_apart(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        verification.main(["--data", str(data), "--quick", "--out", str(tmp_path / "results.json")])
        == 0
    )
    ways = json.loads((tmp_path / "results.json").read_text())["ways"]
    for row in ways.values():
        assert row["true_verified"] == row["true"] > 15
        assert row["wrong"] < row["verified"] <= row["same"]
        assert row["apart_verified"] == 0
    assert "verified ones wrong" in capsys.readouterr().out
