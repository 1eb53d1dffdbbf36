"""What finer passes will do, and what they cost, as events for a person."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.events import Event, counted
from pipeline.match.detail.tiles import Canvas, finer
from pipeline.match.plan import Cost
from pipeline.match.run import Run
from pipeline.photos.exif import HEADER_THREADS
from pipeline.photos.sizes import stored_size
from pipeline.photos.turns import View

SAMPLE = 20  # photographs whose sizes an estimate reads
# Pairs of tiles that inliers connect, as a multiple of the tiles of one photograph: three pairs of
# fountain11 had 6.7 for 9 tiles.
CONNECTED = 0.74


def finer_event(number: int, plan: pa.Table) -> Event:
    """What a round of a finer pass does. plan: TILED, of all its shards."""
    pairs, tiles, connections = (
        int(pc.sum(pc.list_value_length(plan[name])).as_py())
        for name in ("pairs", "tiles", "tile_pairs")
    )
    fields = {"pass": number, "pairs": pairs, "tiles": tiles, "tile_pairs": connections}
    text = (
        f"detail {number}: {counted(pairs, 'pair')} again, in {counted(tiles, 'tile')} "
        f"and {counted(connections, 'pair')} of tiles"
    )
    return Event("detail", text, fields)


def finer_line(run: Run, cost: Cost) -> tuple[str, dict[str, Any]]:
    """What the finer passes of a run cost at most, in one line, and its numbers.

    A sample of the photographs tells their sizes. A tile costs an encode, and a pair of tiles a
    pair, so the factor is that of the whole run against its first round.
    """
    names = [run.plan.names[k] for k in np.unique(run.plan.pairs.pairs)]
    chosen = names[:: -(-len(names) // SAMPLE)]
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        sizes = [
            size
            for size in threads.map(partial(stored_size, run.source.read_bytes), chosen)
            if size
        ]
    detail, long_side = run.options.detail, run.options.matching.long_side
    tiles = [0.0] * detail
    for size in sizes:
        before = View(), View()
        for number in range(detail):
            seen = finer(before, (max(size), max(size)), 2, long_side)
            if seen is not None:
                before = seen
                tiles[number] += len(Canvas.of(*size, seen[0], long_side).grid()) / len(sizes)
    pairs, encodes = len(run.plan.pairs.pairs), run.plan.encodes
    finer_encodes, finer_pairs = sum(tiles) * encodes, sum(tiles) * CONNECTED * pairs
    factor = 1 + (finer_encodes + finer_pairs) / (encodes + pairs)
    each = " and ".join(f"{of_pass:.0f}" for of_pass in tiles)
    text = (
        f"detail {detail}: {each} tiles a photograph, and {factor:.1f} times the cost of the first "
        f"round where all pairs are verified: {cost.text(finer_encodes, finer_pairs)} more"
    )
    if tiles[-1] < 0.5:
        small = next(number for number, count in enumerate(tiles, 1) if count < 0.5)
        text += f"; the photographs have no more pixels for --detail {small}"
    return text, {"tiles": [round(of_pass, 1) for of_pass in tiles], "factor": round(factor, 2)}
