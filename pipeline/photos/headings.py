"""Where on the ground the tops of photographs point, and how large each shows the ground.

folder and names → the first bytes of every file, in threads → EXIF and XMP
a table that a person gave, XMP, EXIF, the track of the flight → Headings and their sources

A heading is in degrees clockwise from north, of the picture as its EXIF orientation shows it. It
means something only where the camera looks down. A photograph that does not look down by its XMP
has none. One whose XMP does not say so has one only if its camera flew back and forth, as surveys
do: the compass of a telephone and the track of a car say nothing of the top of a picture.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from eloftr.formats.opening import boxes_go_on, xmp_of
from pipeline.errors import PairListError, StorageError
from pipeline.events import Listener, Progress, counted, nobody
from pipeline.names.resolve import AMBIGUOUS, PLAIN, NameRules, Resolver
from pipeline.names.text import csv_text
from pipeline.photos.direction import Attitude, attitude
from pipeline.photos.exif import HEADER_BYTES, HEADER_THREADS, Capture, capture
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.photos.track import follow
from pipeline.store.folder import Folder
from pipeline.store.retries import cause_of
from pipeline.tables import HEADINGS
from pipeline.vocabulary import HeadingSource

IMAGE_COLUMNS, YAW_COLUMNS = ("image", "name"), ("yaw", "heading")
NEEDS = "needs the columns image and yaw (or name and heading)"
BLOCK = 1000  # files between two events of progress
# Degrees clockwise by which an EXIF orientation turns the top of the stored picture.
UPRIGHT = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}


class Headings(NamedTuple):
    """Headings of photographs.

    degrees: (n,) float64 in [0, 360), clockwise from north, NaN where unknown.
    sources: n words of HeadingSource, UNKNOWN where the heading is.
    sizes: (n,) float64, logarithms of base 2 of how large a photograph that looks down shows one
        metre of the ground, as a share of its longer side. NaN where its file does not tell.
    """

    degrees: np.ndarray
    sources: list[HeadingSource]
    sizes: np.ndarray

    def table(self, names: Sequence[str]) -> pa.Table:
        """A table of HEADINGS. names: n, of the photographs."""
        columns = [
            pa.array(names, pa.string()),
            pa.array(self.degrees.astype(np.float32), from_pandas=True),
            pa.array([source.value for source in self.sources], pa.string()),
            pa.array(self.sizes.astype(np.float32), from_pandas=True),
        ]
        return pa.Table.from_arrays(columns, schema=HEADINGS)


def headings(
    source: Folder | Folders | FaceFolder,
    names: Sequence[str],
    given: Mapping[str, float] | None = None,
    listen: Listener = nobody,
) -> Headings:
    """The headings of photographs, each from the most trusted of the sources that know it.

    given: headings that a person gave. They win, and no file is read where all are given.
    listen: told after every BLOCK files.

    Of every file at most HEADER_BYTES are read. A file that cannot be read, or whose EXIF and XMP
    data lie behind these bytes, as of some TIFF files, tells nothing.
    """
    given = given or {}
    told = np.array([given.get(name, math.nan) for name in names], float) % 360
    if not np.isnan(told).any():
        nothing = np.full(len(names), np.nan)
        return Headings(told, [HeadingSource.TABLE] * len(names), nothing)
    captures, attitudes = read_headers(source, names, listen)
    found = _chosen(names, captures, attitudes)
    found[HeadingSource.TABLE] = told
    # UNKNOWN is the last word, so that the first word with a number is found in every column.
    words = [*HeadingSource]
    angles = np.stack([found.get(word, np.zeros(len(names))) for word in words])
    best = np.isfinite(angles).argmax(axis=0)
    degrees = angles[best, np.arange(len(names))]
    degrees[best == words.index(HeadingSource.UNKNOWN)] = np.nan
    of_down = zip(captures, attitudes, strict=True)
    shares = [one.focal / at.height if at.down else math.nan for one, at in of_down]
    return Headings(degrees, [words[k] for k in best], np.log2(np.array(shares, float)))


def _chosen(
    names: Sequence[str], captures: Sequence[Capture], attitudes: Sequence[Attitude]
) -> dict[HeadingSource, np.ndarray]:
    """What every source of the files says, (n,) degrees each, NaN where it says nothing."""
    # Photographs of one camera in one folder are of one flight, or of several one after another.
    cameras = [
        (one.device, name.rpartition("/")[0]) for one, name in zip(captures, names, strict=True)
    ]
    number = {key: k for k, key in enumerate(dict.fromkeys(cameras))}
    columns = [(one.seconds, one.latitude, one.longitude) for one in captures]
    seconds, *places = np.array(columns, float).reshape(-1, 3).T
    track = follow(np.array([number[key] for key in cameras]), seconds, np.stack(places, axis=1))
    of = {
        HeadingSource.CAMERA: np.array([one.camera for one in attitudes]),
        HeadingSource.AIRCRAFT: np.array([one.aircraft for one in attitudes]),
        HeadingSource.DIRECTION: np.array([one.direction for one in captures]),
    }
    course = np.array([one.course for one in captures])
    of[HeadingSource.TRACK] = np.where(np.isfinite(course), course, track.direction)
    down = np.array([one.down is True for one in attitudes])
    unsaid = np.array([one.down is None for one in attitudes])
    trusted = down | (unsaid & track.survey)
    upright = np.array([UPRIGHT.get(one.orientation, 0) for one in captures])
    return {
        word: np.where(trusted, (angles - upright) % 360, np.nan) for word, angles in of.items()
    }


def read_headers(
    source: Folder | Folders | FaceFolder, names: Sequence[str], listen: Listener = nobody
) -> tuple[list[Capture], list[Attitude]]:
    """What the EXIF data and the XMP data of every file say, in the order of the names.

    A file that cannot be read tells nothing.
    """
    told: list[tuple[Capture, Attitude]] = []
    progress = Progress(len(names), "headers", listen)
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            told += threads.map(lambda name: _of_file(source, name), block)
            if len(block) == BLOCK:
                progress.advance(BLOCK)
    return [one for one, _ in told], [one for _, one in told]


def _of_file(source: Folder | Folders | FaceFolder, name: str) -> tuple[Capture, Attitude]:
    try:
        data = source.read_bytes(name, limit=HEADER_BYTES)
        if boxes_go_on(data):
            data = source.read_bytes(name)
        return capture(data, name), attitude(xmp_of(data))
    except (StorageError, OSError, EOFError):
        return Capture(), Attitude()


def read_headings(
    table: str | os.PathLike[str] | pa.Table,
    names: Sequence[str],
    options: dict[str, Any] | None = None,
    rules: NameRules = PLAIN,
) -> dict[str, float]:
    """Headings that a person gave: a `.csv` with a header or a `.parquet`, or its table.

    table: a local path or fsspec URL, or the table itself. Its columns are image (or name) and yaw
        (or heading), degrees clockwise from north; others are ignored.
    names: of all photographs.
    options: of the fsspec filesystem.
    rules: how names of the table are understood that are none of `names`.

    Returns degrees in [0, 360) by name. Raises `PairListError` where the table is missing, of
    another kind, without its columns or without rows, and where it names unknown photographs, holds
    a value that is not finite, or different values for one photograph.
    """
    shown, lines = _rows(table, options)
    rows = [*lines]
    known, found = Resolver(names, rules), dict[str, float]()
    exact = set(names)
    listed = [
        name if name is not None and name in exact else (name or "").strip() for _, name, _ in rows
    ]
    meant = known.indices(pa.array(listed, pa.string()))
    unknown: list[str] = []
    for (place, _, value), told, number in zip(rows, listed, meant, strict=True):
        if number == AMBIGUOUS:
            choices = " or ".join(known.choices(told)[:2])
            raise PairListError(f"{shown}, {place}: {told} may be {choices}; give the whole name.")
        if number < 0:
            hint = known.hint(told) if told and not unknown else ""
            unknown.append(f"{place}: {told or 'no name'}{hint}")
            continue
        image = names[number]
        yaw = _finite(value) % 360 % 360  # −1e-20 % 360 is 360
        if math.isnan(yaw):
            cure = "give degrees clockwise from north, or leave the photograph out"
            raise PairListError(f"{shown}, {place}: the yaw of {image} is {value!r}; {cure}.")
        if found.setdefault(image, yaw) != yaw:
            raise PairListError(
                f"{shown}, {place}: {image} has the yaw {yaw:g} here and {found[image]:g} before; "
                "leave one of them out."
            )
    if unknown:
        cure = "give names relative to the folder of images, or leave them out"
        raise PairListError(
            f"{shown}: {counted(len(unknown), 'name')} of no photograph ({unknown[0]}); {cure}."
        )
    if not found:
        raise PairListError(
            f"{shown}: names no photograph; give rows of image and yaw, or leave the table out."
        )
    return found


def headings_digest(given: Mapping[str, float]) -> str:
    """SHA-256 of given headings, whatever file or order they came in."""
    lines = (f"{name}\0{given[name].hex()}\n" for name in sorted(given))
    return hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()


def _rows(
    table: str | os.PathLike[str] | pa.Table, options: dict[str, Any] | None
) -> tuple[str, Iterator[tuple[str, str | None, Any]]]:
    """How messages call a table of headings; and its places, names and values, unchecked."""
    if isinstance(table, pa.Table):
        return "yaw", _of_table(table, "yaw")
    folder, file = Folder.of_file(table, options)
    kind = os.path.splitext(file)[1].lower()
    if kind not in (".csv", ".parquet"):
        raise PairListError(
            f"{file}: is no table of headings by its ending; give a .csv or .parquet file."
        )
    try:
        if kind == ".parquet":
            return file, _of_table(folder.read_table(file), file)
        return file, _of_text(csv_text(folder.read_bytes(file)), file)
    except (StorageError, OSError) as error:
        raise PairListError(
            f"{folder.shown}/{file}: cannot be read ({cause_of(error)}); check the path."
        ) from error


def _of_table(table: pa.Table, shown: str) -> Iterator[tuple[str, str | None, Any]]:
    image, yaw = _columns(table.column_names, shown)
    try:
        columns = table[image].cast(pa.string()), table[yaw].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise PairListError(f"{shown}: {NEEDS}, text and numbers ({error}).") from error
    pairs = zip(*(column.to_pylist() for column in columns), strict=True)
    return ((f"row {k}", name, value) for k, (name, value) in enumerate(pairs))


def _of_text(text: str, shown: str) -> Iterator[tuple[str, str | None, Any]]:
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(lines, [])
        image, yaw = _columns(header, shown)
        for cells in lines:
            place = f"line {lines.line_num}"
            if cells and len(cells) != len(header):  # as of a decimal comma
                raise PairListError(
                    f"{shown}, {place}: has {counted(len(cells), 'field')} below a header of "
                    f"{len(header)}; correct it."
                )
            if cells:
                yield place, cells[image], cells[yaw]
    except csv.Error as error:
        raise PairListError(f"{shown}, line {lines.line_num}: {error}; correct it.") from error


def _columns(header: Sequence[str], shown: str) -> tuple[int, int]:
    """Where the names and the values of a table stand."""
    words = [word.strip().lower() for word in header]
    image, yaw = (
        next((words.index(word) for word in wanted if word in words), -1)
        for wanted in (IMAGE_COLUMNS, YAW_COLUMNS)
    )
    if min(image, yaw) < 0:
        raise PairListError(f"{shown}: {NEEDS}, and has {', '.join(words)[:200] or 'none'}.")
    return image, yaw


def _finite(value: Any) -> float:
    """A number of a table, NaN where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan
