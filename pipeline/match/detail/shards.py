"""Cut the pairs of a finer pass into shards that share tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.match.shards import plan_shards, planned_shards
from pipeline.photos.turns import View
from pipeline.tables import TILED, ragged, unragged

Tile = tuple[str, View, int, int]  # the photograph, its view, and x and y of the first pixel


class TiledShard(NamedTuple):
    """A row of TILED.

    shard, images, pairs, views: as of `PlannedShard`. tiles: (T, 3) int32, of each its view and x
    and y of its first pixel there. tile_pairs: (P, 2) int32, into `tiles`.
    """

    shard: str
    images: list[str]
    pairs: np.ndarray
    views: tuple[View, ...]
    tiles: np.ndarray
    tile_pairs: np.ndarray


class TiledPair(NamedTuple):
    """A pair that a finer pass matches.

    images: names. views: of both. starts: (P, 4) int32, of every pair of tiles x and y of the first
    pixel in image 0, then in image 1.
    """

    images: tuple[str, str]
    views: tuple[View, View]
    starts: np.ndarray

    def tile_pairs(self) -> Iterator[tuple[Tile, Tile]]:
        """The pairs of tiles."""
        for x0, y0, x1, y1 in self.starts.tolist():
            yield (self.images[0], self.views[0], x0, y0), (self.images[1], self.views[1], x1, y1)

    def tiles(self) -> set[Tile]:
        """The tiles of both images."""
        return {tile for both in self.tile_pairs() for tile in both}


def tiled_shards(table: pa.Table) -> list[TiledShard]:
    """The rows of a table of TILED."""
    columns = planned_shards(table), unragged(table["tiles"]), unragged(table["tile_pairs"])
    return [TiledShard(*shard[:4], *of_tiles) for shard, *of_tiles in zip(*columns, strict=True)]


def plan_tiles(
    pairs: Sequence[TiledPair], most_tiles: int, most_pairs: int, named: Callable[[int], str]
) -> pa.Table:
    """Cut pairs into a table of TILED. A tile is encoded once in a shard.

    most_tiles, most_pairs: of a shard, tiles and pairs of tiles. A pair that has more is a shard of
    its own. named: the name of shard k.
    """
    if not pairs:
        return TILED.empty_table()
    sides = [[*zip(pair.images, pair.views, strict=True)] for pair in pairs]
    number = {view: k for k, view in enumerate(sorted({view for both in sides for view in both}))}
    nodes = np.array([[number[view] for view in both] for both in sides])
    row_of = {tuple(sorted(both)): row for row, both in enumerate(nodes.tolist())}
    tiles = len({tile for pair in pairs for tile in pair.tiles()}) / len(number)
    connections = sum(len(pair.starts) for pair in pairs) / len(pairs)
    bounds = max(2, int(most_tiles / tiles)), max(1, int(most_pairs / connections))
    todo = [
        [row_of[tuple(sorted(both))] for both in shard.images[shard.pairs].tolist()]
        for shard in plan_shards(nodes, *bounds)
    ]
    rows: list[dict[str, Any]] = []
    while todo:
        members = todo.pop(0)
        held = {tile for row in members for tile in pairs[row].tiles()}
        matched = sum(len(pairs[row].starts) for row in members)
        if len(members) > 1 and (len(held) > most_tiles or matched > most_pairs):
            half = math.ceil(len(members) / 2)
            todo[:0] = [members[:half], members[half:]]
        else:
            rows.append(_row(named(len(rows)), [pairs[row] for row in members]))
    columns = {
        field.name: ragged([row[field.name] for row in rows], field.type)
        if field.name in ("pairs", "tiles", "tile_pairs")
        else pa.array([row[field.name] for row in rows], field.type)
        for field in TILED
    }
    return pa.table(columns, schema=TILED)


def _row(name: str, pairs: Sequence[TiledPair]) -> dict[str, Any]:
    """One row of TILED."""
    views = sorted({view for pair in pairs for view in zip(pair.images, pair.views, strict=True)})
    tiles = sorted({tile for pair in pairs for tile in pair.tiles()})
    view_of = {view: k for k, view in enumerate(views)}
    tile_of = {tile: k for k, tile in enumerate(tiles)}
    return {
        "shard": name,
        "images": [image for image, _ in views],
        "pairs": np.array(
            [
                [view_of[view] for view in zip(pair.images, pair.views, strict=True)]
                for pair in pairs
            ]
        ),
        "turns": [view.turn for _, view in views],
        "scales": [view.scale for _, view in views],
        "tiles": np.array([(view_of[image, view], x, y) for image, view, x, y in tiles]),
        "tile_pairs": np.array(
            [[tile_of[tile] for tile in both] for pair in pairs for both in pair.tile_pairs()]
        ),
    }
