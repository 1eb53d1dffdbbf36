"""How images become cameras, as the command line and programs say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import ReconstructionError, StorageError
from pipeline.photos.cameras.intrinsics import (
    Intrinsics,
    check_model,
    csv_rows,
    read_intrinsics,
    read_text,
)
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of

SHARING = ("auto", "single", "per-folder", "per-image")
RENAMED = {"image": "per-image", "folder": "per-folder"}
LIST = "list:"  # begins the name of a file that says which images share


@dataclass(frozen=True)
class CameraOptions:
    """How images become cameras.

    model: a COLMAP camera model with a focal length: `SIMPLE_RADIAL`, `PINHOLE`, `OPENCV`, …; or
        `auto`: mapping takes SIMPLE_RADIAL, and refining makes a camera of many images RADIAL where
        the images fit it clearly better.
    sharing: `auto` (images share a camera where EXIF says the same make, model and focal length,
        and the stored size is the same; the others have one each), `single`, `per-folder`,
        `per-image`, or which camera took each image, by name. Images of different stored sizes
        never share a camera.
    intrinsics: cameras that are known, or known about. Without them, the focal length is the median
        of EXIF's of the images that share the camera, or 1.2 × the longer side where there is none,
        and mapping refines it.

    Raises ReconstructionError for an unknown model and an unknown sharing.
    """

    model: str = "auto"
    sharing: str | Mapping[str, str] = "auto"
    intrinsics: tuple[Intrinsics, ...] = ()

    def __post_init__(self) -> None:
        if self.model != "auto":
            check_model(self.model, "cameras")
        if not isinstance(self.sharing, str) or self.sharing in SHARING:
            return
        if self.sharing in RENAMED:
            raise ReconstructionError(
                f"camera sharing {self.sharing!r} is called {RENAMED[self.sharing]!r} now; "
                f"give {RENAMED[self.sharing]}."
            )
        raise ReconstructionError(
            f"camera sharing {self.sharing!r} is unknown; give {', '.join(SHARING)} or {LIST}FILE."
        )

    @classmethod
    def parse(
        cls, model: str = "auto", sharing: str = "auto", intrinsics: str | None = None
    ) -> CameraOptions:
        """Read the words of the command line, and the files that they name.

        model: as above, in letters of any case. sharing: as above, or `list:FILE`; see
            `read_sharing`. intrinsics: see `read_intrinsics`.

        Raises ReconstructionError for unknown words, and files that are missing or wrong.
        """
        return cls(
            "auto" if model.lower() == "auto" else model.upper(),
            read_sharing(sharing[len(LIST) :]) if sharing.startswith(LIST) else sharing,
            () if intrinsics is None else read_intrinsics(intrinsics),
        )


def read_sharing(file: str) -> dict[str, str]:
    """Which camera took each image: any word for the camera, by the name of the image.

    file: a `.csv` with a header or a `.parquet`, a local path or fsspec URL, with the columns image
        and camera; others are ignored.

    Raises ReconstructionError where the file is missing, of another kind or without its columns,
    and where it names an image twice.
    """
    kind = os.path.splitext(file)[1].lower()
    if kind not in (".csv", ".parquet"):
        raise ReconstructionError(
            f"{file}: is no list of cameras by its ending; give a .csv or .parquet file."
        )
    rows = csv_rows(read_text(file, "cameras")) if kind == ".csv" else _table_rows(file)
    found: dict[str, str] = {}
    for place, row in rows:
        image, camera = row.get("image"), row.get("camera")
        if not image or not camera:
            raise ReconstructionError(
                f"{file}, {place}: lacks image or camera; give both columns a text in every row."
            )
        if found.setdefault(str(image), str(camera)) != str(camera):
            raise ReconstructionError(
                f"{file}, {place}: {image} has the camera {camera} here and {found[str(image)]} "
                "before; leave one of them out."
            )
    if not found:
        raise ReconstructionError(f"{file}: names no image; give the columns image and camera.")
    return found


def _table_rows(file: str) -> list[tuple[str, dict[str, object]]]:
    folder, name = Folder.of_file(file, None)
    try:
        table: pa.Table = folder.read_table(name)
    except (StorageError, OSError) as error:
        raise ReconstructionError(
            f"{file}: the file of cameras cannot be read ({cause_of(error)}); check the path."
        ) from error
    return [(f"row {number}", row) for number, row in enumerate(table.to_pylist())]
