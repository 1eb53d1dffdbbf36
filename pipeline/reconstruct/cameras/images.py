"""Images of a run as COLMAP sees them, and the maps from upright to stored pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.errors import ReconstructionError
from pipeline.photos.cameras.stored import STORED_FROM_UPRIGHT, maps_to_stored
from pipeline.store.folder import Folder

MAX_IMAGES = 2147483646  # the largest image id of COLMAP


@dataclass(frozen=True)
class StoredImages:
    """The IMAGES tables of a run as columns of N images, sorted by name.

    Row i has the COLMAP image id i + 1. Sizes and focal lengths are in pixels.
    """

    names: np.ndarray  # (N,) str
    width: np.ndarray
    height: np.ndarray
    stored_width: np.ndarray
    stored_height: np.ndarray
    orientation: np.ndarray
    focal: np.ndarray  # NaN where EXIF gives none
    camera: np.ndarray  # (N,) str, make and model by EXIF, "" where it gives none

    @classmethod
    def read(cls, *runs: Folder) -> StoredImages:
        """Read all images of runs.

        Raises ReconstructionError where there are none, where shards disagree about an image, or
        where the sizes and the orientation of an image disagree.
        """
        tables, shown = [], " and ".join(run.shown for run in runs)
        for run in runs:
            shards = run.names("images")
            if not shards:
                raise ReconstructionError(
                    f"{run.shown}: holds no images/*.parquet; run eloftr match first."
                )
            tables += [run.read_table(shard) for shard in shards]
        table = pa.concat_tables(tables)
        names, first, same = np.unique(
            np.array(table["image"].to_pylist(), dtype=object),
            return_index=True,
            return_inverse=True,
        )
        columns = []
        for name in ("width", "height", "stored_width", "stored_height", "orientation", "focal"):
            column = table[name].to_numpy()
            differs = ~np.isclose(column, column[first][same], equal_nan=True)
            if differs.any():
                image = names[same[differs][0]]
                one, other = column[first][same][differs][0], column[differs][0]
                raise ReconstructionError(
                    f"{image}: its {name} differs between shards of {shown}: {one:g} and "
                    f"{other:g}; match again, its file changed."
                )
            columns.append(column[first])
        if not len(names) or not names[0] or len(names) > MAX_IMAGES:
            raise ReconstructionError(
                f"{shown}: images/*.parquet names no image, too many, or one without a name."
            )
        makers = np.array(table["camera"].to_pylist(), dtype=object)[first]
        columns.append(np.array([maker or "" for maker in makers], dtype=object))
        images = cls(names, *columns)
        turned = images.orientation >= 5
        expected = np.where(turned, [images.height, images.width], [images.width, images.height])
        good = (expected == [images.stored_width, images.stored_height]).all(axis=0) & (
            expected > 0
        ).all(axis=0)
        good &= (images.orientation >= 1) & (images.orientation <= 8)
        if not good.all():
            raise ReconstructionError(
                f"{names[~good][0]}: its sizes and orientation in images/*.parquet disagree."
            )
        images.focal[~((images.focal > 0) & np.isfinite(images.focal))] = np.nan
        return images

    def to_stored(self) -> np.ndarray:
        """Maps from the pixels of the tables to COLMAP's: (N, 3, 3).

        COLMAP's pixels have the stored orientation, and their origin is half a pixel further left
        and up.
        """
        return maps_to_stored(self.width, self.height, self.orientation)


def without_mirrored(pairs: np.ndarray, images: StoredImages) -> tuple[np.ndarray, int]:
    """Drop the pairs of a mirrored with an unmirrored image; returns the others and the number.

    pairs: (P,) rows of `pieces.PAIR`.
    EXIF can say that a stored image is mirrored. COLMAP takes such an image for a view of a
    mirrored scene, so mirrored images fit together, but not with the others.
    """
    mirrored = np.linalg.det(STORED_FROM_UPRIGHT[images.orientation - 1]) < 0
    mixed = mirrored[pairs["image0"]] != mirrored[pairs["image1"]]
    return pairs[~mixed], int(mixed.sum())
