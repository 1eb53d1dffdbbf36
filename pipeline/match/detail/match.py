"""Read the tiles of a shard, match them, and bring their matches together.

TiledShard → ReadTiles → ReadTiledShard → MatchTiles → MatchedShard

A photograph is read once for all of its tiles. A tile is encoded once for all of its pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from eloftr.config import CELL
from pipeline.masks.folder import Masks
from pipeline.masks.mask import Mask
from pipeline.match.detail.shards import TiledShard
from pipeline.match.detail.tiles import Canvas, joined
from pipeline.match.match import (
    MatchedShard,
    MatchShard,
    distinct_images,
    make_matcher,
    matches_table,
    some_matches,
)
from pipeline.match.options import MatchingOptions
from pipeline.match.read import DecodedShard, ReadShard, ViewMask, make_reader
from pipeline.match.shards import PlannedShard
from pipeline.photos.limits import ImageLimits
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.photos.turns import View
from pipeline.store.folder import Folder
from pipeline.tables import FAILURES, IMAGES, unragged
from pipeline.vocabulary import Reason, StageName

if TYPE_CHECKING:  # see pipeline/match/match.py
    from eloftr import EfficientLoFTRForKeypointMatching, Matches


@dataclass(frozen=True)
class ReadTiledShard:
    """A shard of a finer pass whose tiles have been cut.

    plan: of the shard. canvases: of its views, by their numbers, as far as they could be read.
    images: a row of IMAGES for each of these, in their order.
    tiles: the tiles as images of their own, with `images` that have their shapes.
    masks: of the views whose photograph has masked pixels, by their numbers.
    """

    plan: TiledShard
    canvases: dict[int, Canvas]
    images: pa.Table
    tiles: DecodedShard
    masks: dict[int, Mask]


class ReadTiles:
    """Read and decode every photograph of a shard and cut its tiles. CPU only.

    read: reads views of photographs. Each is reduced to its canvas before the next one is read by
    the same thread.
    """

    def __init__(self, read: ReadShard) -> None:
        self.read = read

    def __call__(self, shard: TiledShard, attempt: int = 1) -> ReadTiledShard:
        """Read one shard. attempt: as of `ReadShard`."""
        whole = self.read(
            PlannedShard(shard.shard, shard.images, shard.pairs, shard.views), attempt
        )
        rows = whole.images.to_pylist()
        canvases = {
            view: Canvas.of(row["width"], row["height"], shard.views[view], self.read.long_side)
            for view, row in zip(whole.read, rows, strict=True)
        }
        changed = [k for k, view in enumerate(whole.read) if not _on(shard, view, canvases[view])]
        if changed:
            whole = _without(whole, changed)
        row_of = {view: k for k, view in enumerate(whole.read)}
        cut = [k for k, view in enumerate(shard.tiles[:, 0].tolist()) if view in row_of]
        pixels = []
        for view, x, y in shard.tiles[cut].tolist():
            height, width = canvases[view].tile
            pixels.append(whole.pixels[row_of[view]][y : y + height, x : x + width].copy())
        images = whole.images.take(pa.array([row_of[v] for v in shard.tiles[cut, 0]], pa.int64()))
        shapes = [(tile.shape[0], tile.shape[1]) for tile in pixels]
        for side, name in enumerate(("height", "width")):
            column = pa.array([shape[side] for shape in shapes], pa.int32())
            images = images.set_column(IMAGES.get_field_index(name), IMAGES.field(name), column)
        tiles = replace(
            whole,
            names=[shard.images[view] for view in shard.tiles[:, 0]],
            pairs=shard.tile_pairs,
            views=(View(),) * len(shard.tiles),
            read=cut,
            images=images,
            pixels=pixels,
            shapes=shapes,
            masks=_masks_of_tiles(shard, whole, canvases),
        )
        masks = {view: one.mask for view, one in whole.masks.items() if one.mask is not None}
        return ReadTiledShard(shard, canvases, whole.images, tiles, masks)


class MatchTiles:
    """Match the tiles of a shard, and bring the matches of every pair of photographs together.

    match: matches the tiles as if they were photographs.
    """

    def __init__(self, match: MatchShard) -> None:
        self.match = match

    def __call__(self, shard: ReadTiledShard, attempt: int = 1) -> MatchedShard:
        """Match one shard. attempt: as of `MatchShard`.

        A pair of photographs fails with the reason of the first of its pairs of tiles that fails.
        """
        from eloftr import Matches

        plan = shard.plan
        matched = self.match(shard.tiles, attempt)
        points = [unragged(matched.matches[f"keypoints{side}"]) for side in (0, 1)]
        scores, reasons = unragged(matched.matches["scores"]), matched.matches["reason"].to_pylist()
        of_pair: dict[tuple[int, int], list[int]] = {}
        for k, views in enumerate(plan.tiles[:, 0][plan.tile_pairs].tolist()):
            of_pair.setdefault((views[0], views[1]), []).append(k)
        reason: list[str | None] = []
        found: dict[int, Matches] = {}
        for pair, (first, second) in enumerate(plan.pairs.tolist()):
            members = of_pair[first, second]
            reason.append(next((reasons[k] for k in members if reasons[k]), None))
            if reason[-1] is None:
                starts = plan.tiles[plan.tile_pairs[members], 1:]
                together = joined(
                    [
                        (*both, Matches(points[0][k], points[1][k], scores[k]))
                        for k, both in zip(members, starts, strict=True)
                    ],
                    (shard.canvases[first], shard.canvases[second]),
                )
                found[pair] = _unmasked(together, shard.masks.get(first), shard.masks.get(second))
        names = [[plan.images[view] for view in side] for side in plan.pairs.T]
        return replace(
            matched,
            images=distinct_images(shard.images),
            matches=matches_table(names, reason, found),
            failures=_distinct(matched.failures),
            views=None,
        )


def _on(shard: TiledShard, view: int, canvas: Canvas) -> bool:
    """Whether the tiles of a view are tiles of its canvas."""
    starts = shard.tiles[shard.tiles[:, 0] == view, 1:]
    return {*map(tuple, starts.tolist())} <= {*map(tuple, canvas.grid().tolist())}


def _masks_of_tiles(
    shard: TiledShard, whole: DecodedShard, canvases: dict[int, Canvas]
) -> dict[int, ViewMask]:
    """Which cells of every tile are kept. Points are looked at when they are in the original's."""
    found = {}
    for tile, (view, x, y) in enumerate(shard.tiles.tolist()):
        if view in whole.masks:
            height, width = (side // CELL for side in canvases[view].tile)
            cells = whole.masks[view].cells[y // CELL :, x // CELL :]
            found[tile] = ViewMask(None, cells[:height, :width])
    return found


def _unmasked(matches: Matches, mask0: Mask | None, mask1: Mask | None) -> Matches:
    """Matches in pixels of the originals, without those that begin or end in a masked place."""
    kept = np.ones(len(matches), bool)
    for points, mask in ((matches.keypoints0, mask0), (matches.keypoints1, mask1)):
        if mask is not None:
            kept &= mask.keeps(points)
    return some_matches(matches, kept)


def _without(shard: DecodedShard, changed: list[int]) -> DecodedShard:
    """The shard without some of its views, each of which becomes a row of FAILURES."""
    kept = [k for k in range(len(shard.read)) if k not in changed]
    names = sorted({shard.names[shard.read[k]] for k in changed})
    detail = "its size is another than in the pass before"
    rows = [(name, None, StageName.READ, Reason.UNREADABLE, detail) for name in names]
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, FAILURES, strict=True)]
    return replace(
        shard,
        read=[shard.read[k] for k in kept],
        images=shard.images.take(pa.array(kept, pa.int64())),
        pixels=[shard.pixels[k] for k in kept],
        shapes=[shard.shapes[k] for k in kept],
        failures=pa.concat_tables([shard.failures, pa.Table.from_arrays(arrays, schema=FAILURES)]),
    )


def _distinct(failures: pa.Table) -> pa.Table:
    """FAILURES without the rows that several pairs of tiles of two photographs have."""
    rows = {tuple(row.values()): row for row in failures.to_pylist()}
    return pa.Table.from_pylist([*rows.values()], schema=FAILURES)


def make_tile_reader(
    folder: Folder | Folders | FaceFolder,
    limits: ImageLimits,
    long_side: int,
    again: bool,
    masks: Masks | None = None,
) -> ReadTiles:
    """What reads tiles, in an executor's process that does nothing else. See `make_reader`."""
    return ReadTiles(make_reader(folder, limits, long_side, again, masks))


def make_tile_matcher(
    stage: type[MatchShard],
    model: EfficientLoFTRForKeypointMatching,
    options: MatchingOptions,
    threads: int,
) -> MatchTiles:
    """What matches tiles, in such a process. See `make_matcher`."""
    return MatchTiles(make_matcher(stage, model, options, threads))
