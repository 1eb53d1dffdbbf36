"""The benchmark of probabilities: its fit, its figures, and the whole of it on a few pairs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.calibration import Judged, bins, fit, judge, main, without
from eloftr.matching.probability import Calibration, match_probabilities
from eloftr.weights.locate import find_weights

TRUE = Calibration(-5.0, 0.8, 1.2, "…")


def pairs_of(count: int, seed: int = 0) -> list[Judged]:
    """Pairs of 10 to 1,000 matches that are right as often as TRUE says."""
    random = np.random.default_rng(seed)
    found = []
    for n in range(count):
        scores = random.uniform(0.2, 1, int(10 ** random.uniform(1, 3))).astype(np.float32)
        right = random.uniform(size=len(scores)) < TRUE.probabilities(scores)
        found.append(Judged((f"set{n % 3}",) * 2, ("a", "b"), scores, right))
    return found


def test_the_fit_finds_the_numbers_that_made_the_matches() -> None:
    found = fit(pairs_of(300), "…")
    assert found.intercept == pytest.approx(TRUE.intercept, abs=0.4)
    assert found.score == pytest.approx(TRUE.score, abs=0.1)
    assert found.matches == pytest.approx(TRUE.matches, abs=0.1)


def test_the_fit_is_finite_where_nothing_is_wrong_or_a_pair_has_no_matches() -> None:
    none = Judged(("a", "a"), ("0", "1"), np.zeros(0, np.float32), np.zeros(0, bool))
    right = Judged(("a", "a"), ("0", "1"), np.full(5, 0.5, np.float32), np.ones(5, bool))
    assert np.isfinite(fit([none, right], "…").probabilities(right.scores)).all()


def test_what_is_told_truly_has_no_calibration_error() -> None:
    pairs = pairs_of(300)
    true = judge(pairs, [TRUE.probabilities(pair.scores) for pair in pairs])
    half = judge(pairs, [TRUE.probabilities(pair.scores) / 2 for pair in pairs])
    assert true["ece"] < 0.01
    assert half["ece"] == pytest.approx(true["right"] / 2, abs=0.01)
    assert half["brier"] > true["brier"]


def test_bins_hold_as_much_weight_each() -> None:
    told = np.random.default_rng(0).uniform(size=3000)
    rows = bins(told, told > 0.5, np.ones(3000))
    assert [row["matches"] for row in rows] == [200] * 15
    assert rows[0]["told"] < rows[-1]["told"]
    assert (rows[0]["right"], rows[-1]["right"]) == (0, 1)


def test_a_set_that_is_left_out_leaves_no_pair_of_its_photographs() -> None:
    nothing = np.zeros(0)
    pairs = [Judged(sets, ("", ""), nothing, nothing) for sets in [("a", "a"), ("b", "b")]]
    across = [Judged(sets, ("", ""), nothing, nothing) for sets in [("a", "b"), ("b", "c")]]
    assert without([*pairs, *across], "a") == [pairs[1], across[1]]
    assert without([*pairs, *across], "apart") == pairs


def test_the_benchmark_writes_a_calibration_that_is_read_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "results.json", tmp_path / "plot.svg"
    arguments = ["--data", str(data), "--quick", "--sets", "homography16", "temple19"]
    arguments += ["--out", str(out), "--plot", str(plot), "--save", str(tmp_path)]
    assert main(arguments) == 0
    results = json.loads(out.read_text())
    assert results["sets"].keys() == {"homography16", "temple19", "apart"}
    assert [results["sets"][name]["pairs"] for name in results["sets"]] == [2, 2, 1]
    assert results["sets"]["apart"]["raw"]["right"] == 0
    assert results["all"]["pooled"]["ece"] < results["all"]["raw"]["ece"]
    shutil.copy(find_weights("small"), tmp_path)
    scores = np.array([0.3, 0.9], np.float32)
    expected = Calibration(**results["calibration"]).probabilities(scores)
    assert np.array_equal(match_probabilities(scores, tmp_path), expected)
    assert "probability" in plot.read_text()
    assert "Brier" in capsys.readouterr().out
