"""The headings of all photographs of a run: where on the ground the top of each points.

folder and names → the first bytes of every file, in threads → EXIF and XMP
a table that a person gave, XMP, EXIF, the track of the flight → Headings and their sources

A heading is in degrees clockwise from north, of the picture as its EXIF orientation shows it. It
means something only where the camera looks down. A photograph that does not look down by its XMP
has none. One whose XMP does not say so has one only if its camera flew back and forth, as surveys
do: the compass of a telephone and the track of a car say nothing of the top of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.events import Listener, Progress, nobody
from pipeline.photos.direction import Attitude, attitude
from pipeline.photos.exif import HEADER_BYTES, HEADER_THREADS, Capture, capture
from pipeline.photos.source import Folders
from pipeline.photos.track import follow
from pipeline.store.folder import Folder
from pipeline.tables import HEADINGS
from pipeline.vocabulary import HeadingSource

BLOCK = 1000  # files between two events of progress
# Degrees clockwise by which an EXIF orientation turns the top of the stored picture.
UPRIGHT = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}


class Headings(NamedTuple):
    """Headings of photographs.

    degrees: (n,) float64 in [0, 360), clockwise from north, NaN where unknown.
    sources: n words of HeadingSource, UNKNOWN where the heading is.
    """

    degrees: np.ndarray
    sources: list[HeadingSource]

    def table(self, names: Sequence[str]) -> pa.Table:
        """A table of HEADINGS. names: n, of the photographs."""
        columns = [
            pa.array(names, pa.string()),
            pa.array(self.degrees.astype(np.float32), from_pandas=True),
            pa.array([source.value for source in self.sources], pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=HEADINGS)


def headings(
    source: Folder | Folders,
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
        return Headings(told, [HeadingSource.TABLE] * len(names))
    captures, attitudes = _read(source, names, listen)
    found = _chosen(names, captures, attitudes)
    found[HeadingSource.TABLE] = told
    # UNKNOWN is the last word, so that the first word with a number is found in every column.
    words = [*HeadingSource]
    angles = np.stack([found.get(word, np.zeros(len(names))) for word in words])
    best = np.isfinite(angles).argmax(axis=0)
    degrees = angles[best, np.arange(len(names))]
    degrees[best == words.index(HeadingSource.UNKNOWN)] = np.nan
    return Headings(degrees, [words[k] for k in best])


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


def _read(
    source: Folder | Folders, names: Sequence[str], listen: Listener = nobody
) -> tuple[list[Capture], list[Attitude]]:
    """What the EXIF data and the XMP data of every file say, in the order of the names."""
    told: list[tuple[Capture, Attitude]] = []
    progress = Progress(len(names), "headers", listen)
    with ThreadPoolExecutor(HEADER_THREADS) as threads:
        for start in range(0, len(names), BLOCK):
            block = names[start : start + BLOCK]
            told += threads.map(lambda name: _of_file(source, name), block)
            if len(block) == BLOCK:
                progress.advance(BLOCK)
    return [one for one, _ in told], [one for _, one in told]


def _of_file(source: Folder | Folders, name: str) -> tuple[Capture, Attitude]:
    try:
        data = source.read_bytes(name, limit=HEADER_BYTES)
    except (StorageError, OSError):
        return Capture(), Attitude()
    return capture(data), attitude(data)
