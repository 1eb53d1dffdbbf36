"""Pair lists: read, checked against the images, in canonical order, without duplicates.

    names (n, sorted) and a list in text, CSV or Parquet → PairList: pairs (N, 2) int32, indices
    i < j into names

`A B` and `B A` are one pair. A pair that cannot be matched becomes a row of FAILURES with one of
the reasons of `vocabulary.LINE_MEANINGS`. Everything is columns from start to end, so a million
pairs make no Python objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PairListError, StorageError
from pipeline.names.resolve import AMBIGUOUS, PLAIN, NameRules, Resolver
from pipeline.names.text import csv_text, text_of
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of
from pipeline.tables import FAILURES, PAIRS
from pipeline.vocabulary import Reason, StageName


def _line(plain: str, between: str) -> str:
    """A pattern of two names and perhaps a score.

    Each name is quoted or plain. It has a group for either, and one of the two stays empty.
    """
    name = rf'(?:"(?P<q#>(?:[^"]|"")+)"|(?P<n#>{plain}))'
    score = r"\+?(?P<score>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    first, second = name.replace("#", "0"), name.replace("#", "1")
    return rf"^{first}\s*{between}\s*{second}(?:\s*{between}\s*(?:{score})?)?$"


SPACES, TABS, COMMAS = _line(r'[^\s"]+', r"\s"), _line(r'[^\t"]+?', r"\t"), _line('[^,"]+?', ",")
CSV_HEADER = (
    r'(?i)^"?(?:image_?0"?\s*,\s*"?image_?1|query"?\s*,\s*"?candidate)"?\s*(?:,\s*"?\w*"?\s*)?$'
)
# Columns of a list of candidates, which is also a list of pairs.
CANDIDATE_COLUMNS = {"query": "image0", "candidate": "image1"}
LINES = 1 << 17  # parsed at a time, so that the pieces of a long list are not all in memory

# What a list is parsed into. number: of the line. image0, image1: null where the line is malformed.
# text: of the line.
ROWS = pa.schema(
    {
        "number": pa.int64(),
        "image0": pa.string(),
        "image1": pa.string(),
        "score": pa.float32(),
        "text": pa.string(),
    }
)


@dataclass(frozen=True)
class PairList:
    """Pairs of images to match, and what was wrong with the rest of the list.

    pairs: (N, 2) int32, unique, sorted, indices i < j into the sorted names.
    scores: (N,) float32, NaN where the list gives none, the highest one of equal pairs. None: the
        list has no scores at all.
    failures: table of FAILURES.
    duplicates: number of lines that repeat a pair.
    """

    pairs: np.ndarray
    scores: np.ndarray | None
    failures: pa.Table
    duplicates: int


def exhaustive(n: int) -> np.ndarray:
    """Every pair of n images: (n (n − 1) / 2, 2) int32, i < j, sorted."""
    if n < 0:
        raise ValueError(f"n must not be negative, not {n}.")
    pairs = np.empty((n * (n - 1) // 2, 2), np.int32)
    start = 0
    for i in range(n - 1):
        rows = pairs[start : start + n - 1 - i]
        rows[:, 0], rows[:, 1] = i, np.arange(i + 1, n)
        start += len(rows)
    return pairs


def pairs_table(
    names: Sequence[str], pairs: np.ndarray, scores: np.ndarray | None = None
) -> pa.Table:
    """A table of PAIRS.

    pairs: (N, 2) indices into names. scores: (N,) with NaN for none, or None for no scores at all.
    """
    known = pa.array(names, pa.string())
    columns = [known.take(pa.array(np.ascontiguousarray(pairs[:, side]))) for side in (0, 1)]
    missing = pa.nulls(len(pairs), pa.float32())
    columns.append(missing if scores is None else pa.array(scores, pa.float32(), from_pandas=True))
    return pa.Table.from_arrays(columns, schema=PAIRS)


def read_pairs(
    url: str | os.PathLike[str],
    names: Sequence[str],
    options: dict[str, Any] | None = None,
    rules: NameRules = PLAIN,
) -> PairList:
    """A pair list at a local path or fsspec URL, checked against the names of the images.

    `.txt`: two names a line and optionally a score, separated by tabs or by spaces. A name that
        holds spaces stands between tabs or in double quotes. Empty lines and lines that start with
        # are skipped.
    `.csv`, and text that starts as kapture's does: the same with commas, with or without the header
        image0,image1[,score]. A `.csv` may have semicolons and decimal commas.
    `.parquet`: a table of PAIRS.

    Header and columns may also be those of CANDIDATES.

    names: sorted and unique, as `photos.source.list_images` gives them.
    options: of the fsspec filesystem.
    rules: how names of the list are understood that are none of `names`.

    Raises `PairListError` where the list is missing, of another kind or without its columns, and
    where a name fits several images; ValueError where the names are not sorted.
    """
    known = pa.array(names, pa.string())
    if len(known) > 1 and not pc.all(pc.less(known[:-1], known[1:])).as_py():
        raise ValueError("names must be sorted and unique.")
    rows, unit, name = read_rows(url, options)
    return _collected(rows, Resolver(known, rules), unit, name)


def read_rows(
    url: str | os.PathLike[str], options: dict[str, Any] | None = None
) -> tuple[Iterator[pa.Table], str, str]:
    """A pair list as it is written, unchecked.

    Returns tables of ROWS, the word for a row ("row" or "line"), and the file's name. Raises
    `PairListError` as `read_pairs` does, for missing columns only when the tables are taken.
    """
    folder, name = Folder.of_file(url, options)
    kind = os.path.splitext(name)[1].lower()
    if kind not in (".txt", ".csv", ".parquet"):
        raise PairListError(
            f"{name}: is no pair list by its ending; give a .txt, .csv or .parquet file."
        )
    try:
        if kind == ".parquet":
            return table_rows(folder.read_table(name), name), "row", name
        text, comma = decoded_list(folder.read_bytes(name), kind)
        return text_rows(text, comma), "line", name
    except (StorageError, OSError) as error:
        raise PairListError(
            f"{folder.shown}/{name}: cannot be read ({cause_of(error)}); check the path."
        ) from error


def decoded_list(data: bytes, kind: str) -> tuple[str, bool]:
    """The text of a list, and whether commas separate its columns. kind: the ending of its file."""
    text = csv_text(data) if kind == ".csv" else text_of(data)
    return text, kind == ".csv" or text.startswith("# kapture")


def check_pairs(table: pa.Table, names: Sequence[str], rules: NameRules = PLAIN) -> PairList:
    """A table of PAIRS in memory, checked against the names of the images.

    names: sorted and unique. rules: as of `read_pairs`. Raises `PairListError` where the table has
    other columns, and where a name fits several images.
    """
    return _collected(table_rows(table, "pairs"), Resolver(names, rules), "row", "pairs")


def text_rows(text: str, comma: bool) -> Iterator[pa.Table]:
    """Tables of ROWS from the lines of a text. See `read_pairs` for what a line may be."""
    lines = pc.split_pattern(pa.array([text], pa.large_string()), "\n").flatten()
    lines = pc.utf8_trim_whitespace(lines)
    numbers = pa.array(np.arange(1, len(lines) + 1))
    content = pc.invert(pc.match_substring_regex(lines, "^(#|$)"))
    lines, numbers = lines.filter(content), numbers.filter(content)
    if comma and len(lines) and pc.match_substring_regex(lines[:1], CSV_HEADER)[0].as_py():
        lines, numbers = lines[1:], numbers[1:]
    for start in range(0, len(lines), LINES):
        part, at = lines[start : start + LINES].cast(pa.string()), numbers[start : start + LINES]
        tabs = pc.match_substring(part, "\t")
        if comma:
            yield _split(part, at, COMMAS)
        else:
            yield _split(part.filter(tabs), at.filter(tabs), TABS)
            yield _split(part.filter(pc.invert(tabs)), at.filter(pc.invert(tabs)), SPACES)


def _split(lines: pa.Array, numbers: pa.Array, pattern: str) -> pa.Table:
    found = pc.extract_regex(lines, pattern)
    sides = []
    for side in "01":
        quoted = pc.replace_substring(pc.struct_field(found, "q" + side), '""', '"')
        sides.append(pc.binary_join_element_wise(quoted, pc.struct_field(found, "n" + side), ""))
    score = pc.struct_field(found, "score")
    score = pc.cast(pc.if_else(pc.equal(score, ""), None, score), pa.float32())
    return pa.Table.from_arrays([numbers, *sides, score, lines], schema=ROWS)


def table_rows(table: pa.Table, name: str) -> Iterator[pa.Table]:
    """A table of ROWS from a table of PAIRS or CANDIDATES, or of their columns in other types.

    name: what an error calls the table. Raises `PairListError` for other columns.
    """
    table = table.rename_columns(
        [CANDIDATE_COLUMNS.get(column, column) for column in table.column_names]
    )
    try:
        images = [table[column].cast(pa.string()) for column in ("image0", "image1")]
        has_score = "score" in table.column_names
        score = (
            table["score"].cast(pa.float32()) if has_score else pa.nulls(len(table), pa.float32())
        )
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        needs = "needs text columns image0 and image1 and may have a number column score"
        raise PairListError(f"{name}: {needs} ({error}).") from error
    numbers = pa.array(np.arange(len(table)))
    yield pa.Table.from_arrays(
        [numbers, *images, score, pa.nulls(len(table), pa.string())], schema=ROWS
    )


def _collected(tables: Iterable[pa.Table], resolver: Resolver, unit: str, name: str) -> PairList:
    """The sorted unique pairs of known images in tables of ROWS, and a failure for every other row.

    unit: the word for a row in messages. name: the list's name in messages.
    """
    sides = [np.empty((2, 0), np.int64)]
    scores = [np.empty(0, np.float32)]
    failures = [ROWS.empty_table()]
    for rows in tables:
        i, j = (resolved(rows, side, resolver, unit, name) for side in ("image0", "image1"))
        good = (i >= 0) & (j >= 0) & (i != j)
        sides.append(np.stack([i[good], j[good]]))
        scores.append(rows["score"].to_numpy()[good])
        failures.append(rows.filter(pa.array(~good)))
    first, second = np.concatenate(sides, axis=1)
    pairs, score, repeated = canonical(first, second, np.concatenate(scores))
    bad = _pair_failures(pa.concat_tables(failures).sort_by("number"), resolver, unit, name)
    return PairList(pairs, None if np.isnan(score).all() else score, bad, repeated)


def canonical(
    first: np.ndarray, second: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs in any order, each perhaps several times, as sorted unique pairs with the best score.

    first, second: (M,) indices of images, never equal. scores: (M,) float32, NaN for none.

    Returns pairs (N, 2) int32 with i < j, the highest score of each (N,) float32, and how many
    pairs repeated another.
    """
    i, j = np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)
    filled = np.nan_to_num(
        np.asarray(scores, np.float32), nan=-np.inf, posinf=np.inf, neginf=-np.inf
    )
    order = np.lexsort((-filled, j, i))  # of equal pairs, the highest score is first
    i, j, filled = i[order], j[order], filled[order]
    new = np.append(True, (i[1:] != i[:-1]) | (j[1:] != j[:-1]))[: len(i)]
    best = np.where(np.isneginf(filled[new]), np.float32(np.nan), filled[new])
    return np.stack([i[new], j[new]], axis=1).astype(np.int32), best, int((~new).sum())


def resolved(rows: pa.Table, side: str, resolver: Resolver, unit: str, name: str) -> np.ndarray:
    """The image that every one of ROWS names in the column `side`, negative where there is none.

    unit: the word for a row in messages. name: the list's name in messages.

    Raises `PairListError` for a name that fits several images.
    """
    found = resolver.indices(rows[side])
    several = np.flatnonzero(found == AMBIGUOUS)
    if len(several):
        row = int(several[0])
        listed, number = rows[side][row].as_py(), rows["number"][row].as_py()
        choices = " or ".join(resolver.choices(listed)[:2])
        raise PairListError(
            f"{name}, {unit} {number}: {listed} may be {choices}; give the whole name."
        )
    return found


def _pair_failures(rows: pa.Table, resolver: Resolver, unit: str, name: str) -> pa.Table:
    """The ROWS that cannot be matched as a table of FAILURES, which says why and where."""
    first, second = rows["image0"], rows["image1"]
    missing = [pa.array(resolver.indices(side) < 0) for side in (first, second)]
    malformed = pc.or_(pc.is_null(first), pc.is_null(second))
    cases = pc.make_struct(malformed, pc.or_(*missing))
    reason = pc.case_when(
        cases,
        Reason.MALFORMED_LINE.value,
        Reason.UNKNOWN_IMAGE.value,
        Reason.SELF_PAIR.value,
    )
    text = pc.coalesce(pc.utf8_slice_codeunits(rows["text"], 0, 200), "a name is missing")
    absent = pc.if_else(missing[0], first, second)
    unknown = pc.if_else(pc.or_(malformed, pc.invert(pc.or_(*missing))), None, absent)
    hints = pc.fill_null(resolver.hints(unknown), "")
    detail = pc.case_when(
        cases,
        pc.binary_join_element_wise("not two names and at most a score", text, ": "),
        pc.binary_join_element_wise("there is no image ", absent, hints, ""),
        "an image is paired with itself",
    )
    place = pc.binary_join_element_wise(unit, rows["number"].cast(pa.string()), "of", name, " ")
    columns = [
        first,
        second,
        pa.repeat(StageName.PLAN.value, len(rows)),
        reason,
        pc.binary_join_element_wise(place, detail, ": "),
    ]
    return pa.Table.from_arrays(columns, schema=FAILURES)
