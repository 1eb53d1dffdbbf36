"""Bring a model into the world: the change that `write_model` carries out in COLMAP's process.

positions of images → positions.align   ┐
control points      → ground            ├→ local metres → frames → the model and world.json
photographs, points → up, manhattan     ┘
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.reconstruct.models.files import MadeModel, ModelFiles
from pipeline.reconstruct.positions.align import move_model, placed_models
from pipeline.reconstruct.positions.trusted import EXIF, PositionOptions, trusted_positions
from pipeline.reconstruct.similarity import Similarity
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel
from pipeline.reconstruct.world.control import ControlPoints, read_control
from pipeline.reconstruct.world.frames import FRAMES, WorldFrame, world_bytes
from pipeline.reconstruct.world.ground import grounded
from pipeline.reconstruct.world.manhattan import up_by_surfaces
from pipeline.reconstruct.world.systems import System
from pipeline.reconstruct.world.up import (
    Priors,
    Up,
    cameras_up,
    checks,
    north,
    record_of,
    turned_to,
    up_by_angles,
)
from pipeline.store.folder import Folder

UPS = ("gravity", "manhattan")
Path = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Alignment:
    """How a model comes into the world. One of positions, control and up is given.

    positions: of images, of a table or of the photographs. control: control points. up: of UPS.
    photographs: whose headers tell pitch, roll and heading. frame: of FRAMES. crs: the system of
    metres of a table. error: metres by which control points err. storage: of the table.
    """

    positions: PositionOptions | None = None
    control: ControlPoints | None = None
    up: str | None = None
    photographs: Folder | None = None
    frame: str = "enu"
    crs: System | None = None
    error: float | None = None
    storage: dict[str, Any] | None = None

    def __call__(self, models: Sequence[Any], files: Sequence[ModelFiles]) -> MadeModel:
        """Move the one model in place; for COLMAP's process.

        Returns it with sentences on how well it fits and `world.json`. Raises ReconstructionError
        where nothing holds it, and PairListError for a table that cannot be used.
        """
        (model,), (source,) = models, files
        views = ModelViews.of(model)
        if not len(views):
            raise ReconstructionError(f"{source.shown}: has no registered images to align.")
        priors = Priors.of(views, self.photographs)
        if self.positions is not None:
            return self._by_positions(self.positions, model, views, priors, source.shown)
        if self.control is not None:
            found = grounded(views, self.control, self.error)
            frame = WorldFrame.of(self.frame, found.frame)
            notes = [*found.notes, *self._checks(found.fit.move, frame, views, priors)]
            return _moved(model, found.fit.move, frame, notes, {"control": found.record()})
        return self._upright(model, views, priors, source.shown)

    def _by_positions(
        self,
        options: PositionOptions,
        model: Any,
        views: ModelViews,
        priors: Priors,
        shown: str,
    ) -> MadeModel:
        up = up_by_angles(views, priors)
        positions = trusted_positions(
            *(options, views.names, self.storage, self.photographs),
            line=isinstance(up, Up),
            scene="the model",
        )
        if self.crs is not None:
            positions = positions.on_earth(
                partial(self.crs.checked_degrees, shown=options.table), self.crs.name
            )
        (placed,), notes = placed_models(
            *([model], ["the model"], positions, up.direction if isinstance(up, Up) else None)
        )
        if placed is None:
            raise ReconstructionError(f"{shown}: {notes[-1]}")
        frame = WorldFrame.of(self.frame, positions.frame)
        notes = [*notes[1:], *self._checks(placed.fit.move, frame, views, priors)]
        record = {"positions": {**placed.record(), "from": positions.frame.table}}
        return _moved(model, placed.fit.move, frame, notes, record)

    def _checks(
        self, move: Similarity, frame: WorldFrame, views: ModelViews, priors: Priors
    ) -> list[str]:
        """What pitch, roll and headings say of a model whose local metres lie on the earth."""
        if frame.name == "table" or self.photographs is None:
            return []
        return checks(move.rotation, views, priors)

    def _upright(self, model: Any, views: ModelViews, priors: Priors, shown: str) -> MadeModel:
        """The model with z up. It keeps its scale."""
        ahead: np.ndarray | None
        if self.up == "gravity":
            up = up_by_angles(views, priors)
            if isinstance(up, str):
                raise ReconstructionError(
                    f"{shown}: nothing tells which way is up: {up}; try --up manhattan."
                )
            ahead, notes = north(views, priors, up.direction)
        else:
            found = up_by_surfaces(SparseModel.of(model).xyz, cameras_up(views, priors))
            if isinstance(found, str):
                raise ReconstructionError(
                    f"{shown}: nothing tells which way is up: {found}; try --up gravity, or give "
                    "positions or control points."
                )
            up, ahead = found
            notes = ["y points along a surface; nothing tells where north is"]
        move = turned_to(up.direction, ahead)
        frame = WorldFrame("up", Similarity.identity(), None, np.zeros(3))
        notes = [up.text, *notes, "nothing tells the scale, which stays"]
        return _moved(model, move, frame, notes, {"up": record_of(up)})


def _moved(
    model: Any, move: Similarity, frame: WorldFrame, notes: list[str], record: dict[str, Any]
) -> MadeModel:
    whole = frame.move.after(move)
    move_model(model, whole)
    world = {**frame.record(whole), **record, "notes": notes}
    return MadeModel(model, [f"the model is in {frame.text()}", *notes], world_bytes(world))


def alignment(
    gps: Path,
    gps_error: float | None,
    gcp: Path,
    gcp_error: float | None,
    up: str | None,
    images: Path,
    frame: str,
    crs: str | None,
    storage: dict[str, Any] | None = None,
) -> Alignment:
    """What `pipeline.align_model` is asked for, checked; files of control points are read.

    Raises ArgumentError for arguments that do not fit together, and PairListError as
    `read_control`.
    """
    _check(gps, gcp, up, images)
    if frame not in FRAMES:
        raise ArgumentError(f"frame {frame!r} is unknown; give {', '.join(FRAMES)}.")
    for value, option in ((gps_error, "--gps-error"), (gcp_error, "--gcp-error")):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ArgumentError(f"{option} {value:g}: give the metres that they err, above 0.")
    if (gps is None and gps_error is not None) or (gcp is None and gcp_error is not None):
        raise ArgumentError(
            "an error is given of what is not; leave --gps-error and --gcp-error out."
        )
    if up is not None and (frame != "enu" or crs is not None):
        raise ArgumentError(
            "--up places a model nowhere on the earth; leave --frame and --crs out."
        )
    system = None if crs is None else System.of(crs)
    photographs = None if images is None else Folder(_absolute(images), storage or {})
    how = Alignment(up=up, photographs=photographs, frame=frame, crs=system, storage=storage)
    if gcp is not None:
        return replace(how, control=read_control(gcp, system, storage), error=gcp_error)
    if gps is None:
        return how
    table = _absolute(gps)
    if table.lower().endswith((".csv", ".parquet")):
        return replace(how, positions=PositionOptions(table, gps_error))
    return replace(
        how,
        positions=PositionOptions(EXIF, gps_error),
        photographs=Folder(table, storage or {}),
    )


def _absolute(path: str | os.PathLike[str]) -> str:
    """A path or URL that means the same in COLMAP's process, wherever that works."""
    text = os.fspath(path)
    return text if "://" in text else os.path.abspath(text)


def _check(gps: Path, gcp: Path, up: str | None, images: Path) -> None:
    """Raise ArgumentError unless one way to align a model is given, with what it needs."""
    if sum(way is not None for way in (gps, gcp, up)) != 1:
        raise ArgumentError(
            "--gps, --gcp, --up: needs one way to bring the model into the world; give one of them."
        )
    if up is not None and up not in UPS:
        raise ArgumentError(f"up {up!r} is unknown; give {' or '.join(UPS)}.")
    if up == "gravity" and images is None:
        raise ArgumentError(
            "--up gravity reads pitch and roll of the photographs; give their folder by --images."
        )
