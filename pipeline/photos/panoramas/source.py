"""A folder of photographs in which faces stand in the place of panoramas."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ImageError
from pipeline.events import counted
from pipeline.photos.decode import Photograph, decode_image
from pipeline.photos.limits import DEFAULT_LIMITS, ImageLimits
from pipeline.photos.panoramas.render import face_pixels
from pipeline.photos.panoramas.sphere import Face, Panorama
from pipeline.photos.sizes import bucket
from pipeline.photos.source import Folders, read_file, read_image
from pipeline.store.folder import Folder
from pipeline.tables import FACES
from pipeline.vocabulary import DEFAULT_LONG_SIDE, Reason

FACES_FILE = "plan/faces.parquet"  # of a run
KEPT = 2  # decoded panoramas that a process keeps, because the faces of one follow each other


class _Decoded:
    """The last panoramas that were decoded, for the threads of one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[tuple[str, int], Photograph] = OrderedDict()

    def __reduce__(self) -> tuple[type[_Decoded], tuple[()]]:
        return _Decoded, ()  # another process decodes its own


@dataclass(frozen=True)
class FaceFolder:
    """A folder of photographs of which some are panoramas. It is picklable.

    faces: by their names as images. refused: panoramas that cannot be used, and why.

    The bytes of a face are those of its panorama's file, for whoever reads when and where it was
    taken. `read_picture` gives its pixels.
    """

    folder: Folder
    faces: dict[str, Face]
    refused: dict[str, ImageError] = field(default_factory=dict)
    decoded: _Decoded = field(default_factory=_Decoded, compare=False, repr=False)

    @property
    def shown(self) -> str:
        """The folder without user, password and query, for messages and logs."""
        return self.folder.shown

    def list(self, suffixes: Sequence[str] = ()) -> Sequence[str]:
        """Sorted names of the files that end in one of `suffixes`; faces in place of panoramas."""
        panoramas = {face.panorama.name for face in self.faces.values()}
        names = [name for name in self.folder.list(suffixes) if name not in panoramas]
        return sorted([*names, *self.faces])

    def exists(self, name: str) -> bool:
        """Whether there is the file of this name, or that of its panorama."""
        return self.folder.exists(self.file_of(name))

    def read_bytes(self, name: str, limit: int | None = None) -> bytes:
        """A file's bytes, as `Folder.read_bytes` gives them; of a face those of its panorama."""
        return self.folder.read_bytes(self.file_of(name), limit)

    def counts(self) -> dict[str, int]:
        """Numbers of the panoramas, of their faces, and of those that cannot be used."""
        panoramas = {face.panorama.name for face in self.faces.values()}
        return {
            "panoramas": len(panoramas),
            "faces": len(self.faces),
            "refused": len(self.refused),
        }

    def file_of(self, name: str) -> str:
        """The file that holds the pixels of an image."""
        return self.faces[name].panorama.name if name in self.faces else name

    def panorama(self, face: Face, limits: ImageLimits, long_side: int) -> Photograph:
        """The decoded panorama of a face. long_side: pixels that the caller needs of it at most."""
        key = face.panorama.name, long_side
        with self.decoded.lock:
            if key not in self.decoded.kept:
                data = read_file(self.folder, face.panorama.name, limits)
                self.decoded.kept[key] = decode_image(data, limits, long_side, key[0])
                while len(self.decoded.kept) > KEPT:
                    self.decoded.kept.popitem(last=False)
            self.decoded.kept.move_to_end(key)
            photo = self.decoded.kept[key]
        found, planned = (photo.width, photo.height), (face.panorama.width, face.panorama.height)
        if found != planned:
            cause = f"the panorama has {found[0]}×{found[1]} pixels"
            raise ImageError(
                Reason.UNREADABLE, f"{cause} and had {planned[0]}×{planned[1]} when it was planned"
            )
        return photo


def panoramas_line(counts: dict[str, int]) -> str:
    """The numbers of `FaceFolder.counts` for a person."""
    text = f"{counted(counts['panoramas'], 'panorama')} in {counted(counts['faces'], 'face')}"
    refused = counts["refused"]
    return f"{text}; {counted(refused, 'panorama')} cannot be used" if refused else text


def read_picture(
    folder: Folder | Folders | FaceFolder,
    name: str,
    limits: ImageLimits = DEFAULT_LIMITS,
    long_side: int = DEFAULT_LONG_SIDE,
) -> tuple[np.ndarray, dict[str, Any]]:
    """As `read_image`, also for the faces of panoramas.

    The focal length of a face is that of its pinhole. Raises ImageError, for a panorama that cannot
    be used with the reason `partial_panorama`.
    """
    if not isinstance(folder, FaceFolder):
        return read_image(folder, name, limits, long_side)
    if name in folder.refused:
        raise folder.refused[name]
    if name not in folder.faces:
        return read_image(folder.folder, name, limits, long_side)
    face = folder.faces[name]
    limits.check(face.side, face.side)
    side, _ = bucket(face.side, face.side, long_side)
    photo = folder.panorama(face, limits, round(np.pi * side))
    row = {"image": name, "width": face.side, "height": face.side}
    row |= {"stored_width": face.side, "stored_height": face.side, "orientation": 1}
    return face_pixels(photo.gray, face, side), {**row, "focal": face.focal, "camera": photo.camera}


def read_whole(folder: Folder | Folders | FaceFolder, name: str) -> Photograph:
    """A photograph or a face with all its pixels. Raises ImageError where it cannot be read."""
    if not isinstance(folder, FaceFolder):
        return decode_image(read_file(folder, name), name=name)
    if name not in folder.faces:
        return decode_image(read_file(folder.folder, name), name=name)
    face = folder.faces[name]
    photo = folder.panorama(face, DEFAULT_LIMITS, face.panorama.width)
    size = (face.side,) * 4
    return Photograph(face_pixels(photo.gray, face), *size, 1, face.focal, photo.camera)


def faces_table(faces: Sequence[Face]) -> pa.Table:
    """A table of FACES, one row for each face."""
    rows = [
        {
            "image": face.name,
            "side": face.side,
            "yaw": face.yaw,
            "rotation": face.rotation.ravel(),
            "panorama": face.panorama.name,
            **{name: value for name, value in vars(face.panorama).items() if name != "name"},
        }
        for face in faces
    ]
    return pa.Table.from_pylist(rows, schema=FACES)


def faces_of_table(table: pa.Table) -> dict[str, Face]:
    """Inverts `faces_table`: the faces by their names."""
    places = ("width", "height", "full_width", "full_height", "left", "top")
    faces = {}
    for row in table.to_pylist():
        panorama = Panorama(row["panorama"], *(row[name] for name in places))
        faces[row["image"]] = Face(panorama, row["yaw"], row["side"])
    return faces


def faces_of_runs(runs: Sequence[Folder]) -> dict[str, Face]:
    """The faces of the panoramas of runs, by their names as images."""
    faces: dict[str, Face] = {}
    for run in runs:
        if run.exists(FACES_FILE):
            faces |= faces_of_table(run.read_table(FACES_FILE))
    return faces
