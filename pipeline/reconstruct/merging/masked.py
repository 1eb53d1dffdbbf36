"""Merge observations, and leave out those in masked places.

A merged keypoint is a mean and may lie where none of its observations does. In a masked place it is
moved back to the nearest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc

from pipeline.errors import ImageError, ReconstructionError
from pipeline.events import Listener, nobody
from pipeline.masks.folder import Masks, find_masks
from pipeline.masks.mask import Mask
from pipeline.match.run import PLAN_FILE
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.merging.keypoints import MergedKeypoints, merge_keypoints
from pipeline.store.folder import Folder

NOTHING = Mask.of(np.zeros((1, 1), bool))  # keeps no place at all


def masks_of(
    runs: Sequence[Folder], given: Folder | None, listen: Listener = nobody
) -> tuple[Masks | None, list[str]]:
    """The masks of the images of runs, None where there are none, and notes about them.

    given: the folder to take. None: the one that all of the runs were matched with.

    Raises ReconstructionError where the runs were matched with masks that differ, and StorageError
    for a folder that cannot be used.
    """
    described = [run.read_json("run.json") for run in runs]
    told = [one.get("masks") for one in described]
    folders = sorted({one["folder"] if one else "" for one in told})
    if given is None and len(folders) > 1:
        names = " and ".join(folder or "no masks" for folder in folders[:2])
        raise ReconstructionError(
            f"the runs were matched with {names}; give by --masks the folder that counts for all."
        )
    if given is None and not folders[0]:
        return None, []
    links = any(one["options"].get("follow_links", False) for one in described)
    folder = given or Folder(folders[0], runs[0].options, links)
    images = [images_of_run(run) for run in runs]
    every = set().union(*images)
    found = find_masks(folder, sorted(every), listen=listen)
    notes = []
    for run, one, mine in zip(runs, told, images, strict=True):
        if given is not None:
            break
        now = found if mine == every else find_masks(folder, sorted(mine))
        if now.files != one["files"]:
            notes.append(
                f"the masks in {folder.shown} have changed since {run.shown} was matched; places "
                "that were masked then have no matches, and those masked now are left out."
            )
    return found, notes


def images_of_run(run: Folder) -> set[str]:
    """The names of the images of a run's plan, or of its tables where it has no plan."""
    if not run.exists(PLAN_FILE):
        return {str(name) for name in StoredImages.read(run).names}
    return set(pc.unique(pc.list_flatten(run.read_table(PLAN_FILE)["images"])).to_pylist())


@dataclass(frozen=True)
class ImageMasks:
    """The masks of the images of an import."""

    masks: Masks
    images: StoredImages

    def read(self, row: int) -> tuple[Mask | None, str]:
        """The mask of the image in a row, None where all of its pixels are kept.

        A mask that cannot be used keeps nothing; the text says why.
        """
        images, name = self.images, str(self.images.names[row])
        size = int(images.stored_width[row]), int(images.stored_height[row])
        try:
            return self.masks.upright(name, size, int(images.orientation[row])), ""
        except ImageError as error:
            return NOTHING, f"{name}: {error}"


def merge_masked(
    image: np.ndarray,
    xy: np.ndarray,
    weights: np.ndarray,
    radius: np.ndarray,
    masks: Sequence[Mask | None],
) -> MergedKeypoints:
    """`merge_keypoints` of the observations that the masks of the images keep.

    image: (N,) sorted. masks: of each image, None: all is kept. `index` is −1 for the observations
    that are left out.
    """
    bounds = np.searchsorted(image, np.arange(len(masks) + 1))
    rows = [slice(bounds[number], bounds[number + 1]) for number in range(len(masks))]
    kept = np.ones(len(image), bool)
    for mine, mask in zip(rows, masks, strict=True):
        if mask is not None:
            kept[mine] = mask.keeps(xy[mine])
    merged = merge_keypoints(image[kept], xy[kept], weights[kept], radius)
    index = np.full(len(image), -1, np.int32)
    index[kept] = merged.index
    places = merged.xy.copy()
    for number, (mine, mask) in enumerate(zip(rows, masks, strict=True)):
        first, last = merged.offsets[number : number + 2]
        if mask is None:
            continue
        for keypoint in np.flatnonzero(~mask.keeps(places[first:last])).tolist():
            seen = xy[mine][index[mine] == keypoint]
            off = ((seen.astype(np.float64) - places[first + keypoint]) ** 2).sum(axis=1)
            places[first + keypoint] = seen[np.lexsort((seen[:, 1], seen[:, 0], off))[0]]
    return replace(merged, xy=places, index=index)
