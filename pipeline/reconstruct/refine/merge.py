"""Put the measurements of a round in place of the model's own observations.

A view in which few windows were found keeps the observations that it had, so that refining loses no
image: of faces, water and glass no window is the same in two photographs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.reconstruct.tracks.scene import SparseModel

LEAST_OBSERVATIONS = 30  # of a view, and at least
LEAST_SHARE = 0.2  # of what the model had in this view
LOOSE = 4.0  # pixels that observations of views that kept their own may be off


def measured_scene(scene: SparseModel, tracks: pa.Table) -> tuple[SparseModel, np.ndarray]:
    """The scene with the observations of `tracks` (TRACKS), and which views kept their own: (V,).

    A point with fewer than two observations is left out.
    """
    point = tracks["point"].to_numpy()
    view = tracks["view"].to_numpy().astype(np.int64)
    xy = tracks["xy"].combine_chunks().flatten().to_numpy().reshape(-1, 2).astype(np.float64)
    lengths = np.bincount(point, minlength=len(scene.xyz))
    good = lengths[point] >= 2
    point, view, xy = point[good], view[good], xy[good]
    measured = lengths >= 2

    views = len(scene.views)
    before = np.bincount(scene.view, minlength=views)
    now = np.bincount(view, minlength=views)
    weak = now < np.minimum(before, np.maximum(LEAST_OBSERVATIONS, LEAST_SHARE * before))
    # A track that was not measured stays whole where a weak view sees it, since one observation by
    # itself holds nothing.
    seen_by_weak = np.zeros(len(scene.xyz), bool)
    seen_by_weak[scene.point[weak[scene.view]]] = True
    own = np.where(measured[scene.point], weak[scene.view], seen_by_weak[scene.point])
    found = set(zip(point.tolist(), view.tolist(), strict=True))
    own &= [
        pair not in found for pair in zip(scene.point.tolist(), scene.view.tolist(), strict=True)
    ]
    merged = replace(
        scene,
        point=np.concatenate([point, scene.point[own]]),
        view=np.concatenate([view, scene.view[own]]),
        xy=np.concatenate([xy, scene.xy[own]]),
    ).sorted()
    return merged.keep(np.ones(len(merged.point), bool)), weak
