"""Of the tries of a pair in several rounds, the one that counts: that with most inliers.

The first round writes `matches/<shard>.parquet` for all pairs. Later rounds write
`matches/<round>-<shard>.parquet` for the pairs that they try again at other turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED, Status

SIDES = ("image0", "image1")


def of_later_round(name: str) -> bool:
    """Whether a shard, or a file that is named after it, is of a later round."""
    return "-" in name


def round_of(name: str) -> int:
    """The round of a file that is named after a shard, 0 for the first one."""
    number, later, _ = name.rpartition("/")[2].partition("-")
    return int(number) if later else 0


def by_round(files: Sequence[str]) -> list[str]:
    """Files of all rounds, those of the first round first."""
    return sorted(files, key=lambda name: (of_later_round(name), name))


def settled_matches(
    run: Folder, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """Names and tables of MATCHES in which every pair stands once, by shard.

    columns: those wanted; None: all.
    """
    files = run.names("matches")
    later = [name for name in files if of_later_round(name)]
    if not later:
        yield from ((name, run.read_table(name, columns)) for name in files)
        return
    best = _best_tries(run, files, later)
    wanted = None if columns is None else [*dict.fromkeys((*SIDES, *columns))]
    for name in files:
        table = run.read_table(name, wanted)
        kept = [best.get(key, name) == name for key in _keys(table)]
        table = table.filter(pa.array(kept, pa.bool_()))
        yield name, table if columns is None else table.select(list(columns))


def settled_counts(run: Folder) -> tuple[Counter[str], Counter[str]]:
    """What the tries that count add up to: the numbers of `Counts`, and failures by reason.

    Images that were encoded are left out, because every round encodes some.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    columns = ("status", "reason", "geometry", "num_inliers", "scores")
    for _, table in settled_matches(run, columns):
        status = Counter(table["status"].to_pylist())
        verified = pc.is_in(table["geometry"], pa.array(VERIFIED, pa.string()))
        counts.update(
            {
                "pairs": table.num_rows,
                "matched": status[Status.MATCHED],
                "unmatched": status[Status.UNMATCHED],
                "verified": pc.sum(verified).as_py() or 0,
                "matches": pc.sum(pc.list_value_length(table["scores"])).as_py() or 0,
                "inliers": pc.sum(table["num_inliers"]).as_py() or 0,
            }
        )
        reasons.update(reason for reason in table["reason"].to_pylist() if reason)
    return counts, reasons


def _best_tries(
    run: Folder, files: Sequence[str], later: Sequence[str]
) -> dict[tuple[str, str], str]:
    """The file that holds the try that counts, of every pair that was tried again."""
    again = {key for name in later for key in _keys(run.read_table(name, SIDES))}
    best: dict[tuple[str, str], tuple[int, str]] = {}
    # The first round first: of equal tries the earlier one counts.
    for name in by_round(files):
        table = run.read_table(name, (*SIDES, "num_inliers"))
        inliers = pc.fill_null(table["num_inliers"], 0).to_pylist()
        for key, number in zip(_keys(table), inliers, strict=True):
            if key in again and (key not in best or number > best[key][0]):
                best[key] = number, name
    return {key: name for key, (_, name) in best.items()}


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    """The two names of every row, in their order in the alphabet."""
    pairs = np.stack([table[side].to_numpy(zero_copy_only=False) for side in SIDES], axis=1)
    return [tuple(sorted(pair)) for pair in pairs.tolist()]
