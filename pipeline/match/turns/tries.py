"""Of the tries of a pair in several rounds, the one that counts: that with most inliers.

The first round writes `matches/<shard>.parquet` for all pairs. Later rounds write
`matches/<round>-<shard>.parquet` for the pairs that they try again at other turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Settled:
    """The match tables of a run, of which every pair counts once. Any process can read them.

    names: the tables. best: the table whose try counts, of the pairs that were tried again.
    """

    run: Folder
    names: list[str]
    best: dict[tuple[str, str], str]

    @classmethod
    def of(cls, run: Folder) -> Settled:
        """Look for the tries that count."""
        files = run.names("matches")
        later = [name for name in files if of_later_round(name)]
        return cls(run, files, _best_tries(run, files, later) if later else {})

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a table that count.

        columns: those wanted; None: all.
        """
        if not self.best:
            return self.run.read_table(name, columns)
        wanted = None if columns is None else [*dict.fromkeys((*SIDES, *columns))]
        table = self.run.read_table(name, wanted)
        kept = [self.best.get(key, name) == name for key in _keys(table)]
        table = table.filter(pa.array(kept, pa.bool_()))
        return table if columns is None else table.select(list(columns))


def settled_matches(
    run: Folder, columns: Sequence[str] | None = None
) -> Iterator[tuple[str, pa.Table]]:
    """Names and tables of MATCHES in which every pair stands once, by shard.

    columns: those wanted; None: all.
    """
    settled = Settled.of(run)
    return ((name, settled.read(name, columns)) for name in settled.names)


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
