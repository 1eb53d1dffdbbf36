"""The data of a page's view of two models of one scene, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.reconstruct.models.align import similarity_of
from pipeline.reconstruct.models.compare import Comparison, ErrorSpread, compared_models
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.models.job import ask_of_models
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.report.page.scene.axes import Axes, Upright
from pipeline.report.page.scene.data import packed, rounded
from pipeline.store.folder import Folder


class _Compared(NamedTuple):
    """A comparison, and both models' views."""

    found: Comparison
    views: ModelViews
    reference: ModelViews


def compared_data(
    model: Path | Folder, reference: Path | Folder, titles: tuple[str, str] | None = None
) -> dict[str, Any]:
    """What `eloftrModelComparison` of `assets/scene.js` shows of two models.

    model, reference: folders of COLMAP models, read in a process of its own. The model is brought
        to the reference by a similarity first, see `compared_models`.
    titles: of both; None takes their folders.

    Images are in the order of the comparison, the worst position first. Rotations are in degrees,
    positions in units of the reference. Raises ReconstructionError as `compared_models`.
    """
    found, views, true = ask_of_models(_compared, [model, reference])
    names = [image.name for image in found.images]
    moved = similarity_of(found.similarity)(_centres(views, names))
    axes = Axes.of(np.empty((0, 3)), true, Upright.of(true, {}))
    return {
        "titles": list(titles or (found.model, found.reference)),
        "similarity": rounded(np.array(found.similarity), 9),
        "rotation": _spread(found.rotation),
        "position": _spread(found.position),
        "radius": rounded(found.radius),
        "name": names,
        "rotations": rounded(np.array([image.rotation for image in found.images]), 4),
        "positions": rounded(np.array([image.position for image in found.images]), 4),
        "view_radius": rounded(axes.radius),
        "moved": packed(axes(moved), "f4"),
        "centre": packed(axes(_centres(true, names)), "f4"),
        "only_in_model": found.only_in_model,
        "only_in_reference": found.only_in_reference,
    }


def _compared(files: ModelFiles, reference: ModelFiles) -> _Compared:
    views = [ModelViews.of(one.read()) for one in (files, reference)]
    return _Compared(compared_models(files, reference), *views)


def _centres(views: ModelViews, names: list[str]) -> np.ndarray:
    """Where these images were taken: (n, 3)."""
    row_of = {name: row for row, name in enumerate(views.names)}
    centres: np.ndarray = views.centres()[[row_of[name] for name in names]]
    return centres


def _spread(errors: ErrorSpread) -> dict[str, float]:
    return {
        "median": rounded(errors.median, 4),
        "most": rounded(errors.most, 4),
        "largest": rounded(errors.largest, 4),
    }
