"""The benchmark of reranking: what it writes follows from the rankings, and its check of the early
stop can fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pictures import views

from benchmarks.quality import reranking, screening
from pipeline.events import Listener, nobody
from pipeline.execute import choose
from pipeline.execute.executor import Actors, Stage, Task
from pipeline.execute.local import LocalExecutor

SIZE = (160, 120)


class InThisProcess(LocalExecutor):
    """Carries out the stages here: processes would import torch for each of the many runs."""

    def run(
        self,
        stages: Sequence[Stage],
        tasks: Sequence[Task],
        actors: Actors | None = None,
        listen: Listener = nobody,
    ) -> Iterator[Any]:
        works = [stage.make() for stage in stages]
        for task in tasks:
            value = task.value
            for work in works:
                value = work(value, 1)
            yield value


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of two places each, three photographs a place: light, as it is, and dark, which
    misleads retrieval.
    """
    root = tmp_path_factory.mktemp("data")
    positives: dict[str, list[str]] = {}
    for place in range(4):
        folder = f"set{place % 2}/images"
        (root / folder).mkdir(parents=True, exist_ok=True)
        names = [f"{folder}/{place}{k}.jpg" for k in range(3)]
        for name, view in zip(names, views(3, SIZE, seed=place), strict=True):
            exposure = (0.4, 1.0, 2.5)[int(name[-5])]
            view.point([255 * (value / 255) ** exposure for value in range(256)]).save(
                root / name, quality=92
            )
        positives |= {name: [other for other in names if other != name] for name in names}
    labels = {"queries": sorted(positives), "database": sorted(positives), "positives": positives}
    (root / "retrieval.json").write_text(json.dumps(labels))
    return root


@pytest.mark.timeout(600)
def test_it_reports_every_set_before_and_after(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "make_executor", lambda name: InThisProcess())
    monkeypatch.setattr(reranking, "SATURATION", 40.0)
    command = [
        "--data",
        str(data),
        "--long-side",
        "160",
        "--top-k",
        "11",
        "--keep",
        str(tmp_path / "kept"),
    ]
    assert reranking.main([*command, "--out", str(tmp_path / "results.json")]) == 0
    candidates = pq.read_table(tmp_path / "kept" / "all.parquet").to_pylist()
    assert len(candidates) == 12 * 11
    assert all(row["query"] != row["candidate"] for row in candidates)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["sets"].keys() == {"all", "set0", "set1"}
    for name, found in results["sets"].items():
        assert found["queries"] == (12 if name == "all" else 6)
        measures = {
            label: {k: v["mean"] for k, v in one.items()}
            for label, one in found["measures"].items()
        }
        assert measures["reranked"]["mAP"] == measures["gate 0"]["mAP"] == 1
        assert measures["retrieval"]["mAP"] < 0.7
        assert measures["retrieval"]["recall@1"] < 1
        assert found["change"]["mAP"]["mean"] == pytest.approx(1 - measures["retrieval"]["mAP"])
        assert measures["saturated, early stop"]["recall@1"] == measures["saturated"]["recall@1"]
        assert found["first_place_won"] == round(
            (1 - measures["retrieval"]["recall@1"]) * found["queries"]
        )
        assert found["first_place_lost"] == 0
        assert found["seconds"] > 0
    # Each set by itself is a command of its own, and takes the pairs that it is said to.
    for name in ("set0", "set1"):
        alone = json.loads((tmp_path / "kept" / "sets" / name / "summary.json").read_text())
        assert (alone["queries"], alone["pairs"]) == (6, results["pairs"]["all"][name])
        assert results["sets"][name]["seconds"] == alone["session"]["seconds"]
    assert results["sets"]["all"]["seconds"] == results["seconds"]["all candidates"]
    true, false = (results["candidates"][side] for side in ("true", "false"))
    assert (true["candidates"], true["verified"], false["candidates"], false["verified"]) == (
        24,
        24,
        108,
        0,
    )
    assert true["most_inliers"] > 25 > false["most_inliers"] == 0
    # All pairs of 12 photographs, each once; a pair of both sets counts for each.
    assert results["pairs"]["all"]["all"] == 66 == results["rounds"]["all"][0]["pairs"]
    assert results["pairs"]["all"]["set0"] == 15 + 36
    assert results["pairs"]["early"]["all"] < 66
    printed = capsys.readouterr().out
    assert "set1: 6 queries, 51 pairs" in printed
    assert printed.endswith(reranking.markdown(results))
    (row,) = [line.split(" | ") for line in printed.splitlines() if line.startswith("| set1 |")]
    assert row[1:4] == ["6", "51", f"{results['sets']['set1']['seconds']:.0f}"]

    rankings = [tmp_path / "kept" / output / "ranking.parquet" for output in ("full", "early")]
    reranking.check_firsts(*rankings)
    table = pq.read_table(rankings[1])
    pq.write_table(
        table.set_column(1, "candidate", table["candidate"].combine_chunks()[::-1]), rankings[1]
    )
    with pytest.raises(SystemExit, match="other first places"):
        reranking.check_firsts(*rankings)


def test_what_an_earlier_command_matched_is_not_timed() -> None:
    session = {"pairs": 3, "seconds": 1.5, "start_seconds": 0.5}
    assert reranking.timed({"session": session, "pairs": 3}) == {
        "seconds": 1.5,
        "start_seconds": 0.5,
    }
    with pytest.raises(SystemExit, match="give an empty one"):
        reranking.timed({"session": session, "pairs": 4})


def test_screening_is_compared_with_short_lists_and_with_sift(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "make_executor", lambda name: InThisProcess())
    monkeypatch.setattr(screening, "DEPTH", 11)
    monkeypatch.setattr(screening, "BUDGET", 3)
    command = ["--data", str(data), "--long-side", "160", "--out", str(tmp_path / "results.json")]
    assert screening.main(command) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["candidates"], results["pairs"]["glances"]) == (12 * 11, 66)
    assert max(results["pairs"][name] for name in ("short", "long", "sift")) <= 12 * 3
    whole = results["sets"]["all"]
    means = {row: found["mAP"]["mean"] for row, found in whole["measures"].items()}
    assert [*means] == [*screening.ROWS]
    assert means["long"] == 1 > means["short"] > means["retrieval"]
    assert means["long"] >= means["screened"] > means["retrieval"]
    assert means["sift"] > means["retrieval"]  # by places that SIFT alone has verified
    change = whole["changes"]["long − short"]["mAP"]["mean"]
    assert change == pytest.approx(means["long"] - means["short"])
    assert capsys.readouterr().out.endswith(screening.markdown(results))
