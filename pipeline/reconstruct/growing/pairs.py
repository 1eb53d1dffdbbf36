"""Which pairs of grown photographs are matched: none that a run has matched already."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.events import Listener
from pipeline.match.run import PLAN_FILE
from pipeline.match.shards import planned_shards
from pipeline.match.turns.tries import SIDES
from pipeline.names.resolve import NameRules, roots_of
from pipeline.pairs.formats import minus, of_pairs
from pipeline.pairs.pair_list import PairList, check_pairs, exhaustive, pairs_table, read_pairs
from pipeline.pairs.retrieval import plan_retrieval
from pipeline.reconstruct.growing.photographs import ComparedPhotographs
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES

TOP_K = 20  # photographs that a new one is paired with


def pairs_to_match(
    photographs: ComparedPhotographs,
    folder: Folder,
    runs: Sequence[Folder],
    given: str | os.PathLike[str] | pa.Table | None,
    top_k: int,
    weights: str,
    listen: Listener,
) -> PairList:
    """The candidates that no run has matched, as rows of `photographs.names`.

    given: a list or its table; None pairs every new photograph with those that look most like it,
        `top_k` of each photograph, as `eloftr pairs retrieval` does.

    Raises PairListError for a list that cannot be used.
    """
    names, storage = photographs.names, folder.options
    rules = NameRules(roots=roots_of(folder.url))
    if given is None:
        found = _alike(photographs, folder, top_k, weights, listen)
    elif isinstance(given, pa.Table):
        found = check_pairs(given, names, rules)
    else:
        found = read_pairs(os.fspath(given), names, storage, rules)
    return minus(
        found,
        [
            _matched(run, names, left_out)
            for run, left_out in zip(runs, photographs.stale, strict=True)
        ],
    )


def planned_pairs(run: Folder, names: Sequence[str]) -> PairList | None:
    """The pairs of a run that has begun; None where there is none."""
    if not run.exists(PLAN_FILE):
        return None
    shards = planned_shards(run.read_table(PLAN_FILE))
    couples = [(s.images[i], s.images[j]) for s in shards for i, j in s.pairs.tolist()]
    columns = [pa.array(side, pa.string()) for side in zip(*couples, strict=True)]
    return check_pairs(pa.table(columns, names=SIDES), names)


def _alike(
    photographs: ComparedPhotographs, folder: Folder, top_k: int, weights: str, listen: Listener
) -> PairList:
    """Pairs with a new photograph that look alike; all of them where they are few."""
    names = photographs.names
    if not photographs.fresh:
        nothing = np.empty(0, np.int64)
        return of_pairs(nothing, nothing)
    if len(names) <= top_k + 1:
        found = PairList(exhaustive(len(names)), None, FAILURES.empty_table(), 0)
    else:
        described, chosen = plan_retrieval(
            folder.url, folder.options, weights=weights, top_k=top_k, listen=listen
        )
        assert isinstance(chosen, PairList)  # candidates are of queries
        table = pairs_table(described, chosen.pairs, chosen.scores)
        found = replace(check_pairs(table, names), failures=chosen.failures)
    fresh = np.isin(names, photographs.fresh)
    wanted = fresh[found.pairs].any(axis=1)
    scores = None if found.scores is None else found.scores[wanted]
    return replace(found, pairs=found.pairs[wanted], scores=scores)


def _matched(run: Folder, names: Sequence[str], stale: frozenset[str]) -> PairList:
    """The pairs that a run has matched, without those of stale images."""
    known = pa.array([name for name in names if name not in stale], pa.string())
    row = np.flatnonzero([name not in stale for name in names])
    pairs = np.concatenate([np.empty((0, 2), np.int64), *_rows(run, known)])
    first, second = row[pairs].T
    return of_pairs(first, second)


def _rows(run: Folder, names: pa.Array) -> Iterator[np.ndarray]:
    """Rows of names of the pairs of every table of a run, (n, 2), without unknown names."""
    for name in run.names("matches"):
        table = run.read_table(name, SIDES)
        sides = [pc.fill_null(pc.index_in(table[side], value_set=names), -1) for side in SIDES]
        pairs = np.stack([side.to_numpy() for side in sides], axis=1).astype(np.int64)
        yield pairs[(pairs >= 0).all(axis=1)]
