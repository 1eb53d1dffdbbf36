"""The plan of a finer pass: which pairs are matched again, and in which pairs of tiles.

    tries that count, sizes of photographs → views at 2 or 4 times the scale → pairs of tiles that
    inliers connect → shards that share tiles

plan/detail_<n>.parquet   TILED, the shards of finer pass n; written once, before the pass begins

It follows from the tables of the rounds before alone, so a stopped run decides the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.detail.passes import finer_shard, pass_of, tried_again
from pipeline.match.detail.shards import TiledPair, plan_tiles
from pipeline.match.detail.tiles import Canvas, finer, tiles_in_common
from pipeline.match.run import Run
from pipeline.match.shards import PlannedShard, planned_shards
from pipeline.match.turns.tries import SIDES, Settled
from pipeline.photos.turns import View
from pipeline.tables import unragged
from pipeline.vocabulary import Device

# Most tiles and most pairs of tiles of a shard. A photograph has 9 tiles at twice the resolution,
# so a shard of as many encodes as in other rounds would hold three or four photographs.
TILES = {Device.CUDA: (256, 2048), Device.CPU: (64, 128)}
COLUMNS = (*SIDES, "keypoints0", "keypoints1", "inliers", "num_inliers")


@dataclass(frozen=True)
class DetailPlan:
    """Decides the finer passes of one run, within its options."""

    run: Run
    device: Device

    def rounds(self) -> Iterator[tuple[int, pa.Table, bool]]:
        """The number of the pass, a plan (TILED), and whether later rounds found its pairs.

        A round is done before the next one is asked for.
        """
        folder = self.run.folder
        for number in range(1, self.run.options.detail + 1):
            name = _file(number)
            if not folder.exists(name):
                folder.publish_table(name, self._plan(number))
            plan = folder.read_table(name)
            again = pa.array([tried_again(one) for one in plan["shard"].to_pylist()], pa.bool_())
            yield number, plan.filter(pc.invert(again)), False
            yield number, plan.filter(again), True

    def _plan(self, number: int) -> pa.Table:
        usual = TILES[self.device]
        given = self.run.options.max_images, self.run.options.max_pairs
        most_tiles, most_pairs = (one or other for one, other in zip(given, usual, strict=True))
        settled = Settled.of(self.run.folder)
        planned = self._planned(number)
        tables = []
        for again in (False, True):
            names = [name for name in settled.names if tried_again(name) == again]
            pairs = [pair for name in names for pair in self._pairs(settled, name, planned, number)]
            named = partial(finer_shard, number, again)
            tables.append(plan_tiles(pairs, most_tiles, most_pairs, named))
        return pa.concat_tables(tables)

    def _planned(self, number: int) -> dict[str, PlannedShard]:
        """The shards of all rounds and passes before, by name."""
        folder = self.run.folder
        passes = {_file(earlier) for earlier in range(1, number)}
        names = [
            name
            for name in folder.names("plan")
            if name.startswith("plan/round_") or name in passes
        ]
        tables = [self.run.plan.shards, *(folder.read_table(name) for name in names)]
        return {shard.shard: shard for table in tables for shard in planned_shards(table)}

    def _pairs(
        self, settled: Settled, name: str, planned: dict[str, PlannedShard], number: int
    ) -> Iterator[TiledPair]:
        """The verified pairs of a table of matches that gain by the pass."""
        table = settled.read(name, COLUMNS)
        table = table.filter(pc.greater(pc.fill_null(table["num_inliers"], 0), 0))
        file = name.rpartition("/")[2]
        shard = planned[file.removesuffix(".parquet")]
        views = shard.views or (View(),) * len(shard.images)
        views_of = {
            (shard.images[i], shard.images[j]): (views[i], views[j])
            for i, j in shard.pairs.tolist()
        }
        images = self.run.folder.read_table(f"images/{file}", ["image", "width", "height"])
        sizes = {row["image"]: (row["width"], row["height"]) for row in images.to_pylist()}
        long_side = self.run.options.matching.long_side
        factor = 2 ** (number - pass_of(name))
        points = [unragged(table[column]) for column in ("keypoints0", "keypoints1", "inliers")]
        names = zip(*(table[side].to_pylist() for side in SIDES), strict=True)
        for pair, points0, points1, inliers in zip(names, *points, strict=True):
            of_both = sizes[pair[0]], sizes[pair[1]]
            seen = finer(views_of[pair], (max(of_both[0]), max(of_both[1])), factor, long_side)
            if seen is not None:
                first, second = (
                    Canvas.of(*size, view, long_side)
                    for size, view in zip(of_both, seen, strict=True)
                )
                inside = first.inside(points0[inliers]), second.inside(points1[inliers])
                chosen = tiles_in_common(*inside)
                starts = first.grid()[chosen[:, 0]], second.grid()[chosen[:, 1]]
                yield TiledPair(pair, seen, np.hstack(starts))


def _file(number: int) -> str:
    return f"plan/detail_{number}.parquet"
