"""The files of a COLMAP model: brought to this machine, read, and replaced as a whole."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ReconstructionError
from pipeline.events import Listener
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.frame import WORLD
from pipeline.reconstruct.refine.job import FILES_OF_A_MODEL
from pipeline.store import disk
from pipeline.store.folder import Folder
from pipeline.store.results import Results

POINTS = "points.ply"
# Without cameras.bin and cameras.txt a folder holds no model. They are the first to go and the last
# to come, so what is left where this is stopped is never a mixture of two models.
WRITTEN = [WORLD, POINTS, *reversed(FILES_OF_A_MODEL)]
# Of points3D.bin: a number of points, and of each 51 bytes that end in the number of its
# observations, which follow.
COUNT, POINT_BYTES, ELEMENT_BYTES = struct.Struct("<Q"), 51, 8
MADE = ".model"  # folder of a model that is being written


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine. shown: where it came from, for a person."""

    folder: Path
    shown: str

    def read(self) -> Any:
        """The model as a `pycolmap.Reconstruction`; for COLMAP's process.

        Raises ReconstructionError where COLMAP cannot read it.
        """
        self._check_points()
        try:
            return import_pycolmap().Reconstruction(str(self.folder))
        except Exception as error:  # COLMAP raises whatever a damaged file provokes
            raise ReconstructionError(
                f"{self.shown}: COLMAP cannot read this model ({error}); make it again."
            ) from error

    def world(self) -> bytes | None:
        """The bytes of WORLD beside the model, if it has a frame."""
        path = self.folder / WORLD
        return path.read_bytes() if path.is_file() else None

    def _check_points(self) -> None:
        """Raise ReconstructionError where points3D.bin is cut off: COLMAP would not end."""
        path = self.folder / "points3D.bin"
        if not path.is_file():
            return
        data, end = path.read_bytes(), COUNT.size
        count = COUNT.unpack_from(data)[0] if len(data) >= end else -1
        while count > 0 and end + POINT_BYTES <= len(data):
            (length,) = COUNT.unpack_from(data, end + POINT_BYTES - COUNT.size)
            end += POINT_BYTES + ELEMENT_BYTES * length
            count -= 1
        if count or end != len(data):
            raise ReconstructionError(
                f"{self.shown}: COLMAP cannot read this model (points3D.bin is cut off or "
                "damaged); copy or make it again."
            )


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
