"""Masks over the pixels of photographs as their files store them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.masks.folder import Masks
from pipeline.masks.mask import Mask
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.store.folder import Folder

MOST_MASKS = 64  # that a process keeps


class StoredMasks:
    """Masks over the stored pixels of photographs, of which the last ones are kept in memory.

    photographs: their folder.
    """

    def __init__(self, masks: Masks, photographs: Folder | Folders | FaceFolder) -> None:
        self.masks, self.photographs = masks, photographs
        self._read = lru_cache(MOST_MASKS)(self._mask)

    def keeps(self, name: str, size: tuple[int, int], xy: np.ndarray) -> np.ndarray:
        """(N,) bool: whether places in a photograph are kept.

        size: (width, height) of its file. xy: (N, 2) COLMAP's pixels. Raises ImageError where the
        mask cannot be used.
        """
        mask = self._read(name, *size)
        return np.ones(len(xy), bool) if mask is None else mask.keeps(xy.astype(np.float64) - 0.5)

    def _mask(self, name: str, width: int, height: int) -> Mask | None:
        return self.masks.stored(name, (width, height), self.photographs)
