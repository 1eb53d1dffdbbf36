"""Probabilities in docs/matching.md: the code runs, and the tables are those of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Scene
from test_documentation import RESULTS, blocks, section, tables_of


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return json.loads((RESULTS / "calibration.json").read_text())


@pytest.fixture(scope="module")
def shown() -> list[list[list[str]]]:
    """The tables of the section."""
    return tables_of(section("docs/matching.md", "How likely a match is right"))


def test_the_code_tells_the_right_matches_of_every_pair_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Scene(cameras=3).write(tmp_path / "run", shards=1, verify=False)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("python") if "match_probabilities" in block.text]
    exec(compile(block.text, block.document, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        right, of, count, word = line.split()[-4:]
        assert (of, word) == ("of", "right")
        assert 0 < int(right) <= int(count)


def test_the_table_of_sets_is_that_of_the_results(
    results: dict[str, Any], shown: list[list[list[str]]]
) -> None:
    rows = {"all": results["all"], **results["sets"]}
    assert [row[0] for row in shown[0]] == list(rows)
    for (_, matches, *numbers), row in zip(shown[0], rows.values(), strict=True):
        raw, pooled, left_out = (row[way] for way in ("raw", "pooled", "left_out"))
        assert matches == f"{raw['matches']:,}"
        expected = [raw["right"], raw["told"], pooled["told"]]
        expected += [way["ece"] for way in (raw, pooled, left_out)]
        expected += [raw["brier"], left_out["brier"], raw["brier_of_share"]]
        assert numbers == [f"{number:.3f}" for number in expected]


def test_the_reliability_is_that_of_the_results(
    results: dict[str, Any], shown: list[list[list[str]]]
) -> None:
    found = [results["all"][way]["bins_of_pairs"] for way in ("pooled", "raw")]
    assert shown[1] == [
        [f"{row[name]:.3f}" for row in both for name in ("told", "right")]
        for both in zip(*found, strict=True)
    ]


def test_the_errors_in_the_text_are_those_of_the_results(results: dict[str, Any]) -> None:
    text = " ".join(section("docs/matching.md", "How likely a match is right").split())
    everything, sizes = results["all"], results["sizes"]
    pooled, left_out = (everything[way]["ece"] for way in ("pooled", "left_out"))
    assert pooled <= 0.03
    assert f"over all matches is {pooled:.3f}, and {left_out:.3f} where no set" in text
    alike = [everything[way]["ece_of_pairs"] for way in ("pooled", "raw")]
    assert f"Their error is {alike[0]:.3f}, and that of the score {alike[1]:.3f}" in text
    assert f"{sizes['320']['ece']:.3f} at 320 and {sizes['896']['ece']:.3f} at 896" in text
    of_sets = [row["left_out"]["ece"] for row in results["sets"].values()]
    assert f"off by {min(of_sets):.2f} to {max(of_sets):.2f}" in text
