"""Lists of candidates, which retrieval proposes, and lists of truth, read and checked.

    a list in Parquet, CSV, text or TREC's run format → Candidates: a row for every candidate of
                                                        every query, best first
    a truth in Parquet, CSV, JSON or TREC's qrels     → a table of the (query, candidate) that
                                                        belong together

Candidates are ordered by their scores, and by their lines where scores are equal or absent. A line
that cannot be used becomes a row of FAILURES. Everything is columns, so a million lines make no
Python objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PairListError, StorageError
from pipeline.names.resolve import PLAIN, NameRules, Resolver
from pipeline.pairs.pair_list import ROWS, decoded_list, resolved, table_rows, text_rows
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of
from pipeline.tables import FAILURES
from pipeline.vocabulary import Reason, StageName

# The numbers of a TREC line are the candidate's place and its score. Names may hold spaces where
# tabs separate the fields.
_SCORE = r"\+?(?P<score>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_RUN = r"^(?P<query>{0})\s+{0}\s+(?P<candidate>{0})\s+\d+\s+" + _SCORE + r"(?:\s+{0})?$"
_QRELS = r"^(?P<query>{0})\s+{0}\s+(?P<candidate>{0})\s+" + _SCORE + "$"
NAME_PATTERNS = (r"[^\t]+?", r"\S+")  # of a name between tabs, and between spaces


@dataclass(frozen=True)
class Candidates:
    """The candidates of every query, sorted by query and then best first.

    Each pair is there once, and no image is its own candidate.

    query, candidate: (N,) string arrays, names relative to their folders.
    score: (N,) float32, null where the list gives none.
    rank: (N,) int32, from 1 for each query.
    reason: (N,) string, `unknown_image` where a folder has no image of that name, else null.
    failures: table of FAILURES, one row for every line that cannot be matched.
    duplicates: number of lines that repeat a pair.
    """

    query: pa.Array
    candidate: pa.Array
    score: pa.Array
    rank: np.ndarray
    reason: pa.Array
    failures: pa.Table
    duplicates: int

    @property
    def starts(self) -> np.ndarray:
        """The rows at which the queries start, and N: (Q + 1,)."""
        return np.append(np.flatnonzero(self.rank == 1), len(self.rank))


def read_candidates(
    url: str | os.PathLike[str],
    queries: Sequence[str],
    database: Sequence[str],
    same: Callable[[pa.Array, pa.Array], pa.Array],
    options: dict[str, Any] | None = None,
    rules: tuple[NameRules, NameRules] = (PLAIN, PLAIN),
) -> Candidates:
    """A list of candidates at a local path or fsspec URL, checked against the names of the images.

    `.parquet`: columns query, candidate and perhaps score (or image0, image1, score).
    `.csv`: the same columns in this order, with or without a header.
    `.trec`, `.run`, or a `.txt` whose first line has this form: `query Q0 candidate rank score
        tag`. The score decides the order, as in trec_eval.
    Any other `.txt`: a pair list, also kapture's, the query first. See `pair_list.read_pairs` for
        quotes, tabs and comments.

    same: says, row by row, whether the names of a query and a candidate are one file.

    rules: how names of queries and of candidates are understood that no folder has.

    Raises `PairListError` where the list is missing, of another kind, without its columns or
    without a candidate, and where a name fits several images.
    """
    rows, name = _read_file(url, options, _RUN, ".run")
    if not len(rows):
        raise PairListError(
            f"{name}: is empty; give a line `query candidate score` for each candidate."
        )
    resolvers = [
        Resolver(names, rule) for names, rule in zip((queries, database), rules, strict=True)
    ]
    columns = ("image0", "image1")
    for column, resolver in zip(columns, resolvers, strict=True):
        meant = resolved(rows, column, resolver, "line", name)
        named = pc.coalesce(resolver.known.take(pa.array(meant, mask=meant < 0)), rows[column])
        rows = rows.set_column(rows.column_names.index(column), column, named)
    sides = rows["image0"].combine_chunks(), rows["image1"].combine_chunks()
    malformed = pc.or_(pc.is_null(sides[0]), pc.is_null(sides[1]))
    itself = pc.fill_null(same(*sides), False)
    known = [
        pc.is_in(side, value_set=resolver.known)
        for side, resolver in zip(sides, resolvers, strict=True)
    ]
    unknown = pc.invert(pc.and_(*known))
    failures = _candidate_failures(rows, name, malformed, itself, known, resolvers)
    kept = pc.invert(pc.or_(malformed, itself))
    rows = rows.append_column("unknown", unknown).filter(kept)
    if pc.all(rows["unknown"]).as_py() in (True, None):
        first = failures["detail"][0].as_py()
        raise PairListError(
            f"{name}: names no candidate of a query in the folders ({first}); "
            "check names and folders."
        )
    # Rows are sorted by query, then best first, then in the order of the list. Of equal pairs the
    # best is kept.
    rows = rows.sort_by([("image0", "ascending"), ("score", "descending"), ("number", "ascending")])
    firsts = rows.append_column("row", pa.array(np.arange(len(rows)))).group_by(
        ["image0", "image1"], use_threads=False
    )
    chosen = np.sort(firsts.aggregate([("row", "min")])["row_min"].to_numpy())
    duplicates = len(rows) - len(chosen)
    rows = rows.take(pa.array(chosen)).combine_chunks()
    query = rows["image0"].combine_chunks()
    code = query.dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1])[: len(code)])
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows)))) + 1
    reason = pc.if_else(
        rows["unknown"], Reason.UNKNOWN_IMAGE.value, pa.scalar(None, pa.string())
    ).combine_chunks()
    others = (rows["image1"].combine_chunks(), rows["score"].combine_chunks())
    return Candidates(query, *others, rank.astype(np.int32), reason, failures, duplicates)


def read_truth(url: str | os.PathLike[str], options: dict[str, Any] | None = None) -> pa.Table:
    """Which images belong together: a table of distinct rows `query`, `candidate`.

    `.parquet` or `.csv`: columns query, candidate and perhaps relevance. A row is true where its
        relevance is above 0 or missing.
    `.json`: an object whose `positives` give a list of names for every query.
    `.txt`, `.qrels`, `.trec`: `query 0 candidate relevance`, or a pair list.

    Raises `PairListError` where the file is missing, of another kind, malformed or empty.
    """
    folder, name = Folder.of_file(url, options)
    if name.lower().endswith(".json"):
        try:
            content = folder.read_json(name)
        except (StorageError, OSError) as error:
            raise PairListError(
                f"{folder.shown}/{name}: cannot be read ({cause_of(error)}); check the path."
            ) from error
        flat = [
            (query, candidate)
            for query, found in _positives(content, name).items()
            for candidate in found
        ]
        columns = [pa.array([row[side] for row in flat], pa.string()) for side in (0, 1)]
        truth = pa.table(columns, names=["query", "candidate"])
    else:
        rows, name = _read_file(url, options, _QRELS, ".qrels")
        bad = rows.filter(pc.or_(pc.is_null(rows["image0"]), pc.is_null(rows["image1"])))
        if len(bad):
            raise PairListError(
                f"{name}: line {bad['number'][0]} is no `query candidate` "
                f"({bad['text'][0]}); correct it."
            )
        rows = rows.filter(pc.fill_null(pc.greater(rows["score"], 0), True))
        truth = rows.select(["image0", "image1"]).rename_columns(["query", "candidate"])
    if not len(truth):
        raise PairListError(f"{name}: says of no image that it is true.")
    return truth.group_by(["query", "candidate"], use_threads=False).aggregate([])


def _positives(content: Any, name: str) -> dict[str, list[str]]:
    """The lists of true images of every query, of the JSON file `name`."""
    positives = content.get("positives") if isinstance(content, dict) else None
    if not isinstance(positives, dict) or not all(
        isinstance(found, list) and all(isinstance(candidate, str) for candidate in found)
        for found in positives.values()
    ):
        raise PairListError(f'{name}: holds no {{"positives": {{query: [candidate, …]}}}}.')
    return positives


def _read_file(
    url: str | os.PathLike[str], options: dict[str, Any] | None, trec: str, ending: str
) -> tuple[pa.Table, str]:
    """A list of any format as a table of ROWS, and the file's name.

    Rows are in the order of the lines. Malformed lines have null names.

    trec, ending: the pattern of TREC's lines and the ending that means it.
    """
    folder, name = Folder.of_file(url, options)
    kind = os.path.splitext(name)[1].lower()
    if kind not in (".txt", ".csv", ".parquet", ".trec", ending):
        known = f".parquet, .csv, .txt, .trec or {ending}"
        raise PairListError(f"{name}: is no list by its ending; give a {known} file.")
    try:
        if kind == ".parquet":
            table = folder.read_table(name)
            columns = [
                "score" if column == "relevance" else column for column in table.column_names
            ]
            return pa.concat_tables(table_rows(table.rename_columns(columns), name)), name
        text, comma = decoded_list(folder.read_bytes(name), kind)
    except (StorageError, OSError) as error:
        raise PairListError(
            f"{folder.shown}/{name}: cannot be read ({cause_of(error)}); check the path."
        ) from error
    first = next(
        (line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"), ""
    )
    if kind in (".trec", ending) or (
        kind == ".txt" and _fields(pa.array([first]), trec)[0][0].is_valid
    ):
        return _trec_rows(text, trec), name
    found = text_rows(text, comma)
    return pa.concat_tables([ROWS.empty_table(), *found]).sort_by("number"), name


def _trec_rows(text: str, pattern: str) -> pa.Table:
    """The lines of a TREC file as a table of ROWS."""
    lines = pc.utf8_trim_whitespace(
        pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten()
    )
    numbers = pa.array(np.arange(1, len(lines) + 1))
    content = pc.invert(pc.match_substring_regex(lines, "^(#|$)"))
    lines, numbers = lines.filter(content).cast(pa.string()), numbers.filter(content)
    return pa.Table.from_arrays([numbers, *_fields(lines, pattern), lines], schema=ROWS)


def _fields(lines: pa.Array, pattern: str) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Query, candidate and score of TREC lines; null where a line has another form."""
    tabs, spaces = (pc.extract_regex(lines, pattern.replace("{0}", name)) for name in NAME_PATTERNS)
    found = pc.if_else(pc.match_substring(lines, "\t"), tabs, spaces)
    query, candidate, score = (
        pc.struct_field(found, field) for field in ("query", "candidate", "score")
    )
    return query, candidate, score.cast(pa.float32())


def _candidate_failures(
    rows: pa.Table,
    name: str,
    malformed: pa.Array,
    itself: pa.Array,
    known: list[pa.Array],
    resolvers: list[Resolver],
) -> pa.Table:
    """The ROWS that cannot be matched as a table of FAILURES, which says why and where."""
    bad = pc.or_(pc.or_(malformed, itself), pc.invert(pc.and_(*known)))
    cases = pc.make_struct(malformed, itself)
    reason = pc.case_when(
        cases,
        Reason.MALFORMED_LINE.value,
        Reason.SELF_PAIR.value,
        Reason.UNKNOWN_IMAGE.value,
    )
    wrong = pc.invert(pc.or_(malformed, itself))
    hints = [
        pc.fill_null(resolver.hints(pc.if_else(pc.and_(wrong, pc.invert(there)), side, None)), "")
        for resolver, there, side in zip(
            resolvers, known, (rows["image0"], rows["image1"]), strict=True
        )
    ]
    absent = pc.if_else(
        known[0],
        pc.binary_join_element_wise("the database has no image ", rows["image1"], hints[1], ""),
        pc.binary_join_element_wise("there is no query ", rows["image0"], hints[0], ""),
    )
    text = pc.coalesce(pc.utf8_slice_codeunits(rows["text"], 0, 200), "a name is missing")
    detail = pc.case_when(
        cases,
        pc.binary_join_element_wise("not a query, a candidate and at most a score", text, ": "),
        "an image is its own candidate",
        absent,
    )
    place = pc.binary_join_element_wise("line", rows["number"].cast(pa.string()), "of", name, " ")
    columns = [rows["image0"], rows["image1"], pa.repeat(StageName.PLAN.value, len(rows)), reason]
    table = pa.Table.from_arrays(
        [*columns, pc.binary_join_element_wise(place, detail, ": ")], schema=FAILURES
    )
    return table.filter(bad)
