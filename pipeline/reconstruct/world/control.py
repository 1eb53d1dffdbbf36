"""Files of ground control points: where points of the scene are, and where photographs show them.

A `.csv` with a header, or the `gcp_list.txt` of OpenDroneMap. A row is a mark: one point in one
photograph. Pixels are those of the stored photograph, and (0, 0) is the corner of the top-left one.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import PairListError, StorageError
from pipeline.reconstruct.world.systems import LATITUDE_LONGITUDE, System
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of

POINT = ("point", "gcp", "label", "id", "marker")
IMAGE = ("image", "image_name", "filename", "photo")
# Columns of the coordinates of a point, and whether they are degrees.
COORDINATES = (
    (("latitude", "longitude"), True),
    (("lat", "lon"), True),
    (("easting", "northing"), False),
    (("x", "y"), False),
)
HEIGHT = ("z", "altitude", "height", "elevation")
# x and y are pixels where something else tells the coordinates.
PIXELS = (("column", "row"), ("px", "py"), ("pixel_x", "pixel_y"), ("im_x", "im_y"), ("x", "y"))
NEEDS = (
    "needs the columns point, image, column and row, and x, y, z or easting, northing, height or "
    "latitude, longitude, altitude"
)
EQUAL = 1e-3  # metres by which two rows of one point may differ; degrees are compared to 1e-8
EQUAL_DEGREES = 1e-8


@dataclass(frozen=True)
class Mark:
    """A control point in a photograph. xy: (2,) pixels from the corner of the stored picture."""

    point: str
    image: str
    xy: tuple[float, float]


@dataclass(frozen=True)
class ControlPoints:
    """Control points and their marks.

    names: (n,). coordinates: (n, 3) of the system. system: None where they are metres that the file
    does not name. marks: of all points. shown: the file, for a person.
    """

    names: list[str]
    coordinates: np.ndarray
    system: System | None
    marks: list[Mark]
    shown: str


def read_control(
    url: str | os.PathLike[str], crs: System | None = None, options: dict[str, Any] | None = None
) -> ControlPoints:
    """Read a file of control points at a local path or fsspec URL.

    crs: the system of metres that the file does not name.

    Raises PairListError for a file that is missing, of another kind, without its columns, with
    what is no number, with a point at two places or marked twice in one photograph.
    """
    folder, file = Folder.of_file(url, options)
    kind = os.path.splitext(file)[1].lower()
    if kind not in (".csv", ".txt"):
        raise PairListError(
            f"{file}: is no file of control points by its ending; give a .csv or OpenDroneMap's "
            "gcp_list.txt."
        )
    try:
        text = folder.read_bytes(file).decode("utf-8-sig", errors="replace")
    except (StorageError, OSError) as error:
        raise PairListError(
            f"{folder.shown}/{file}: cannot be read ({cause_of(error)}); check the path."
        ) from error
    if kind == ".csv":
        degrees, rows = _of_csv(text, file)
        system = System(LATITUDE_LONGITUDE) if degrees else crs
    else:
        system, rows = _of_list(text, file)
    return _gathered([*rows], system, file)


# Where a row stands, its point, three coordinates, its photograph and pixel.
Row = tuple[str, str, tuple[float, float, float], str, tuple[float, float]]


def _of_csv(text: str, file: str) -> tuple[bool, Iterator[Row]]:
    """Whether coordinates are degrees, and the rows of a table with a header."""
    lines = csv.reader(io.StringIO(text, newline=""))
    header = [word.strip().lower() for word in next(lines, [])]

    def first(wanted: Sequence[str]) -> int:
        return next((header.index(word) for word in wanted if word in header), -1)

    both = [(pair, degrees) for pair, degrees in COORDINATES if {*pair} <= {*header}]
    place, degrees = both[0] if both else (("", ""), False)
    pixels = next((two for two in PIXELS if {*two} <= {*header} and two != place), None)
    point, image, height = first(POINT), first(IMAGE), first(HEIGHT)
    if not place[0] or pixels is None or min(point, image, height) < 0:
        raise PairListError(f"{file}: {NEEDS}, and has {', '.join(header)[:200] or 'none'}.")
    columns = [*(header.index(word) for word in place), height]
    across = [header.index(word) for word in pixels]

    def rows() -> Iterator[Row]:
        for cells in lines:
            where = f"{file}, line {lines.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise PairListError(
                    f"{where}: has {len(cells)} fields below a header of {len(header)}; correct it."
                )
            x, y, z = (_number(cells[k], where) for k in columns)
            u, v = (_number(cells[k], where) for k in across)
            yield where, cells[point].strip(), (x, y, z), cells[image].strip(), (u, v)

    return degrees, rows()


def _of_list(text: str, file: str) -> tuple[System, Iterator[Row]]:
    """The system and the rows of OpenDroneMap's list: x, y, z, pixels, photograph, name."""
    lines = [(k, line.split("#")[0].strip()) for k, line in enumerate(text.splitlines(), 1)]
    lines = [(k, line) for k, line in lines if line]
    if not lines:
        raise PairListError(f"{file}: is empty; give the system and a line for every mark.")
    system = System.of(lines[0][1])
    named: dict[tuple[float, float, float], str] = {}

    def rows() -> Iterator[Row]:
        for k, line in lines[1:]:
            where, words = f"{file}, line {k}", line.split()
            if len(words) < 6:
                raise PairListError(
                    f"{where}: has {len(words)} fields; give x, y, z, the pixel's two numbers and "
                    "the name of the photograph."
                )
            x, y, z, u, v = (_number(word, where) for word in words[:5])
            place = (
                (y, x, z) if system.epsg == LATITUDE_LONGITUDE else (x, y, z)
            )  # longitude comes first
            name = named.setdefault(place, words[6] if len(words) > 6 else f"{len(named) + 1}")
            yield where, name, place, words[5], (u, v)

    return system, rows()


def _number(word: str, where: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise PairListError(f"{where}: {word[:40]!r} is no number; correct it.")
    return number


def _gathered(rows: list[Row], system: System | None, file: str) -> ControlPoints:
    places: dict[str, tuple[float, float, float]] = {}
    marks: dict[tuple[str, str], Mark] = {}
    near = EQUAL_DEGREES if system is not None and system.epsg == LATITUDE_LONGITUDE else EQUAL
    for where, point, place, image, xy in rows:
        if not point or not image:
            raise PairListError(f"{where}: names no point or no photograph; correct it.")
        known = places.setdefault(point, place)
        if np.abs(np.subtract(known, place)).max() > near:
            raise PairListError(
                f"{where}: {point} is at {place} here and at {known} before; correct one of them."
            )
        if (point, image) in marks:
            raise PairListError(f"{where}: marks {point} in {image} twice; leave one out.")
        marks[point, image] = Mark(point, image, xy)
    if not places:
        raise PairListError(f"{file}: holds no marks; give a row for every mark.")
    coordinates = np.array([*places.values()], float)
    if system is not None and system.epsg == LATITUDE_LONGITUDE:
        _check_degrees([*places], coordinates, file)
    elif system is not None:
        system.check(coordinates, file)
    return ControlPoints([*places], coordinates, system, [*marks.values()], file)


def _check_degrees(names: list[str], degrees: np.ndarray, file: str) -> None:
    bad = (np.abs(degrees[:, 0]) > 90) | (np.abs(degrees[:, 1]) > 180)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        swapped = abs(degrees[row, 1]) <= 90 and abs(degrees[row, 0]) <= 180
        why = "; its latitude and longitude look swapped" if swapped else ""
        raise PairListError(
            f"{file}: {names[row]} is at latitude {degrees[row, 0]:g}, longitude "
            f"{degrees[row, 1]:g}, which is no place{why}; correct it."
        )
