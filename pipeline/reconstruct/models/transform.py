"""A model moved by a similarity, or onto another model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.frame import WORLD
from pipeline.reconstruct.models.align import aligned_by_centres, similarity_text
from pipeline.reconstruct.models.files import MadeModel, ModelFiles
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews


def transformed(
    models: Sequence[Any], files: Sequence[ModelFiles], move: Similarity | None = None
) -> MadeModel:
    """Move a `pycolmap.Reconstruction` in place; for COLMAP's process.

    Rigs, frames, numbers and keypoints stay.

    models: the one. files: its own; where `move` is None, also those of the model that it is
    brought to by the images that both have.

    Returns the model and sentences that say how. Raises as `aligned_by_centres`.
    """
    (model,), notes = models, []
    if move is None:
        source, target = files
        views, goal = ModelViews.of(model), ModelViews.of(target.read())
        move, mine, theirs = aligned_by_centres(views, goal, source.shown, target.shown)
        off = np.linalg.norm(move(views.centres()[mine]) - goal.centres()[theirs], axis=1)
        notes.append(
            f"{len(mine)} images in common were brought together, {np.median(off):.4g} apart in "
            f"the median and {off.max():.4g} at most"
        )
    pycolmap = import_pycolmap()
    model.transform(pycolmap.Sim3d(move.scale, pycolmap.Rotation3d(move.rotation), move.shift))
    notes.append(f"moved by the similarity {similarity_text(move)}")
    if files[0].world() is not None:
        notes.append(f"{WORLD} is left out, because the model is moved out of its frame")
    return MadeModel(model, notes)
