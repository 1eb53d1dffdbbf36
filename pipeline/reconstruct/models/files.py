"""The files of a COLMAP model: brought to this machine, read, and replaced as a whole."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.events import Listener
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.frame import WORLD
from pipeline.reconstruct.refine.job import FILES_OF_A_MODEL
from pipeline.store import disk
from pipeline.store.folder import Folder, place
from pipeline.store.results import Results

POINTS = "points.ply"
# Without cameras.bin and cameras.txt a folder holds no model. They are the first to go and the last
# to come, so what is left where this is stopped is never a mixture of two models.
WRITTEN = [WORLD, POINTS, *reversed(FILES_OF_A_MODEL)]
# A binary file of a model is a number of records, and the records. A camera has 24 bytes with the
# number of its kind at 4, and its parameters. An image has 64 bytes, its name and a zero byte, and
# the number of its points, which have 24 bytes. A point has 51 bytes that end in the number of its
# observations, which have 8.
COUNT, KIND = struct.Struct("<Q"), struct.Struct("<i")
MADE = ".model"  # folder of a model that is being written
Place = Folder | Path


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine. shown: where it came from, for a person."""

    folder: Path
    shown: str

    def read(self) -> Any:
        """The model as a `pycolmap.Reconstruction`; for COLMAP's process.

        Raises ReconstructionError where COLMAP cannot read it.
        """
        for name, record in RECORDS.items():
            self._check_whole(name, record)
        try:
            model = import_pycolmap().Reconstruction(str(self.folder))
        except Exception as error:  # COLMAP raises whatever a damaged file provokes
            raise ReconstructionError(
                f"{self.shown}: COLMAP cannot read this model ({error}); make it again."
            ) from error
        names = Counter(model.images[number].name for number in model.reg_image_ids())
        if twice := [name for name, count in names.items() if count > 1]:
            raise ReconstructionError(
                f"{self.shown}: has several images named {twice[0]}, and images are told apart by "
                "their names; rename them, in the model and where they lie."
            )
        if strange := _not_finite(model):
            raise ReconstructionError(
                f"{self.shown}: {strange} has numbers that are not finite; make the model again."
            )
        return model

    def world(self) -> bytes | None:
        """The bytes of WORLD beside the model, if it has a frame."""
        path = self.folder / WORLD
        return path.read_bytes() if path.is_file() else None

    def _check_whole(self, name: str, record_end: Callable[[bytes, int], int]) -> None:
        """Raise ReconstructionError where a file is cut off: COLMAP would read on without an end.

        record_end: tells where the record that begins somewhere ends.
        """
        path = self.folder / name
        if not path.is_file():
            return
        data, end = path.read_bytes(), COUNT.size
        try:
            for _ in range(COUNT.unpack_from(data)[0]):
                end = record_end(data, end)
        except (struct.error, ValueError):  # it reads behind the last byte
            end = -1
        if end != len(data):
            raise ReconstructionError(
                f"{self.shown}: COLMAP cannot read this model ({name} is cut off or damaged); "
                "copy or make it again."
            )


def _camera_end(data: bytes, at: int) -> int:
    pycolmap = import_pycolmap()
    kind = pycolmap.CameraModelId(KIND.unpack_from(data, at + 4)[0])
    camera = pycolmap.Camera.create_from_model_id(1, kind, 1.0, 1, 1)  # ValueError for another kind
    return at + 24 + 8 * len(camera.params)


def _image_end(data: bytes, at: int) -> int:
    points = data.index(b"\0", at + 64) + 1
    (count,) = COUNT.unpack_from(data, points)
    end: int = points + COUNT.size + 24 * count
    return end


def _point_end(data: bytes, at: int) -> int:
    (count,) = COUNT.unpack_from(data, at + 43)
    end: int = at + 51 + 8 * count
    return end


RECORDS = {"cameras.bin": _camera_end, "images.bin": _image_end, "points3D.bin": _point_end}


def _not_finite(model: Any) -> str:
    """What of a model has numbers that are not finite, for a sentence; empty where nothing has."""
    for camera in model.cameras.values():
        if not np.isfinite(camera.params).all():
            return f"camera {camera.camera_id}"
    for image in (model.images[number] for number in model.reg_image_ids()):
        if not np.isfinite(image.cam_from_world().matrix()).all():
            return str(image.name)
    for number, point in model.points3D.items():
        if not np.isfinite(point.xyz).all():
            return f"point {number}"
    return ""


@contextmanager
def files_of_model(model: Folder | Path, scratch: str | Path | None = None) -> Iterator[ModelFiles]:
    """The files of a model, which are copied if it is at a URL and read where they are if not.

    scratch: the folder in which copies lie meanwhile; None takes that of the system for temporary
        files.

    Raises ReconstructionError for a folder without a model, and StorageError for one that cannot be
    read.
    """
    if isinstance(model, Path) or model.local:
        folder = model if isinstance(model, Path) else Path(model.path())
        found = [name for name in FILES_OF_A_MODEL if (folder / name).is_file()]
        _check_model(found, str(folder))
        yield ModelFiles(folder.absolute(), str(folder))
        return
    here = set(model.list(recursive=False))
    found = [name for name in [*FILES_OF_A_MODEL, WORLD] if name in here]
    _check_model(found, model.shown)
    parent = disk.writable_folder(tempfile.gettempdir() if scratch is None else scratch)
    with tempfile.TemporaryDirectory(prefix="eloftr-", dir=parent.resolve()) as made:
        for name in found:
            model.copy_file(name, Path(made) / name)
        yield ModelFiles(Path(made), model.shown)


def _check_model(found: list[str], shown: str) -> None:
    if not {"images.bin", "images.txt"} & {*found}:
        raise ReconstructionError(
            f"{shown}: holds no images.bin or images.txt; give the folder of one COLMAP model."
        )


def check_output(
    output: Place, models: Sequence[Place], photographs: Sequence[Folder] = ()
) -> None:
    """Raise ReconstructionError for an output that is, or lies in, what is given."""
    target, *given = (
        place(one if isinstance(one, Folder) else Folder(str(one))) for one in (output, *models)
    )
    shown = output.shown if isinstance(output, Folder) else output
    if any(target.startswith(one) for one in given):
        raise ReconstructionError(
            f"{shown}: is a given model or lies in one; give another --output."
        )
    if any(target.startswith(place(one)) for one in photographs):
        raise ReconstructionError(
            f"{shown}: lies inside a folder of photographs; give another --output."
        )


class MadeModel(NamedTuple):
    """A `pycolmap.Reconstruction`, sentences on it, and the bytes of its WORLD if it has one."""

    model: Any
    notes: list[str]
    world: bytes | None = None


def write_made(made: MadeModel, work: Path) -> None:
    """Write a model and its points into a folder of their own in `work`; for COLMAP's process."""
    folder = work / MADE
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    disk.write_whole(made.model, folder, folder / POINTS)
    if made.world is not None:
        (folder / WORLD).write_bytes(made.world)


def replace_model(results: Results, listen: Listener) -> None:
    """Put what `write_made` wrote in the place of the model that the results hold."""
    work = results.work
    for name in reversed(WRITTEN):
        (work / name).unlink(missing_ok=True)
    for name in WRITTEN:
        if (work / MADE / name).exists():
            (work / MADE / name).replace(work / name)
    (work / MADE).rmdir()
    results.deliver(WRITTEN, listen)
