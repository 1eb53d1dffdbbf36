"""The names of finer passes, and what they came to.

A finer pass is two rounds more in the run folder, with numbers after those of the rounds of turns
and scales. The first has the pairs whose try that counts is of the first round. The second has
those of later rounds, where the network sees equalised grey levels and fainter matches count.
"""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

from pipeline.match.turns.tries import Settled, of_later_round, round_of
from pipeline.store.folder import Folder

FIRST_FINER_ROUND = 13


class DetailSummary(TypedDict):
    """What the finer passes of a run came to.

    pairs: matched again in tiles. finer: those whose finer matches count, because they have more
    inliers. kept: those whose matches of a pass before count. small: verified pairs that no finer
    pass tried, because their photographs have no more pixels. tiles: encoded, in all shards.
    seconds: by stage.
    """

    pairs: int
    finer: int
    kept: int
    small: int
    tiles: int
    seconds: dict[str, float]


def pass_of(name: str) -> int:
    """The finer pass of a shard or of a file named after it, 0 for every round before."""
    return max(0, (round_of(name) - FIRST_FINER_ROUND) // 2 + 1)


def tried_again(name: str) -> bool:
    """Whether a shard holds pairs that are seen as later rounds see them."""
    number = round_of(name)
    return of_later_round(name) if number < FIRST_FINER_ROUND else number % 2 == 0


def finer_shard(number: int, again: bool, k: int) -> str:
    """The name of shard k of a finer pass, from 1. again: see `tried_again`."""
    return f"{FIRST_FINER_ROUND + 2 * (number - 1) + again:02}-{k:08}"


def detail_summary(folder: Folder, verified: int) -> DetailSummary:
    """What the finer passes of a finished run came to. verified: pairs of the run."""
    settled = Settled.of(folder)
    files = [name for name in settled.names if pass_of(name)]
    pairs: set[tuple[str, str]] = set()
    for name in files:
        table = folder.read_table(name, ("image0", "image1"))
        sides = (table[side].to_pylist() for side in ("image0", "image1"))
        pairs |= {(min(pair), max(pair)) for pair in zip(*sides, strict=True)}
    finer = sum(pass_of(name) > 0 for name in settled.best.values())
    seconds: Counter[str] = Counter()
    tiles = 0
    for name in folder.done_names():
        if pass_of(name):
            marker = folder.read_done(name)
            seconds.update(marker["seconds"])
            tiles += marker["counts"]["encodes"]
    return {
        "pairs": len(pairs),
        "finer": finer,
        "kept": len(pairs) - finer,
        "small": verified - len(pairs),
        "tiles": tiles,
        "seconds": {name: round(value, 3) for name, value in sorted(seconds.items())},
    }
