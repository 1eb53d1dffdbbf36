"""Recall, average precision and their intervals, against what a person would count."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.rerank.evaluation import MEASURES, intervals, judge, measured, table_text


def test_measures_are_those_counted_by_hand() -> None:
    query = np.array([0, 0, 0, 0, 1, 1, 2])
    rank = np.array([3, 1, 2, 4, 1, 2, 1])
    true = np.array([True, False, False, True, False, False, False])
    found = judge(query, rank, true, positives=np.array([3, 1, 0]))
    # Query 0: true at ranks 3 and 4, and a third image that is no candidate.
    assert found.values[0].tolist() == [0, 1, 1, 1, pytest.approx((1 / 3 + 2 / 4) / 3)]
    assert found.values[1].tolist() == [0, 0, 0, 0, 0]
    assert np.isnan(found.values[2]).all()
    assert found.positive.tolist() == [3, 0, 0]


def test_average_precision_is_the_plain_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        count = rng.integers(1, 30)
        rank, true = rng.permutation(count) + 1, rng.random(count) < 0.3
        missing = int(rng.integers(1, 4))
        shuffled = rng.permutation(2 * count)  # another query beside it, rows in no order
        rows = [
            np.concatenate(pair)[shuffled]
            for pair in ((rank * 0, rank * 0 + 1), (rank, rank), (true, ~true))
        ]
        found = judge(*rows, positives=np.array([true.sum() + missing, max((~true).sum(), 1)]))
        hits = np.sort(rank[true])
        expected = sum((k + 1) / at for k, at in enumerate(hits)) / (len(hits) + missing)
        assert found.values[0, -1] == pytest.approx(expected)
        assert found.positive[0] == (hits[0] if len(hits) else 0)


def test_intervals_hold_the_mean_and_come_from_the_seed() -> None:
    values = (np.random.default_rng(1).random((100, 2)) < 0.3).astype(float)
    found = intervals(values, seed=3)
    assert (found[:, 1] < found[:, 0]).all()
    assert (found[:, 0] < found[:, 2]).all()
    deviation = np.sqrt(found[:, 0] * (1 - found[:, 0]) / 100)
    assert (found[:, 2] - found[:, 1]) / deviation == pytest.approx(2 * 1.96, rel=0.1)
    np.testing.assert_array_equal(found, intervals(values, seed=3))
    assert not np.array_equal(found, intervals(values, seed=4))
    beside = np.concatenate([values, np.full((5, 2), np.nan)])
    np.testing.assert_array_equal(found, intervals(beside, seed=3))
    assert np.isnan(intervals(np.full((2, 2), np.nan))).all()


def test_the_table_has_a_line_for_each_ranking() -> None:
    one = measured(np.ones((4, len(MEASURES))))
    lines = table_text({"retrieval": one, "reranked": one}).splitlines()
    assert [line.split()[0] for line in lines] == ["recall@1", "retrieval", "reranked"]
    assert lines[1].count("100.0 [100.0 100.0]") == len(MEASURES)
