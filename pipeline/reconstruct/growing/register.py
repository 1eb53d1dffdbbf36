"""New images in a given model: placed against its points, and tied to it by new points.

A new image is placed by its matches with images of the model that see points. Then only pairs with
new images complete the tracks and triangulate. The model itself stays still until all new images
have their places; the last adjustment moves everything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.events import Event, Listener, counted
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.cameras.adjust import adjust_robustly, used_cameras
from pipeline.reconstruct.database import remove
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.growing.fitting import check_matches
from pipeline.reconstruct.growing.seed import seed_of, seeded_model
from pipeline.reconstruct.joining.merge import TrackSource, complete_tracks, leave_out_misfits
from pipeline.reconstruct.joining.resect import resect
from pipeline.reconstruct.mapping import SOFT, MappedModels, MappingOptions, keep_models
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.summary import SHOWN_IMAGES
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store import disk

BEFORE = ".before"  # folder of the given model in the numbers of the new database
# The adjustment of new images ends where a step lowers the cost by less than this share, and the
# last one of all images by less than that.
NEW_GAIN, LEAST_GAIN = 1e-4, 1e-6
MOST_ADJUSTMENTS = 2  # of all images, each without the observations that did not fit before


@dataclass(frozen=True)
class GrowthOptions:
    """What is done with a given model.

    left_out: images that are taken out of it. tolerance: pixels between an observation and the
    keypoint that it comes from. measured: whether what it observes stays as it is.
    """

    left_out: frozenset[str]
    tolerance: float
    measured: bool


def grow_database(
    given: ModelFiles,
    database: Path,
    target: Path,
    growth: GrowthOptions,
    mapping: MappingOptions,
    colours: Path | FaceFolder | None,
    listen: Listener,
) -> MappedModels:
    """Register the images of a database that a given model does not have; for COLMAP's process.

    Writes `mapped/0` into `target`. Raises ReconstructionError where nothing of the model is left,
    or where it contradicts the matches.
    """
    graph = ViewGraph.read(database)
    scene = SparseModel.of(given.read())
    seed = seed_of(scene, graph, database, growth.left_out, mapping.priors)
    if len(seed.scene.views) < 2 or not len(seed.scene.xyz):
        raise ReconstructionError(
            f"{given.shown}: has no two images of the runs that share points; give the model that "
            "was made of the runs."
        )
    check_matches(seed.scene.views, given.shown, database, mapping.max_error)
    made = seeded_model(seed.scene, database, growth.tolerance)
    _register(made, graph, database, seed.cameras, mapping, listen)
    _adjust_all(made, mapping)
    before = target / BEFORE
    remove(before)
    if growth.measured:
        before.mkdir()
        disk.write_whole(seed.scene.made(), before)
    kept = keep_models([made], target, mapping, colours)
    there = before if growth.measured else None
    return replace(kept, notes=_missing(made, graph), before=there, principal=seed.principal)


def _missing(model: Any, graph: ViewGraph) -> list[str]:
    """A note on the images of the database that the model does not have."""
    there = {*model.reg_image_ids()}
    pairs = np.bincount(np.concatenate([graph.first, graph.second]), minlength=len(graph))
    rows = [row for row, number in enumerate(graph.images.tolist()) if number not in there]
    alone = [graph.names[row] for row in rows if not pairs[row]]
    others = [graph.names[row] for row in rows if pairs[row]]
    causes = {
        "no verified pair has them": alone,
        "their matches tell no place in the model": others,
    }
    return [
        f"not in the model, because {cause}: {listed(names, SHOWN_IMAGES)}."
        for cause, names in causes.items()
        if names
    ]


def _register(
    model: Any,
    graph: ViewGraph,
    database: Path,
    cameras: dict[int, int],
    mapping: MappingOptions,
    listen: Listener,
) -> None:
    """Place new images until none finds its place, with their own cameras where the others fail."""
    still = frozenset(model.reg_image_ids())
    keep = frozenset(used_cameras(model)) | mapping.fixed_cameras
    new = ~np.isin(graph.images, [*still])
    touched = new[graph.first] | new[graph.second]
    tracks = TrackSource(database, graph.pair_numbers()[touched])
    missing = int(new.sum())
    for chosen in (cameras, dict[int, int]()):
        while resect(model, graph, database, mapping.max_error, chosen):
            _settle(model, tracks, still, keep, mapping)
            placed = len({*model.reg_image_ids()} - still)
            text = f"{placed} of {counted(missing, 'image')} outside the model registered"
            listen(Event("mapping", text, {"registered": placed}))


def _settle(
    model: Any,
    tracks: TrackSource,
    still: Collection[int],
    keep: Collection[int],
    mapping: MappingOptions,
) -> None:
    """Tie new images to each other and to the model, which stays as it is."""
    scale, number = mapping.max_error / SOFT, mapping.threads
    there = sorted({*model.reg_image_ids()}.intersection(still))
    adjust_robustly(model, scale, number, keep, least_gain=NEW_GAIN, still=there)
    complete_tracks(model, tracks, mapping.max_error, unite=False)
    leave_out_misfits(model, mapping.max_error)
    adjust_robustly(model, scale, number, keep, least_gain=NEW_GAIN, still=there)
    leave_out_misfits(model, mapping.max_error)


def _adjust_all(model: Any, mapping: MappingOptions) -> None:
    """Adjust all images, without observations that do not fit."""
    scale = mapping.max_error / SOFT
    for _ in range(MOST_ADJUSTMENTS):
        adjust_robustly(model, scale, mapping.threads, mapping.fixed_cameras, least_gain=LEAST_GAIN)
        if not leave_out_misfits(model, mapping.max_error):
            break
