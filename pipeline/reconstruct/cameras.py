"""Images of a run as COLMAP sees them: shared cameras, and maps from upright to stored pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.photos.exif import DEFAULT_FOCAL
from pipeline.store.folder import Folder

MAX_IMAGES = 2147483646  # the largest image id of COLMAP


@dataclass(frozen=True)
class CameraOptions:
    """How images become cameras.

    model: a COLMAP camera model with a focal length: `SIMPLE_RADIAL`, `PINHOLE`, `OPENCV`, ….
    sharing: `image` (a camera for each image), `folder` (one for each folder) or `single`. Images
        of different stored sizes never share a camera.
    params: known intrinsics in COLMAP's order and origin, for the stored orientation. Mapping keeps
        them fixed. None takes the focal length from EXIF, the median of the images that share the
        camera, or 1.2 × the longer side where there is none. Mapping refines it.

    Raises ReconstructionError for unknown models, an unknown sharing, and bad parameters.
    """

    model: str = "SIMPLE_RADIAL"
    sharing: str = "image"
    params: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        pycolmap = import_pycolmap()
        models = sorted({*pycolmap.CameraModelId.__members__} - {"INVALID", "EQUIRECTANGULAR"})
        if self.model not in models:
            raise ReconstructionError(
                f"camera model {self.model!r} is unknown; give one of {', '.join(models)}."
            )
        if self.sharing not in ("image", "folder", "single"):
            raise ReconstructionError(
                f"camera sharing {self.sharing!r} is unknown; give image, folder or single."
            )
        names = pycolmap.Camera.create_from_model_name(1, self.model, 1.0, 1, 1).params_info
        if self.params is None:
            return
        if len(self.params) != len(names.split(",")):
            raise ReconstructionError(
                f"camera model {self.model} takes {names}: not {len(self.params)} numbers."
            )
        if not (np.isfinite(self.params).all() and self.params[0] > 0):
            raise ReconstructionError(
                "camera parameters must be finite numbers with a focal length above zero."
            )

    @classmethod
    def parse(cls, text: str, sharing: str = "image") -> CameraOptions:
        """Read `MODEL` or `MODEL:f,cx,cy,…`, as the command line takes it.

        Raises ReconstructionError where the part after the colon is not a list of numbers.
        """
        model, _, numbers = text.partition(":")
        try:
            params = tuple(float(number) for number in numbers.split(",")) if numbers else None
        except ValueError:
            raise ReconstructionError(
                f"camera {text!r}: after the colon give numbers separated by commas."
            ) from None
        return cls(model.upper(), sharing, params)


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

    @classmethod
    def read(cls, run: Folder) -> StoredImages:
        """Read all images of a run.

        Raises ReconstructionError where there are none, where shards disagree about an image, or
        where the sizes and the orientation of an image disagree.
        """
        tables = [run.read_table(name) for name in run.names("images")]
        if not tables:
            raise ReconstructionError(
                f"{run.shown}: holds no images/*.parquet; run eloftr match first."
            )
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
                raise ReconstructionError(
                    f"{image}: its {name} differs between shards; match again, its file changed."
                )
            columns.append(column[first])
        if not len(names) or not names[0] or len(names) > MAX_IMAGES:
            raise ReconstructionError(
                f"{run.shown}: images/*.parquet names no image, too many, or one without a name."
            )
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
        linear = STORED_FROM_UPRIGHT[self.orientation - 1].astype(np.float64)
        last = np.stack([self.width - 1, self.height - 1], axis=1)
        maps = np.zeros((len(self.names), 3, 3))
        maps[:, :2, :2] = linear
        # A coordinate that runs backwards starts at the last pixel.
        maps[:, :2, 2] = np.einsum("nij,nj->ni", np.minimum(linear, 0), -last) + 0.5
        maps[:, 2, 2] = 1
        return maps


# Maps of pixel offsets (x, y) from the upright to the stored image, by EXIF orientation 1…8.
STORED_FROM_UPRIGHT = np.array(
    [
        [[1, 0], [0, 1]],
        [[-1, 0], [0, 1]],
        [[-1, 0], [0, -1]],
        [[1, 0], [0, -1]],
        [[0, 1], [1, 0]],
        [[0, 1], [-1, 0]],
        [[0, -1], [-1, 0]],
        [[0, -1], [1, 0]],
    ]
)


def without_mirrored(pairs: np.ndarray, images: StoredImages) -> tuple[np.ndarray, int]:
    """Drop the pairs of a mirrored with an unmirrored image; returns the others and the number.

    pairs: (P,) rows of `spool.PAIR`.
    EXIF can say that a stored image is mirrored. COLMAP takes such an image for a view of a
    mirrored scene, so mirrored images fit together, but not with the others.
    """
    mirrored = np.linalg.det(STORED_FROM_UPRIGHT[images.orientation - 1]) < 0
    mixed = mirrored[pairs["image0"]] != mirrored[pairs["image1"]]
    return pairs[~mixed], int(mixed.sum())


def assign_cameras(images: StoredImages, options: CameraOptions) -> tuple[np.ndarray, list[Any]]:
    """Give every image a camera: (N,) row of each image's camera, and the COLMAP cameras.

    Camera ids are rows + 1, in the order of the first image that uses a camera.
    Raises ReconstructionError where parameters are given and the images differ in size.
    """
    pycolmap = import_pycolmap()
    sizes = list(zip(images.stored_width.tolist(), images.stored_height.tolist(), strict=True))
    if options.params is not None and len(set(sizes)) > 1:
        raise ReconstructionError(
            f"camera parameters fit one image size, but the images have {len(set(sizes))}; "
            "leave the parameters out, or reconstruct each size by itself."
        )
    keys: list[Any] = list(zip(range(len(sizes)), sizes, strict=True))
    if options.sharing == "folder":
        keys = [
            (str(name).rpartition("/")[0], size)
            for name, size in zip(images.names, sizes, strict=True)
        ]
    elif options.sharing == "single":
        keys = sizes
    rows: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault(key, []).append(i)
    assigned, cameras = np.empty(len(keys), np.int64), []
    for number, members in enumerate(rows.values()):
        width, height = sizes[members[0]]
        assigned[members] = number
        known = images.focal[members][~np.isnan(images.focal[members])]
        focal = float(np.median(known)) if len(known) else DEFAULT_FOCAL * max(width, height)
        camera = pycolmap.Camera.create_from_model_name(
            number + 1, options.model, focal, width, height
        )
        camera.has_prior_focal_length = bool(len(known))
        if options.params is not None:
            camera.params = list(options.params)
            camera.has_prior_focal_length = True
        cameras.append(camera)
    return assigned, cameras


def same_cameras(
    images: StoredImages, assigned: np.ndarray, cameras: list[Any], options: CameraOptions
) -> np.ndarray:
    """Whether an image's camera is the one that its matches were verified with: (N,) bool."""
    if options.params is not None:
        return np.zeros(len(images.names), bool)
    default = DEFAULT_FOCAL * np.maximum(images.width, images.height)
    verified = np.where(np.isnan(images.focal), default, images.focal)
    focal = np.array([camera.mean_focal_length() for camera in cameras])
    same: np.ndarray = np.isclose(focal[assigned], verified, rtol=1e-3)
    return same
