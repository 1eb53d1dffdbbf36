"""The order of candidates, the gate, and what cannot change any more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from synthetic_run import Scene

from pipeline.match.options import VerificationOptions
from pipeline.match.verify import VerifyShard
from pipeline.pairs.candidates import Candidates
from pipeline.rerank.ranking import Order, Support, decided, order, pair_keys, pair_scores, support
from pipeline.tables import FAILURES, unragged


def candidates(*counts: int, reason: list[str | None] | None = None) -> Candidates:
    """Queries of so many candidates each."""
    rank = np.concatenate([np.arange(1, count + 1, dtype=np.int32) for count in counts])
    query = [f"q{k}" for k, count in enumerate(counts) for _ in range(count)]
    total = len(rank)
    return Candidates(
        pa.array(query),
        pa.array([f"c{k}" for k in range(total)]),
        pa.nulls(total, pa.float32()),
        rank,
        pa.array(reason or [None] * total, pa.string()),
        FAILURES.empty_table(),
        0,
    )


def known(*inliers: int | None, failed: tuple[int, ...] = ()) -> Support:
    """Support by number of inliers; None where a pair has no result."""
    values = np.array([value or 0 for value in inliers], np.int32)
    lost = np.isin(np.arange(len(values)), failed)
    return Support(
        np.array([value is not None for value in inliers]),
        lost,
        pa.array(["truncated" if one else None for one in lost], pa.string()),
        values,
        values.astype(np.float32),
    )


def test_without_a_gate_a_leader_with_fewer_inliers_leads() -> None:
    """As one with a greater sum of scores may."""
    few = replace(known(90, 40), score=np.array([1.0, 2.0], np.float32))
    assert order(candidates(2), few, gate=0).rank.tolist() == [2, 1]
    assert order(candidates(2), few, gate=25).rank.tolist() == [1, 2]


def test_support_orders_and_retrieval_breaks_ties() -> None:
    found = order(candidates(6), known(0, 40, 90, 40, 0, None))
    assert found.rank.tolist() == [4, 2, 1, 3, 5, 6]


def test_failed_candidates_come_last_and_unmatched_ones_keep_their_place() -> None:
    found = order(candidates(5), known(0, None, 0, None, 30, failed=(0,)))
    assert found.rank.tolist() == [5, 2, 3, 4, 1]


def test_queries_do_not_mix() -> None:
    found = order(candidates(2, 3), known(10, 50, 30, 20, 70))
    assert found.rank.tolist() == [2, 1, 2, 3, 1]
    assert found.margin.tolist() == [40, 40]


def test_the_gate_leaves_a_first_place_that_is_not_clearly_beaten() -> None:
    three = candidates(3, 3, 3)
    found = known(30, 54, 60, 30, 0, 55, 60, 30, 40)  # beaten by 30; beaten by 25; first
    assert order(three, found, gate=31).rank.tolist() == [1, 3, 2, 1, 3, 2, 1, 3, 2]
    assert order(three, found, gate=30).rank.tolist() == [3, 2, 1, 1, 3, 2, 1, 3, 2]
    assert order(three, found, gate=26).gated.tolist() == [False, True, False]
    assert order(three, found, gate=25).gated.tolist() == [False, False, False]
    assert order(three, found).rank.tolist() == [3, 2, 1, 2, 3, 1, 1, 3, 2]
    assert order(three, found).rank.tolist() == order(three, found, gate=0).rank.tolist()


def test_behind_a_first_candidate_that_failed_the_next_one_is_the_first() -> None:
    found = order(candidates(3), known(0, 10, 40, failed=(0,)), gate=30)
    assert (found.rank.tolist(), found.margin.tolist()) == ([3, 2, 1], [30])
    kept = order(candidates(3), known(0, 10, 40, failed=(0,)), gate=31)
    assert (kept.rank.tolist(), kept.gated.tolist()) == ([3, 1, 2], [True])


def test_above_the_saturation_retrieval_s_order_counts() -> None:
    found = known(0, 120, 300, 99)
    assert order(candidates(4), found, saturation=100).rank.tolist() == [4, 1, 2, 3]
    assert order(candidates(4), found, saturation=99).rank.tolist() == [4, 1, 2, 3]
    assert order(candidates(4), known(0, 98, 300, 99), saturation=99).rank.tolist() == [4, 3, 1, 2]


def test_a_query_is_decided_when_enough_candidates_are_certain_and_none_before_them_is_open() -> (
    None
):
    one = candidates(4)

    def stops(*inliers: int | None, top: int = 1, failed: tuple[int, ...] = ()) -> bool:
        (answer,) = decided(one, known(*inliers, failed=failed), 100, top)
        return bool(answer)

    assert stops(0, 100, None, None)
    assert not stops(0, 99, None, None)
    assert not stops(
        None, 100, None, None
    )  # the first could be certain too, and would stay before it
    assert stops(0, 100, None, None, failed=(0,))
    assert not stops(100, 0, None, 100, top=2)
    assert stops(100, 0, 100, None, top=2)
    assert decided(candidates(2, 2), known(100, None, 0, None), 100, 1).tolist() == [True, False]


@pytest.mark.parametrize("gate", [None, 30])
@pytest.mark.parametrize("top", [1, 3])
def test_the_first_places_of_a_decided_query_are_those_of_the_full_run(
    top: int, gate: int | None
) -> None:
    """What the early stop claims, for whatever the candidates that were not matched turn out to
    have.
    """
    rng = np.random.default_rng(top)
    stopped = 0
    for _ in range(400):
        listed = candidates(*rng.integers(1, 12, 20))
        count = len(listed.rank)
        inliers = np.where(rng.random(count) < 0.4, rng.integers(25, 200, count), 0).astype(
            np.int32
        )
        failed = rng.random(count) < 0.1
        inliers[failed] = 0
        full = Support(
            np.ones(count, bool),
            failed,
            pa.nulls(count, pa.string()),
            inliers,
            inliers.astype(np.float32),
        )
        # A prefix of every query, and others that a query of the same folder has brought.
        seen = (listed.rank <= rng.integers(1, 8)) | (rng.random(count) < 0.2)
        part = replace(
            full,
            known=seen,
            failed=failed & seen,
            inliers=np.where(seen, inliers, 0),
            score=np.where(seen, full.score, 0).astype(np.float32),
        )
        done = decided(listed, part, 80, top)
        stopped += done.sum()
        query = np.cumsum(listed.rank == 1) - 1
        ranks: list[Order] = [order(listed, found, 80, gate) for found in (full, part)]
        first = [np.where(one.rank <= top, one.rank, 0)[done[query]] for one in ranks]
        np.testing.assert_array_equal(*first)
        np.testing.assert_array_equal(ranks[0].gated[done], ranks[1].gated[done])
    assert stopped > 300


def test_scores_are_inliers_their_share_and_their_sum() -> None:
    scene = Scene(cameras=3, matches=120)
    matches = VerifyShard(VerificationOptions(long_side=480))(
        scene.matches_of([(0, 1), (2, 1)]), scene.images()
    )
    names = pa.array(sorted(scene.name(k) for k in range(3)))
    tables = {kind: pair_scores(matches, names, kind) for kind in ("inliers", "ratio", "sum")}
    good, scores = unragged(matches["inliers"]), unragged(matches["scores"])
    expected = {
        "inliers": [one.sum() for one in good],
        "ratio": [one.mean() for one in good],
        "sum": [score[one].sum() for score, one in zip(scores, good, strict=True)],
    }
    for kind, table in tables.items():
        assert table["score"].to_pylist() == pytest.approx(expected[kind], rel=1e-6)
        alone = [
            pair_scores(matches.slice(row, 1), names, kind)["score"][0].as_py() for row in range(2)
        ]
        assert alone == table["score"].to_pylist()  # to the last bit, whatever shard a pair is in
    assert tables["sum"]["inliers"].to_pylist() == expected["inliers"]
    with pytest.raises(ValueError, match="choose inliers, ratio, sum"):
        pair_scores(matches, names, "beauty")


def test_a_pair_is_found_in_both_directions() -> None:
    names = pa.array(["a", "b", "c"])
    keys = pair_keys(names, pa.array(["a", "c", "b", "gone"]), pa.array(["c", "a", "c", "a"]))
    assert keys[0] == keys[1]
    assert keys.tolist()[2:] == [5, -1]
    results = pa.table(
        {
            "pair": pa.array([keys[0]]),
            "failed": [False],
            "reason": pa.nulls(1, pa.string()),
            "inliers": pa.array([7], pa.int32()),
            "score": pa.array([7], pa.float32()),
        }
    )
    found = support(candidates(4, reason=[None, None, None, "unknown_image"]), keys, results)
    assert found.known.tolist() == [True, True, False, False]
    assert found.inliers.tolist() == [7, 7, 0, 0]
    assert found.reason.to_pylist() == [None, None, None, "unknown_image"]
    assert found.failed.tolist() == [False, False, False, True]
