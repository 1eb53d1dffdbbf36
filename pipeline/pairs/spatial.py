"""Where photographs were taken, from their EXIF data or a table, and which are near each other.

    folder of images → exif_positions ┐
    CSV or Parquet   → read_positions ┴→ Positions → neighbours: the k nearest, or all in a radius

Positions are in metres. Latitudes and longitudes become points of the WGS 84 ellipsoid. Distances
are straight lines, which are 0.1 m too short at 40 km.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import UnidentifiedImageError
from pyarrow import csv
from scipy.spatial import cKDTree

from pipeline.errors import PairListError, StorageError
from pipeline.events import counted
from pipeline.names.resolve import Resolver, named_images
from pipeline.names.text import csv_text
from pipeline.pairs.formats import MOST, of_pairs
from pipeline.pairs.pair_list import PairList
from pipeline.photos.exif import HEADER_BYTES, HEADER_THREADS, GpsPosition, whole_position
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of
from pipeline.tables import FAILURES
from pipeline.vocabulary import Reason, StageName

METRES, DEGREES = ("x", "y", "z"), ("latitude", "longitude", "altitude")
RADIUS, ECCENTRICITY = 6_378_137, 6.69437999014e-3  # of the WGS 84 ellipsoid: metres, squared


@dataclass(frozen=True)
class Positions:
    """Positions of images.

    names: (N) sorted and unique.
    metres: (N, 3) float64, finite.
    failures: table of FAILURES, a row for every other image.
    earth: whether metres are from the centre of the earth; otherwise they are those of a table.
    heights: whether a height was known, and used.
    notes: sentences on what the heights are counted from, where EXIF data say something unusual.
    """

    names: list[str]
    metres: np.ndarray
    failures: pa.Table = field(default_factory=FAILURES.empty_table)
    earth: bool = False
    heights: bool = False
    notes: list[str] = field(default_factory=list)


def exif_positions(
    folder: Folder | Folders | FaceFolder,
    names: Sequence[str],
    height: bool = False,
    need_height: bool = False,
) -> Positions:
    """Positions of a folder's images by the GPS tags of their EXIF data.

    height: use the altitude, which is often wrong by more than the distance between images.
    need_height: an altitude that is absent is no position. Otherwise it counts as 0.

    An image without GPS tags becomes a failure `no_position`.
    """
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        found = list(threads.map(lambda name: _of_file(folder, name), names))
    if need_height:
        found = [
            "its EXIF data hold no altitude"
            if isinstance(place, GpsPosition) and math.isnan(place.altitude)
            else place
            for place in found
        ]
    where = {
        name: place for name, place in zip(names, found, strict=True) if not isinstance(place, str)
    }
    why = {name: place for name, place in zip(names, found, strict=True) if isinstance(place, str)}
    degrees = np.nan_to_num(np.array([place[:3] for place in where.values()]).reshape(-1, 3))
    return Positions(
        [*where],
        on_earth(degrees, height),
        position_failures(why),
        earth=True,
        heights=height,
        notes=_reference_notes(where) if height else [],
    )


def _reference_notes(where: dict[str, GpsPosition]) -> list[str]:
    """Sentences on altitudes that EXIF data count from elsewhere than up from the sea."""
    said = {
        1: "below sea level",
        2: "above the ellipsoid in place of the sea",
        3: "below the ellipsoid",
    }
    notes = []
    for reference, words in said.items():
        names = [name for name, place in where.items() if place.reference == reference]
        if names:
            notes.append(
                f"GPSAltitudeRef of {len(names)} of {counted(len(where), 'photograph')} says that "
                f"the altitude is {words}, as of {names[0]}"
            )
    return notes


def _of_file(folder: Folder | Folders | FaceFolder, name: str) -> GpsPosition | str:
    """Where a file was taken, or the reason why it does not tell."""
    try:
        data = folder.read_bytes(name, limit=HEADER_BYTES)
        try:
            place = whole_position(data, name)
        except Exception:  # Pillow raises arbitrary types for a file that is cut off
            # Formats differ in where they keep EXIF data, so the whole file is tried.
            whole = len(data) <= HEADER_BYTES
            place = None if whole else whole_position(folder.read_bytes(name), name)
    except UnidentifiedImageError:  # an OSError, though the file was read
        return "its bytes are of no known format"
    except (StorageError, OSError) as error:
        return f"cannot be read ({cause_of(error)})"
    except Exception as error:  # Pillow raises arbitrary types for a damaged file
        return f"its header is damaged ({type(error).__name__})"
    return place or "its EXIF data hold no position"


def on_earth(degrees: np.ndarray, height: bool = False) -> np.ndarray:
    """Points on the WGS 84 ellipsoid, (N, 3), in metres from its centre.

    degrees: (N, 3) latitude and longitude in degrees, and altitude in metres.
    height: use the altitude; otherwise all points are on the ellipsoid.
    """
    latitude, longitude = np.radians(degrees[:, :2].T)
    altitude = degrees[:, 2] if height else np.zeros(len(degrees))
    normal = RADIUS / np.sqrt(1 - ECCENTRICITY * np.sin(latitude) ** 2)
    across = (normal + altitude) * np.cos(latitude)
    up = (normal * (1 - ECCENTRICITY) + altitude) * np.sin(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), up], axis=1)


def from_east_north_up(local: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Points (N, 3) in metres from the centre of the earth: the inverse of `east_north_up`."""
    centre = on_earth(origin[None], height=True)
    axes = east_north_up(centre + np.eye(3), origin)
    places: np.ndarray = centre + local @ axes.T
    return places


def geodetic(places: np.ndarray) -> np.ndarray:
    """Latitude and longitude in degrees and altitude in metres, (…, 3), of points of `on_earth`."""
    x, y, z = np.moveaxis(np.asarray(places, float), -1, 0)
    across, latitude = np.hypot(x, y), np.zeros(x.shape)
    for _ in range(10):  # each step leaves a 150th of the error
        normal = RADIUS / np.sqrt(1 - ECCENTRICITY * np.sin(latitude) ** 2)
        along = z + ECCENTRICITY * normal * np.sin(latitude)
        latitude = np.arctan2(along, across)
    degrees = np.degrees([latitude, np.arctan2(y, x)])
    return np.stack([*degrees, np.hypot(across, along) - normal], axis=-1)


def east_north_up(places: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Points (N, 3) of `on_earth`, in metres to the east, the north and up of an origin.

    origin: (3,) latitude and longitude in degrees, and altitude in metres.
    """
    latitude, longitude = np.radians(origin[:2])
    east = np.array([-np.sin(longitude), np.cos(longitude), 0.0])
    up = np.array([np.cos(latitude) * east[1], -np.cos(latitude) * east[0], np.sin(latitude)])
    local: np.ndarray = (places - on_earth(origin[None], height=True)) @ np.stack(
        [east, np.cross(up, east), up], axis=1
    )
    return local


def read_positions(
    url: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    height: bool = False,
    options: dict[str, Any] | None = None,
    known: Resolver | None = None,
) -> Positions:
    """Positions in a `.csv` with a header or a `.parquet`, at a local path or fsspec URL.

    The columns are image, and x, y and perhaps z in metres, or latitude, longitude and perhaps
    altitude.

    names: the images wanted, sorted. None takes all images of the table.
    height: use z or the altitude.
    known: tells which images names of the table mean, of all images that there are.

    An image that has no row, or a row without finite numbers, becomes a failure `no_position`.
    Raises `PairListError` where the file is missing, of another kind, without its columns, holds an
    image twice, or a name that fits several images.
    """
    file = os.path.basename(os.fspath(url))
    try:
        columns = read_columns(url, "positions", options)
        kinds = DEGREES if DEGREES[0] in columns else METRES
        images = columns["image"].cast(pa.string())
        values = [floats_of(columns[column], column) for column in kinds[:2]]
        last = columns.get(kinds[2]) if height else None
        values.append(np.zeros(len(images)) if last is None else floats_of(last, kinds[2]))
    # pyarrow raises these for columns of other types; KeyError is a missing column.
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        needs = "needs columns image, x, y (metres) or image, latitude, longitude, with numbers"
        raise PairListError(f"{file}: {needs} ({error}).") from error
    listed = (images if known is None else named_images(images, known, file)).to_pylist()
    row = {image: number for number, image in enumerate(listed)}
    if len(row) != len(listed):
        twice = next(image for number, image in enumerate(listed) if row[image] != number)
        raise PairListError(f"{file}: has {twice} twice; each image may have one position.")
    wanted = sorted(image for image in listed if image) if names is None else list(names)
    places = np.stack(values, axis=1)
    good = np.isfinite(places).all(axis=1)
    if kinds is DEGREES:
        good &= (np.abs(places[:, 0]) <= 90) & (np.abs(places[:, 1]) <= 180)
    placed = [image for image in wanted if image in row and good[row[image]]]
    chosen = places[[row[image] for image in placed]].reshape(-1, 3)
    missing = [image for image in wanted if image not in row]
    others = Resolver(sorted({*filter(None, listed)}.difference(wanted)))
    near = others.hints(pa.array(missing, pa.string())).to_pylist()
    hints = dict(zip(missing, near, strict=True))
    why = {
        image: f"{file} has no row for it{hints[image]}"
        if image in hints
        else f"its position in {file} is no place{_swapped(places[row[image]], kinds)}"
        for image in wanted
        if image in hints or not good[row[image]]
    }
    return Positions(
        placed,
        on_earth(chosen, height) if kinds is DEGREES else chosen,
        position_failures(why),
        earth=kinds is DEGREES,
        heights=last is not None,
    )


def _swapped(place: np.ndarray, kinds: tuple[str, str, str]) -> str:
    """What a place (3,) that is none would be with its first two columns the other way round."""
    latitude, longitude = np.abs(place[:2])
    if kinds is not DEGREES or not (90 < latitude <= 180 and longitude <= 90):
        return ""
    return ": its latitude and longitude look swapped"


def read_columns(
    url: str | os.PathLike[str], what: str, options: dict[str, Any] | None = None
) -> dict[str, pa.ChunkedArray]:
    """The columns of a `.csv` with a header or a `.parquet`, by their names in small letters.

    what: what the table holds, for messages. Raises `PairListError` where it cannot be read, and
    ArrowInvalid where it is no table.
    """
    folder, file = Folder.of_file(url, options)
    kind = os.path.splitext(file)[1].lower()
    if kind not in (".csv", ".parquet"):
        raise PairListError(
            f"{file}: is no table of {what} by its ending; give a .csv or .parquet file."
        )
    try:
        if kind == ".parquet":
            table = folder.read_table(file)
        else:
            text = csv_text(folder.read_bytes(file))
            table = csv.read_csv(pa.BufferReader(text.encode()))
    except (StorageError, OSError) as error:
        raise PairListError(
            f"{folder.shown}/{file}: cannot be read ({cause_of(error)}); check the path."
        ) from error
    return {
        column.strip().lower(): values
        for column, values in zip(table.column_names, table, strict=True)
    }


def floats_of(values: pa.ChunkedArray, column: str) -> np.ndarray:
    """A column as numbers, (n,). Raises ArrowInvalid that names the first row that holds none."""
    try:
        numbers: np.ndarray = values.cast(pa.float64()).to_numpy()
        return numbers
    except pa.ArrowInvalid as error:
        for row, value in enumerate(values.to_pylist(), 1):
            try:
                float(value or 0)
            except ValueError:
                raise pa.ArrowInvalid(f"row {row} has {value!r} as {column}") from error
        raise


def neighbours(
    positions: Positions, nearest: int | None = None, radius: float | None = None
) -> PairList:
    """Pairs of every image with its `nearest` nearest, and none further than `radius` metres.

    At least one of the two limits is given. Pairs are indices into `positions.names`, and a score
    is minus the distance in metres.

    Raises `PairListError` for limits that make no pair, or more pairs than one list may hold.
    """
    given = [limit for limit in (nearest, radius) if limit is not None]
    if not given or not all(limit > 0 for limit in given):
        raise PairListError(
            "give how many nearest images are wanted (1 or more), "
            "a radius in metres above 0, or both."
        )
    count = len(positions.names)
    if count < 2:
        nobody = np.empty(0, np.int64)
        return of_pairs(nobody, nobody, failures=positions.failures)
    tree = cKDTree(positions.metres)
    if nearest is None:
        pairs = (int(tree.count_neighbors(tree, radius)) - count) // 2
        if pairs > MOST:
            cure = "give a smaller radius, or how many nearest"
            raise PairListError(
                f"{pairs:,} pairs are within {radius:g} m, too many for a list ({MOST:,}); {cure}."
            )
        first, second = tree.query_pairs(radius, output_type="ndarray").astype(np.int64).T
        distances = np.linalg.norm(positions.metres[first] - positions.metres[second], axis=1)
    else:
        # The tree leaves out what is exactly at the bound.
        limit = np.inf if radius is None else np.nextafter(radius, np.inf)
        away, other = tree.query(
            positions.metres, min(nearest + 1, count), distance_upper_bound=limit
        )
        found = (other != np.arange(count)[:, None]) & np.isfinite(away)
        found &= np.cumsum(found, axis=1) <= nearest
        first = np.repeat(np.arange(count), found.sum(axis=1))
        second, distances = other[found], away[found]
    return of_pairs(first, second, (0 - distances).astype(np.float32), positions.failures)


def position_failures(why: dict[str, str]) -> pa.Table:
    """FAILURES of images without a position. why: by their names."""
    rows = [
        {
            "image0": name,
            "image1": None,
            "stage": StageName.PLAN,
            "reason": Reason.UNREADABLE
            if detail.startswith("cannot be read")
            else Reason.NO_POSITION,
            "detail": detail,
        }
        for name, detail in why.items()
    ]
    return pa.Table.from_pylist(rows, schema=FAILURES)
