"""Put faces in the place of panoramas, among the images of a run and in its pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import RunError
from pipeline.photos.panoramas.marks import FoundPanoramas
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.store.folder import Folder


@dataclass(frozen=True)
class SplitImages:
    """Photographs as images of a run, panoramas as their faces.

    source: reads them. names: sorted. first, count: (n,) of every photograph, where its images
    stand in `order` and how many there are. order: numbers of images, those of one photograph
    beside each other.
    """

    source: FaceFolder
    names: list[str]
    first: np.ndarray
    count: np.ndarray
    order: np.ndarray

    def pairs(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of photographs (P, 2) → pairs of images, and the rows (N,) that they are of.

        Two panoramas give every face of the one with every face of the other, because nothing says
        how they are turned. Faces of one panorama are no pair: they have no distance.

        Returns (N, 2) int32, i < j, sorted.
        """
        counts = self.count[pairs]
        total = counts.prod(axis=1)
        row = np.repeat(np.arange(len(pairs)), total)
        place = np.arange(len(row)) - np.repeat(np.cumsum(total) - total, total)
        steps = np.stack(np.divmod(place, counts[row, 1]), axis=1)
        found = np.sort(self.order[self.first[pairs[row]] + steps], axis=1).astype(np.int32)
        by_pair = np.lexsort((found[:, 1], found[:, 0]))
        return found[by_pair], row[by_pair]


def split_images(folder: Folder, found: FoundPanoramas, names: Sequence[str]) -> SplitImages:
    """Photographs of a folder, with faces in the place of panoramas.

    names: sorted, of all photographs. Raises RunError where a file has the name of a face.
    """
    faces = {face.name: face for panorama in found.panoramas.values() for face in panorama.faces()}
    taken = faces.keys() & {*names}
    if taken:
        raise RunError(
            f"{folder.shown}/{min(taken)}: has the name that a face of a panorama gets; rename "
            "one of the two, or give --panoramas off."
        )
    of_photograph: dict[str, list[str]] = {name: [name] for name in names}
    of_photograph |= {name: [] for name in found.panoramas}
    for name, face in faces.items():
        of_photograph[face.panorama.name].append(name)
    images = sorted(name for some in of_photograph.values() for name in some)
    number = {name: k for k, name in enumerate(images)}
    count = np.array([len(some) for some in of_photograph.values()], np.int64)
    order = np.array([number[name] for some in of_photograph.values() for name in some], np.int64)
    source = FaceFolder(folder, faces, found.refused)
    return SplitImages(source, images, np.cumsum(count) - count, count, order)
