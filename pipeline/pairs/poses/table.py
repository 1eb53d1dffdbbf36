"""Poses of a table: quaternions, or positions and angles as a log of GNSS and IMU holds them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PairListError
from pipeline.events import counted
from pipeline.names.resolve import Resolver, named_images
from pipeline.pairs.poses.angles import (
    GIMBAL,
    NAMES_IN_XMP,
    OMEGA_PHI_KAPPA,
    YAW_PITCH_ROLL,
    other_rotations,
    rotations_of_angles,
)
from pipeline.pairs.poses.frame import local_frame, own_frame
from pipeline.pairs.poses.known import KnownPoses, Poses, in_conventions, in_turns
from pipeline.pairs.spatial import floats_of, read_columns, read_positions

QUATERNION, SHIFT = ("qw", "qx", "qy", "qz"), ("tx", "ty", "tz")
HORIZONTAL, VERTICAL, ERROR = "horizontal_error", "vertical_error", "error"
MOST_SHOWN = 4  # columns that a message names
LENGTHS = (0.9, 1.1)  # of a quaternion, which rounding makes longer or shorter
# Where w, x, y and z are in what was read as w, x, y and z, by the mistake.
ORDERS = {
    "in the order x, y, z, w in the columns qw, qx, qy, qz": [3, 0, 1, 2],
    "in the order w, x, y, z in the columns qx, qy, qz, qw": [1, 2, 3, 0],
}

Columns = Mapping[str, pa.ChunkedArray]


def poses_of_table(
    url: str, storage: dict[str, Any] | None = None, known: Resolver | None = None
) -> KnownPoses:
    """Poses in a `.csv` with a header or a `.parquet`, at a local path or fsspec URL.

    The columns are image, qw, qx, qy, qz and tx, ty, tz: world to camera. Or image and a position
    as of `read_positions` with its height, and perhaps a rotation: qw, qx, qy, qz from the world to
    the camera, or angles as `angles` tells. horizontal_error and vertical_error, or error, are
    metres by which a position errs.

    Raises PairListError for a table without these columns or with what is no number or no rotation.
    """
    file = os.path.basename(url)
    try:
        columns = read_columns(url, "poses", storage)
    except pa.ArrowInvalid as error:
        raise PairListError(f"{file}: is no table ({error}); correct it.") from error
    columns = {NAMES_IN_XMP.get(name, name): values for name, values in columns.items()}
    _check_columns(columns, file)
    if {*QUATERNION, *SHIFT} <= columns.keys():
        return _of_quaternions(columns, file, known)
    found = read_positions(url, None, "altitude" in columns or "z" in columns, storage, known)
    if not found.heights:
        raise PairListError(
            f"{file}: holds no poses; give columns image, qw, qx, qy, qz, tx, ty, tz, or a "
            "position with its height, as latitude, longitude, altitude or x, y, z."
        )
    listed = _images(columns, file, known)
    row = {image: number for number, image in enumerate(listed)}
    rows = np.array([row[name] for name in found.names], np.int64)
    centres, frame = local_frame(found.metres, found.earth, file)
    poses, convention, others = _rotated(columns, rows, centres, file)
    notes = []
    if found.failures.num_rows:
        first = found.failures["detail"][0].as_py()
        notes.append(f"{counted(found.failures.num_rows, 'row')} of {file} left out, as {first}")
    off = _errors(columns, rows, file)
    return KnownPoses(
        *(file, found.names, centres, poses, convention, frame, others),
        error=off,
        notes=notes,
    )


def _check_columns(columns: Columns, file: str) -> None:
    """Raise PairListError for a table without the columns of poses."""
    placed = any({*kind} <= columns.keys() for kind in (("x", "y"), ("latitude", "longitude")))
    if "image" not in columns or not ({*QUATERNION, *SHIFT} <= columns.keys() or placed):
        raise PairListError(
            f"{file}: needs columns image, qw, qx, qy, qz, tx, ty, tz, or image and a position "
            "with its height, as latitude, longitude, altitude or x, y, z; its first line, which "
            f"names the columns, has {', '.join([*columns][:MOST_SHOWN])}."
        )


def _of_quaternions(columns: Columns, file: str, known: Resolver | None) -> KnownPoses:
    names = _images(columns, file, known)
    everything = np.arange(len(names))
    quaternion = _quaternions(columns, everything, file)
    shift = _stacked(columns, SHIFT, everything, file)
    read = Poses.of_quaternions(quaternion, shift)
    good = read.known()
    rows = np.flatnonzero(good)

    def understood(of: Poses) -> tuple[Poses, str, dict[str, Poses]]:
        matrices = np.tile(np.eye(4), (len(rows), 1, 1))
        matrices[:, :3, :3], matrices[:, :3, 3] = of.rotations(), of.shift
        return in_conventions(matrices, to_world=False, opengl=False)

    _, convention, others = _in_orders(read.of(rows), understood)
    lost = [name for name, has in zip(names, good.tolist(), strict=True) if not has]
    notes = []
    if lost:
        cells = np.column_stack([quaternion, shift])[~good][0]
        row = dict(zip((*QUATERNION, *SHIFT), cells.tolist(), strict=True))
        bad = next((f" ({name} is {cell})" for name, cell in row.items() if math.isinf(cell)), "")
        notes = [f"{counted(len(lost), 'row')} of {file} without a pose, as {lost[0]}{bad}"]
    poses = read.of(rows)
    return KnownPoses(
        *(file, [names[row] for row in rows], poses.centres(), poses, convention),
        *(own_frame(file), others),
        notes=notes,
    )


def _rotated(
    columns: Columns, rows: np.ndarray, centres: np.ndarray, file: str
) -> tuple[Poses | None, str, dict[str, Poses]]:
    """The poses of centres whose table has rotations, how they are understood, and otherwise."""
    if {*QUATERNION} <= columns.keys():
        turned = Poses.of_quaternions(_quaternions(columns, rows, file), centres)
        return _in_orders(turned, lambda read: in_turns(read.rotations(), centres))
    for kind in (GIMBAL, OMEGA_PHI_KAPPA, YAW_PITCH_ROLL):
        if {*kind} <= columns.keys():
            degrees = _stacked(columns, kind, rows, file)
            poses = Poses.of_rotations(rotations_of_angles(kind, degrees), centres)
            others = {
                text: Poses.of_rotations(rotation, centres)
                for text, rotation in other_rotations(kind, degrees).items()
            }
            return poses, f"the angles {', '.join(kind)}", others
    return None, "positions alone", {}


def _in_orders(
    read: Poses, understood: Callable[[Poses], tuple[Poses, str, dict[str, Poses]]]
) -> tuple[Poses, str, dict[str, Poses]]:
    """Poses, their convention and others, with those where w is in another place."""
    poses, convention, others = understood(read)
    for order, columns in ORDERS.items():
        moved, text, more = understood(Poses(read.quaternion[:, columns], read.shift))
        others |= {
            f"{one} and quaternions {order}": of for one, of in {text: moved, **more}.items()
        }
    return poses, convention, others


def _quaternions(columns: Columns, rows: np.ndarray, file: str) -> np.ndarray:
    quaternion = _stacked(columns, QUATERNION, rows, file)
    length = np.linalg.norm(quaternion, axis=1)
    bad = np.flatnonzero((length < LENGTHS[0]) | (length > LENGTHS[1]))
    if len(bad):
        raise PairListError(
            f"{file}, row {rows[bad[0]] + 1}: qw, qx, qy, qz have the length {length[bad[0]]:.3g}; "
            "a rotation has the length 1."
        )
    return quaternion


def _errors(columns: Columns, rows: np.ndarray, file: str) -> np.ndarray | None:
    """Metres by which positions err, (n, 3), None without such columns."""
    across, along = (name if name in columns else ERROR for name in (HORIZONTAL, VERTICAL))
    if across not in columns or along not in columns:
        return None
    error = _stacked(columns, (across, across, along), rows, file)
    if (error <= 0).any():
        raise PairListError(f"{file}: {across} or {along} holds no metres above 0; correct it.")
    return error


def _stacked(columns: Columns, chosen: tuple[str, ...], rows: np.ndarray, file: str) -> np.ndarray:
    """Columns (n, …) as numbers, NaN where a cell is empty."""
    try:
        numbers = np.stack([floats_of(columns[name], name) for name in chosen], axis=1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PairListError(f"{file}: needs numbers in {', '.join(chosen)} ({error}).") from error
    found: np.ndarray = numbers[rows]
    return found


def _images(columns: Columns, file: str, known: Resolver | None) -> list[str]:
    if "image" not in columns:
        raise PairListError(f"{file}: needs a column image with the names of the photographs.")
    images = columns["image"].cast(pa.string())
    names: list[str] = (images if known is None else named_images(images, known, file)).to_pylist()
    return [name or "" for name in names]
