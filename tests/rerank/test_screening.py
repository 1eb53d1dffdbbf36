"""Screening: a glance at all candidates, and the order that follows for everything after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import views, write_places
from stages import Stop

import pipeline
from eloftr import load_matcher, load_model
from pipeline.events import Event, nobody
from pipeline.execute.executor import Executor
from pipeline.match.options import RunOptions
from pipeline.match.read import ReadShard
from pipeline.match.shards import PlannedShard
from pipeline.match.turns.probe import ProbeShard
from pipeline.photos.limits import ImageLimits
from pipeline.rerank.screen import SCREEN_LONG_SIDE, screened_order, screening
from pipeline.store.folder import Folder

BUDGET = 4


def places(*sizes: int) -> np.ndarray:
    return np.concatenate([np.arange(1, size + 1) for size in sizes])


def test_the_order_follows_counts_and_places_of_one_query_alone() -> None:
    unread = screened_order(places(4), np.array([-1, 0, -1, 7]))
    assert unread.tolist() == [3, 1, 0, 2]
    order = screened_order(places(5, 3), np.array([0, 2, 90, 3, 1, 5, 5, 5]))
    assert order.tolist()[0] == 2
    assert sorted(order.tolist()[:5]) == [0, 1, 2, 3, 4]
    assert order.tolist()[5:] == [5, 6, 7]  # counts that are equal leave retrieval's order
    alone = screened_order(places(5), np.array([0, 2, 90, 3, 1]))
    assert order[:5].tolist() == alone.tolist()
    nothing = screened_order(places(4), np.zeros(4, int))
    assert nothing.tolist() == [0, 1, 2, 3]


def test_glances_are_small_upright_and_of_the_same_weights() -> None:
    asked = RunOptions("photos", "run", threshold=0.3, turns=8, detail=1)
    glances = screening(asked)
    assert (glances.matching.long_side, glances.threshold) == (SCREEN_LONG_SIDE, 0.3)
    assert (glances.turns, glances.scales, glances.detail) == (0, 0, 0)


def test_a_batch_of_glances_counts_what_each_of_them_does(tmp_path: Path) -> None:
    """Of two shapes, and one file that cannot be read."""
    for k, (picture, size) in enumerate(zip(views(4), [(96, 64), (96, 64), (64, 96), (96, 64)])):  # noqa: B905
        picture.resize(size).save(tmp_path / f"{k}.png")
    (tmp_path / "4.png").write_bytes(b"no picture")
    names = [f"{k}.png" for k in range(5)]
    pairs = np.array([(i, j) for i in range(5) for j in range(i + 1, 5)], np.int32)
    read = ReadShard(Folder(str(tmp_path)), ImageLimits(), 96)
    shard = read(PlannedShard("0", names, pairs))
    _, found, failures = ProbeShard(load_model("small"), "float32")(shard)
    matcher = load_matcher("small", device="cpu")
    pixels = dict(zip(shard.read, shard.pixels, strict=True))
    expected = [
        matcher.count_matches(*(matcher.encode(pixels[k][None]) for k in pair))[0]
        if 4 not in pair
        else None
        for pair in pairs.tolist()
    ]
    assert found["num_matches"].to_pylist() == expected
    assert any(expected)
    assert failures["image0"].to_pylist() == ["4.png"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    write_places(root, (160, 120))
    return root


def rerank(place: Path, output: Path, executor: Executor, **how: Any) -> Any:
    return pipeline.rerank(
        *(str(place / "queries"), str(place / "database"), str(place / "candidates.trec")),
        str(output),
        **{"truth": str(place / "truth.json"), "screen": True, "budget": BUDGET, "long_side": 160}
        | how,
        executor=executor,
    )


def results(output: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.suffix in (".parquet", ".csv", ".trec")
    }


@pytest.fixture(scope="module")
def whole(
    place: Path, tmp_path_factory: pytest.TempPathFactory, kept_executor: Executor
) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("whole") / "run"
    return output, rerank(place, output, kept_executor)


def test_all_pairs_are_looked_at_and_the_likeliest_are_matched(
    place: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path, kept_executor: Executor
) -> None:
    output, summary = whole
    probes = [pq.read_table(path) for path in (output / "screen" / "probes").iterdir()]
    assert pa.concat_tables(probes).num_rows == 28  # of 29 candidates, one of which has no file
    assert summary["pairs"] == summary["planned_pairs"] <= 3 * BUDGET
    assert summary["options"]["screen"] is True
    assert summary["glances"] == 28
    measures = summary["evaluation"]["measures"]
    assert measures["screened"]["mAP"]["mean"] > measures["retrieval"]["mAP"]["mean"]
    assert measures["reranked"]["mAP"]["mean"] >= measures["screened"]["mAP"]["mean"]

    rows = pq.read_table(output / "ranking.parquet").to_pylist()
    plain = rerank(place, tmp_path / "plain", kept_executor, screen=False)
    assert (
        plain["evaluation"]["measures"]["reranked"]["mAP"]["mean"]
        < (measures["reranked"]["mAP"]["mean"])
    )  # as many candidates of every query, the first of retrieval
    before = {
        (row["query"], row["candidate"]): (row["retrieval_rank"], row["retrieval_score"])
        for row in pq.read_table(tmp_path / "plain" / "ranking.parquet").to_pylist()
    }
    assert {
        (row["query"], row["candidate"]): (row["retrieval_rank"], row["retrieval_score"])
        for row in rows
    } == before
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["candidate"]: row["reason"] for row in failed} == {
        "cut.jpg": "truncated",
        "gone.jpg": "unknown_image",
    }
    assert {row["rank"] for row in failed} == {10, 11}  # and they took no place of the budget
    assert summary["failed"] == {"truncated": 1, "unknown_image": 1}
    matched = [row["query"] for row in rows if row["num_inliers"] is not None]
    assert [matched.count(name) for name in sorted(set(matched))] == [BUDGET] * 3
    queries = pq.read_table(output / "queries.parquet").to_pylist()
    first = {key[0]: key[1] for key, (rank, _) in before.items() if rank == 1}
    assert {row["query"]: row["first_before"] for row in queries} == first


def test_a_screening_that_is_stopped_goes_on_to_the_same_bytes(
    place: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path, kept_executor: Executor
) -> None:
    def stop(event: Event) -> None:
        if event.name == "progress":
            raise Stop

    with pytest.raises(Stop):
        rerank(place, tmp_path / "run", kept_executor, progress=stop)
    assert not (tmp_path / "run" / "rounds").exists()
    probes = [*(tmp_path / "run" / "screen" / "probes").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in probes}
    assert before
    rerank(place, tmp_path / "run", kept_executor, progress=nobody)
    assert results(tmp_path / "run") == results(whole[0])
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_dry_run_of_what_is_done_knows_the_order(
    place: Path, whole: tuple[Path, dict[str, Any]], kept_executor: Executor
) -> None:
    told: list[Event] = []
    rerank(place, whole[0], kept_executor, dry_run=True, progress=told.append)
    plans = [event.fields for event in told if event.name == "plan"]
    assert [plan["done"] == plan["shards"] for plan in plans] == [True, True]
    assert plans[1]["pairs"] == whole[1]["pairs"]


def test_no_gate_is_none_whatever_the_score(
    place: Path, whole: tuple[Path, dict[str, Any]], kept_executor: Executor
) -> None:
    for score in ("ratio", "sum"):
        found = rerank(place, whole[0], kept_executor, score=score, gate=0)
        assert found["gated_queries"] == 0


def test_a_dry_run_tells_the_cost_of_both_and_writes_nothing(
    place: Path, tmp_path: Path, kept_executor: Executor
) -> None:
    told: list[Event] = []
    assert (
        rerank(place, tmp_path / "run", kept_executor, dry_run=True, progress=told.append) is None
    )
    assert not (tmp_path / "run").exists()
    plans = [event.fields["pairs"] for event in told if event.name == "plan"]
    assert plans[0] == 28
    assert plans[1] <= 3 * BUDGET
    assert [event.text for event in told if event.name == "screening"] == [
        "screening: a glance at 28 pairs"
    ]
