"""Pair lists as files: written as other programs read them, several read together, joined and cut.

PairList → write_list → .parquet, .csv, hloc's and COLMAP's text, kapture's pairsfile
candidates of queries → write_candidates → the same with the query first, and TREC's run format
several lists → read_lists → their names, a PairList each → union, minus, sample
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.errors import PairListError
from pipeline.names.resolve import PLAIN, NameRules
from pipeline.pairs.pair_list import PairList, canonical, pairs_table, read_pairs, read_rows
from pipeline.store.folder import Folder, Names
from pipeline.tables import FAILURES

# The formats that each ending may mean. The first is what the ending alone means.
ENDINGS = {
    ".parquet": ("parquet",),
    ".csv": ("csv", "kapture"),
    ".txt": ("hloc", "colmap", "kapture"),
}
OF_CANDIDATES = ENDINGS | {
    ".txt": (*ENDINGS[".txt"], "trec"),
    ".trec": ("trec",),
    ".run": ("trec",),
}
FORMATS = ("parquet", "csv", "hloc", "colmap", "kapture", "trec")
# What reading takes away at the ends of a line: Unicode's white space, and a byte order mark.
BLANK = r"\s\pZ\x{0b}\x{1c}-\x{1f}\x{85}\x{feff}"
# What a name may not hold where nothing is quoted.
REFUSED = {
    "csv": r"[\r\n]",
    "hloc": rf'[\s"]|^[{BLANK}#]|[{BLANK}]$',
    "colmap": rf'[\s"]|^[{BLANK}#]|[{BLANK}]$',
    "kapture": rf'[,"\r\n]|^[{BLANK}#]|[{BLANK}]$',
    "trec": rf"[\t\r\n]|^[{BLANK}#]|[{BLANK}]$",
}
KAPTURE = b"# kapture format: 1.1\n# query_image, map_image, score\n"
MOST = 20_000_000  # pairs of a list; names of 25 letters alone then take 1 GB
MOST_BYTES = 2**31 - 1  # of the names on one side of a list: an array of strings holds no more


def format_of(
    url: str | os.PathLike[str],
    wanted: str | None = None,
    endings: dict[str, tuple[str, ...]] = ENDINGS,
) -> str:
    """The format of a list to be written: `wanted`, or what its ending means.

    endings: ENDINGS for pairs, OF_CANDIDATES for candidates of queries.

    Raises `PairListError` where ending and format do not fit.
    """
    name = os.fspath(url).rpartition("/")[2]
    fitting = endings.get(os.path.splitext(name)[1].lower())
    if not fitting:
        *most, last = endings
        what = "pair list" if endings is ENDINGS else "list of candidates"
        raise PairListError(
            f"{name}: is no {what} by its ending; give a {', '.join(most)} or {last} file."
        )
    if wanted not in (None, *fitting):
        raise PairListError(
            f"{name}: {wanted} is none of the formats of its ending ({', '.join(fitting)})."
        )
    return wanted or fitting[0]


def write_list(
    url: str | os.PathLike[str],
    names: Sequence[str],
    found: PairList,
    wanted: str | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Write the pairs of a list to a local path or fsspec URL, whole.

    wanted: one of FORMATS. None takes what the ending means. `parquet` is a table of PAIRS. `csv`
        has the header image0,image1,score. `hloc` and `colmap` are two names a line, without
        scores. `kapture` has the score in a third column, 1 where there is none.

    Raises `PairListError` for too many pairs and for names that a format cannot hold.
    """
    kind = format_of(url, wanted)
    check_size(url, (names, found.pairs[:, 0]), (names, found.pairs[:, 1]))
    _write(url, pairs_table(names, found.pairs, found.scores), kind, options)


def write_candidates(
    url: str | os.PathLike[str],
    table: pa.Table,
    wanted: str | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Write a table of CANDIDATES, in its order, as `write_list` does.

    The format `trec` is a run file with the table's scores.
    """
    _write(url, table, format_of(url, wanted, OF_CANDIDATES), options)


def check_size(url: str | os.PathLike[str], *sides: tuple[Sequence[str], np.ndarray]) -> None:
    """Raise `PairListError` where a list has too many pairs.

    sides: for each side of the pairs, the names and (N,) indices into them.
    """
    for names, taken in sides:
        letters = np.array([len(image.encode()) for image in names] or [0], np.int32)[taken].sum(
            dtype=np.int64
        )
        if len(taken) > MOST or letters > MOST_BYTES:
            name = os.fspath(url).rpartition("/")[2]
            raise PairListError(
                f"{name}: {len(taken):,} pairs are too many for one list; plan fewer."
            )


def trec_run(table: pa.Table, scores: pa.ChunkedArray | None = None, tag: str = "eloftr") -> bytes:
    """A TREC run file from a table with the columns query and candidate.

    The table is sorted by query and then best first. Fields are separated by spaces, or by tabs
    where a name holds a space.

    scores: (N,) of the candidates. None numbers the candidates of each query downwards, from their
        count to 1, because trec_eval sorts by the score alone and breaks ties by the names.
    """
    query, candidate = (table[name].combine_chunks() for name in ("query", "candidate"))
    code = query.dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1])[: len(code)])
    counts = np.diff(np.append(starts, len(code)))
    rank = np.arange(len(code)) - np.repeat(starts, counts) + 1
    down = pa.array(np.repeat(counts, counts) - rank + 1) if scores is None else scores
    spaced = [pc.any(pc.match_substring_regex(side, r"\s")).as_py() for side in (query, candidate)]
    numbers = (values.cast(pa.string()) for values in (pa.array(rank), down))
    lines = pc.binary_join_element_wise(
        query, "Q0", candidate, *numbers, tag, "\t" if any(spaced) else " "
    )
    return "".join(f"{line}\n" for line in lines.to_pylist()).encode()


def _write(
    url: str | os.PathLike[str], table: pa.Table, kind: str, options: dict[str, Any] | None
) -> None:
    """Write a table of two names and a score in one of FORMATS."""
    folder, name = Folder.of_file(url, options)
    if kind == "parquet":
        folder.publish_table(name, table)
        return
    used = pc.unique(pa.chunked_array([*table[0].chunks, *table[1].chunks], pa.string()))
    bad = used.filter(pc.match_substring_regex(used, REFUSED[kind]))
    if len(bad):
        cure = "give .csv or .parquet" if kind in ("hloc", "colmap") else "give .parquet"
        raise PairListError(f"{bad[0].as_py()!r}: a {kind} list cannot hold this name; {cure}.")
    sink = pa.BufferOutputStream()
    if kind == "csv":
        csv.write_csv(table, sink)
    elif kind == "trec":
        sink.write(trec_run(table, table["score"]))
    elif kind == "kapture":
        sink.write(KAPTURE)
        scored = table.set_column(2, "score", pc.fill_null(table["score"], 1.0))
        csv.write_csv(scored, sink, _plain(","))
    else:
        csv.write_csv(table.select([0, 1]), sink, _plain(" "))
    folder.publish(name, sink.getvalue())


def _plain(delimiter: str) -> csv.WriteOptions:
    return csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")


def read_lists(
    urls: Sequence[str],
    names: Names | None = None,
    options: dict[str, Any] | None = None,
    rules: NameRules = PLAIN,
) -> tuple[Names, list[PairList]]:
    """Several lists over the same images.

    names: the images, sorted; None takes every name that a list has. rules: as of `read_pairs`.

    Raises `PairListError` as `read_pairs` does.
    """
    if names is None:
        known: set[str] = set()
        for url in urls:
            for rows in read_rows(url, options)[0]:
                for side in ("image0", "image1"):
                    known.update(pc.unique(rows[side].drop_null()).to_pylist())
        names = sorted(known)
    return names, [read_pairs(url, names, options, rules) for url in urls]


def union(lists: Sequence[PairList]) -> PairList:
    """Every pair of any of the lists, with its highest score.

    duplicates: of each list, and between the lists.
    """
    pairs = np.concatenate([found.pairs for found in lists])
    scores = np.concatenate([_scores(found) for found in lists])
    joined, scores, repeated = canonical(pairs[:, 0], pairs[:, 1], scores)
    failures = pa.concat_tables([found.failures for found in lists])
    return PairList(
        joined, _or_none(scores), failures, repeated + sum(found.duplicates for found in lists)
    )


def minus(first: PairList, others: Sequence[PairList]) -> PairList:
    """The pairs of the first list that are in none of the others."""
    taken = np.concatenate([np.empty(0, np.int64), *(_keys(other) for other in others)])
    return _kept(
        first,
        ~np.isin(_keys(first), taken),
        pa.concat_tables(found.failures for found in (first, *others)),
    )


def sample(found: PairList, count: int, seed: int = 0, best: bool = False) -> PairList:
    """`count` pairs of a list, or all pairs where it has fewer.

    best: take the pairs with the highest scores. Otherwise they are drawn at random, and the same
        seed gives the same pairs.

    Raises `PairListError` for a negative count, and for `best` where the list has no scores.
    """
    if count < 0:
        raise PairListError(f"a sample of {count} pairs: give 0 or more.")
    if best and found.scores is None:
        raise PairListError("the list has no scores to choose the best pairs by; leave --best out.")
    if best:
        order = np.argsort(-np.nan_to_num(_scores(found), nan=-np.inf), kind="stable")
    else:
        order = np.random.default_rng(seed).permutation(len(found.pairs))
    kept = np.zeros(len(found.pairs), bool)
    kept[order[:count]] = True
    return _kept(found, kept, found.failures)


def of_pairs(
    first: np.ndarray,
    second: np.ndarray,
    scores: np.ndarray | None = None,
    failures: pa.Table | None = None,
) -> PairList:
    """Pairs of images (M,), (M,), each perhaps in both directions, as a PairList.

    duplicates: 0, because no list was written that repeats a pair.
    """
    scores = np.full(len(first), np.nan, np.float32) if scores is None else scores
    pairs, kept, _ = canonical(first, second, scores)
    return PairList(
        pairs, _or_none(kept), FAILURES.empty_table() if failures is None else failures, 0
    )


def _kept(found: PairList, kept: np.ndarray, failures: pa.Table) -> PairList:
    return PairList(found.pairs[kept], _or_none(_scores(found)[kept]), failures, found.duplicates)


def _keys(found: PairList) -> np.ndarray:
    """One number for each pair, (N,) int64."""
    first, second = found.pairs.astype(np.int64).T
    keys: np.ndarray = first << 32 | second
    return keys


def _scores(found: PairList) -> np.ndarray:
    return np.full(len(found.pairs), np.nan, np.float32) if found.scores is None else found.scores


def _or_none(scores: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(scores).all() else scores
