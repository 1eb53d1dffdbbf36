"""Pictures of a run's pairs: photographs side by side, inliers green over other matches in red."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageOps

from eloftr.formats.opening import open_image
from pipeline.errors import ArgumentError, ImageError, RunError
from pipeline.match.turns.tries import settled_matches
from pipeline.photos.decode import decode_image
from pipeline.photos.panoramas.source import faces_of_runs
from pipeline.report.panorama_pairs import matches_of_files
from pipeline.report.pictures import draw_matches
from pipeline.store.folder import Folder
from pipeline.tables import unragged
from pipeline.vocabulary import Reason

SEVERAL = 3  # pairs that are drawn unless told otherwise
COLUMNS = ["image0", "image1", "num_inliers"]


class DrawnPair(NamedTuple):
    """A pair of a run and its picture. inliers, matches: how many it has."""

    image0: str
    image1: str
    inliers: int
    matches: int
    picture: Image.Image


def draw_pairs(
    run: Folder, photographs: Folder, count: int = SEVERAL, pair: tuple[str, str] | None = None
) -> Iterator[DrawnPair]:
    """Draw some verified pairs of a run, from the one with most inliers to the one with fewest.

    count: of pairs, at least 1; fewer are drawn where fewer are verified. pair: the names of one
    that is drawn instead, verified or not. photographs: the folder that the names are of. Raises
    ArgumentError for a count below 1 and a pair that the run does not have, RunError for a folder
    without matches, ImageError for a photograph that cannot be read.
    """
    if count < 1:
        raise ArgumentError(f"{count} pairs: give a number of 1 or more.")
    if faces_of_runs([run]):
        yield from _draw_panoramas(run, photographs, count, pair)
        return
    settled = list(settled_matches(run, COLUMNS))
    if not settled:
        raise RunError(f"{run.shown}: holds no matches; give the output folder of eloftr match.")
    file = np.repeat(np.arange(len(settled)), [len(table) for _, table in settled])
    table = pa.concat_tables([table for _, table in settled])
    for row in _spread(table, count) if pair is None else [_row_of(table, pair, run)]:
        whole = run.read_table(settled[file[row]][0])
        same = [pc.equal(whole[side], table[side][row]) for side in ("image0", "image1")]
        yield _drawn(whole.filter(pc.and_(*same)), photographs)


def _draw_panoramas(
    run: Folder, photographs: Folder, count: int, pair: tuple[str, str] | None
) -> Iterator[DrawnPair]:
    """As `draw_pairs`, for a run with panoramas: pairs of files, by whatever faces they matched."""
    table = matches_of_files(run)
    for row in _spread(table, count) if pair is None else [_row_of(table, pair, run)]:
        yield _drawn(table.slice(row, 1), photographs)


def _spread(table: pa.Table, count: int) -> list[int]:
    """Rows of verified pairs, from most inliers to fewest, at even steps of their order."""
    inliers = pc.fill_null(table["num_inliers"], 0).to_numpy()
    verified = np.flatnonzero(inliers > 0)
    verified = verified[np.argsort(-inliers[verified], kind="stable")]
    chosen = np.unique(np.linspace(0, len(verified) - 1, count).astype(int))
    return [int(row) for row in verified[chosen]] if len(verified) else []


def _row_of(table: pa.Table, pair: tuple[str, str], run: Folder) -> int:
    """The row of a pair, whose names may come in any order."""
    first, second = sorted(pair)
    found = pc.and_(pc.equal(table["image0"], first), pc.equal(table["image1"], second))
    rows = np.flatnonzero(found.to_numpy())
    if not len(rows):
        sides = [table["image0"], table["image1"]]
        for name in pair:
            if not any(pc.any(pc.equal(side, name)).as_py() for side in sides):
                raise ArgumentError(f"{name}: {run.shown} has no pair with it; check the name.")
        raise ArgumentError(f"{first}, {second}: {run.shown} has no such pair; check both names.")
    return int(rows[0])


def _drawn(row: pa.Table, photographs: Folder) -> DrawnPair:
    row = row.combine_chunks()
    name0, name1 = row["image0"][0].as_py(), row["image1"][0].as_py()
    points0, points1 = (unragged(row[name])[0] for name in ("keypoints0", "keypoints1"))
    verified = row["inliers"][0].as_py() is not None
    inliers = unragged(row["inliers"])[0] if verified else np.zeros(len(points0), bool)
    image0, image1 = (_photograph(photographs, name) for name in (name0, name1))
    title = f"{name0} - {name1}"
    picture = draw_matches(image0, image1, points0, points1, inliers, title)
    return DrawnPair(name0, name1, int(inliers.sum()), len(points0), picture)


def _photograph(folder: Folder, name: str) -> Image.Image:
    """A photograph, upright: in colour where the file is plain RGB, else in grey."""
    try:
        data = folder.read_bytes(name)
    except FileNotFoundError as error:
        raise ImageError(Reason.MISSING, f"{folder.shown} has no {name}") from error
    photo = decode_image(data, name=name)  # which refuses what is no photograph
    image = open_image(data, name)
    if image.mode != "RGB" or image.format == "TIFF":
        return Image.fromarray(photo.gray)
    return ImageOps.exif_transpose(image)
