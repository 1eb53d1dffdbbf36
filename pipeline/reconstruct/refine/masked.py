"""Observations of a model in masked places: told, and left out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.errors import ImageError
from pipeline.masks.folder import MASK_THREADS, Masks
from pipeline.masks.stored import StoredMasks
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.reconstruct.tracks.scene import SparseModel, rows_of_groups
from pipeline.store.folder import Folder


def without_masked(
    scene: SparseModel, masks: Masks, photographs: Folder | Folders | FaceFolder
) -> tuple[SparseModel, list[str]]:
    """The scene without observations in masked places, and points that fewer than two views see.

    A view whose mask cannot be used loses all observations. The texts say of which that is so.
    """
    stored, views = StoredMasks(masks, photographs), scene.views
    rows = rows_of_groups(scene.view, len(views))

    def of_view(view: int) -> tuple[np.ndarray, str]:
        xy, camera = scene.xy[rows[view]], views.camera_of(view)
        try:
            return stored.keeps(views.names[view], (camera.width, camera.height), xy), ""
        except ImageError as error:
            return np.zeros(len(xy), bool), f"{views.names[view]}: {error}"

    kept = np.ones(len(scene.view), bool)
    failures = []
    with ThreadPoolExecutor(MASK_THREADS) as threads:
        for mine, (good, failure) in zip(
            rows, threads.map(of_view, range(len(views))), strict=True
        ):
            kept[mine] = good
            failures += [failure] if failure else []
    return (scene if kept.all() else scene.keep(kept)), failures
