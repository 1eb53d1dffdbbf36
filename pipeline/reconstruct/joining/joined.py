"""From the models of all blocks to the models of the scene.

models of blocks → pieces → joins → parts → one model each → missing images → tracks completed, and
all adjusted, as a whole here, or by blocks as `settle` does
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.events import Event, Listener, counted
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.cut import Block
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.blocks.options import BY_BLOCKS, GLOBAL, BlockOptions
from pipeline.reconstruct.cameras.adjust import adjust_robustly
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.database import remove
from pipeline.reconstruct.joining.join import Joins, find_joins, names, supported
from pipeline.reconstruct.joining.merge import (
    TrackSource,
    complete_tracks,
    leave_out_misfits,
    merge,
)
from pipeline.reconstruct.joining.piece import Piece
from pipeline.reconstruct.joining.place import Part, place_pieces
from pipeline.reconstruct.joining.resect import resect
from pipeline.reconstruct.joining.settle import settle_by_blocks
from pipeline.reconstruct.mapping import (
    SOFT,
    MappedModels,
    MappingOptions,
    by_size,
    keep_models,
    opened_model,
)
from pipeline.reconstruct.positions.fit import Anchors, Fit
from pipeline.reconstruct.positions.trusted import TrustedPositions
from pipeline.store import disk

# The adjustment ends where a step lowers the cost by less than this share: at first, when tracks
# are not whole yet, and in the end. A joined model is bent over its whole length, which costs
# little: 1,024 images had rotations 0.123° off in the median where it ended early, and 0.108° here.
FIRST_GAIN = 1e-4
LEAST_GAIN = 1e-8
MOST_ADJUSTMENTS = 2  # each without the observations that did not fit the one before
# Positions that place the model of a block alone: one that is wrong is then outvoted.
LEAST_OF_BLOCK = 6
SCRATCH = ".joined"  # folder of models while they are adjusted by blocks


@dataclass(frozen=True)
class Assembly:
    """The pieces, the joins between them, and the parts that they form, the largest first."""

    pieces: list[Piece]
    joins: Joins
    parts: list[Part]

    def doubted_images(self) -> np.ndarray:
        """Numbers of the images of pieces that contradict each other."""
        rows = sorted(self.joins.doubted)
        found = [np.empty(0, np.int64), *(self.pieces[row].views.numbers for row in rows)]
        return np.unique(np.concatenate(found))


def assemble(
    models: Sequence[tuple[str, Path, np.ndarray]],
    positions: TrustedPositions | None,
    listen: Listener,
) -> Assembly:
    """Join the models of blocks.

    models: of each its name, its folder, and the numbers of the block's own images.
    positions: place the models where they tell enough of them.
    """
    pycolmap = import_pycolmap()
    pieces = [
        Piece.of(name, pycolmap.Reconstruction(str(folder)), core) for name, folder, core in models
    ]
    anchors = [positions.anchors(piece.views) for piece in pieces] if positions else []
    found = {row: anchor.fit(LEAST_OF_BLOCK) for row, anchor in enumerate(anchors)}
    fits = {row: fit for row, fit in found.items() if not isinstance(fit, str)}
    joins = find_joins(pieces, fits)
    parts = _placed(pieces, joins, anchors, fits)
    text = f"{counted(len(joins.joins), 'join')}, {len(joins.refused)} refused"
    listen(Event("joined", text, {"joins": len(joins.joins), "refused": len(joins.refused)}))
    return Assembly(pieces, joins, parts)


def joined_models(
    assembly: Assembly,
    tracks: TrackSource,
    graph: ViewGraph,
    options: BlockOptions,
    mapping: MappingOptions,
    listen: Listener,
) -> tuple[list[Any], list[str]]:
    """The models of the scene, the largest first, and sentences about what was not joined."""
    pieces = assembly.pieces
    made: list[Any] = []
    notes, held = [*assembly.joins.refused], set[int]()
    for rows, moves in assembly.parts:
        mine = [pieces[row] for row in rows]
        images = {int(number) for piece in mine for number in piece.views.numbers}
        if images <= held:
            notes.append(f"block {names(pieces, rows)} was left out: a larger model has its images")
            continue
        held |= images
        model = merge(mine, moves, tracks.database, mapping.max_error)
        if len(mine) > 1:
            _settle(model, tracks, options, mapping, listen)
        made.append(model)
    if made:
        found = resect(made[0], graph, tracks.database, mapping.max_error)
        if found:
            listen(Event("joined", f"{counted(len(found), 'image')} found their place afterwards"))
            _settle(made[0], tracks, options, mapping, listen)
    return by_size(made), notes


def _placed(
    pieces: Sequence[Piece], joins: Joins, anchors: Sequence[Anchors], fits: Mapping[int, Fit]
) -> list[Part]:
    """The parts, after joins that the others contradict were taken out."""
    while True:
        parts = place_pieces(pieces, joins.joins, anchors, fits)
        where = {row: move for part in parts for row, move in zip(*part, strict=True)}
        placed = [where[row] for row in range(len(pieces))]
        wrong = [join for join in joins.joins if not supported(join, pieces, placed)]
        if not wrong:
            return parts
        weakest = min(wrong, key=lambda join: join.strength)
        joins.joins = [join for join in joins.joins if join is not weakest]
        joins.refused.append(
            f"blocks {names(pieces, weakest.rows)} were not joined: all other joins contradict it"
        )


def _settle(
    model: Any,
    tracks: TrackSource,
    options: BlockOptions,
    mapping: MappingOptions,
    listen: Listener,
) -> None:
    """Complete a joined model's tracks and adjust it, without observations that do not fit."""
    images = model.num_reg_images()
    if options.adjustment(images) != GLOBAL:
        return
    scale, keep = mapping.max_error / SOFT, mapping.fixed_cameras
    before = model.compute_mean_reprojection_error()
    adjust_robustly(model, scale, mapping.threads, keep, least_gain=FIRST_GAIN)
    complete_tracks(model, tracks, mapping.max_error)
    leave_out_misfits(model, mapping.max_error)
    for _ in range(MOST_ADJUSTMENTS):
        adjust_robustly(model, scale, mapping.threads, keep, least_gain=LEAST_GAIN)
        if not leave_out_misfits(model, mapping.max_error):
            break
    after = model.compute_mean_reprojection_error()
    text = f"{images} images adjusted, {before:.3f} → {after:.3f} px"
    listen(Event("adjusted", text, {"images": images, "before": before, "after": after}))


class Unsettled(NamedTuple):
    """Joined models that are adjusted by blocks. folders: of all models, and which of them are.

    notes: sentences for the report.
    """

    folders: dict[Path, bool]
    notes: list[str]


def unsettled(
    models: Sequence[Any], target: Path, options: BlockOptions, notes: list[str]
) -> Unsettled | None:
    """Write joined models into `target`, where any of them is to be adjusted by blocks."""
    chosen = [options.adjustment(model.num_reg_images()) == BY_BLOCKS for model in models]
    if not any(chosen):
        return None
    remove(target / SCRATCH)
    folders = {target / SCRATCH / str(number): by for number, by in enumerate(chosen)}
    for folder, model in zip(folders, models, strict=True):
        folder.mkdir(parents=True)
        disk.write_whole(model, folder)
    return Unsettled(folders, notes)


def settled(
    joined: Unsettled,
    blocks: Sequence[Block],
    tracks: TrackSource,
    target: Path,
    mapping: MappingOptions,
    colours: Path | None,
    carrying: Carrying,
) -> MappedModels:
    """Adjust joined models by blocks, and keep them as `keep_models` does."""
    notes = joined.notes
    try:
        for folder in (folder for folder, chosen in joined.folders.items() if chosen):
            notes = [*notes, *settle_by_blocks(folder, blocks, mapping, carrying, tracks)]
        kept: MappedModels = carrying.colmap.ask(
            keep_settled, [*joined.folders], target, mapping, colours
        )
    finally:
        remove(target / SCRATCH)
    return replace(kept, notes=notes)


def keep_settled(
    folders: Sequence[Path], target: Path, mapping: MappingOptions, colours: Path | None
) -> MappedModels:
    """Keep the models of some folders."""
    return keep_models(by_size([opened_model(f) for f in folders]), target, mapping, colours)
