"""The tiles of a photograph at a finer resolution, and which of them two photographs share.

A canvas is a photograph at the resolution of a finer pass, turned as its view says. A fixed grid of
tiles covers it. All tiles of a canvas have one shape, that of the first pass, and overlap by about
a quarter or more. They begin at multiples of CELL, so that the cells of the network lie on one
lattice of the canvas, whatever tile shows them. The centre of the top-left pixel of a canvas is at
(0, 0), as everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eloftr.config import CELL
from eloftr.matching.resizing import to_original
from pipeline.match.options import LEAST_LONG_SIDE
from pipeline.photos.sizes import bucket
from pipeline.photos.turns import View, canvas, onto_canvas, unturned

if TYPE_CHECKING:  # see pipeline/match/match.py
    from eloftr import Matches

OVERLAP = 1 / 4  # of a tile with the next one, at least, but for the rounding to cells
MARGIN = 1 / 16  # of a tile: nearer to its edge, the network finds few matches
LEAST_NEW_INLIERS = 6  # for which a further pair of tiles is matched
LEAST_GAIN = 1.2  # times the resolution, below which a pair is not matched again


@dataclass(frozen=True)
class Canvas:
    """A photograph as a finer pass sees it.

    original: (h, w) of the photograph, upright. shape: (h, w) to which it is resized. turn: degrees
    clockwise by which the result is turned. tile: (h, w) of its tiles.
    """

    original: tuple[int, int]
    shape: tuple[int, int]
    turn: int
    tile: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, view: View, long_side: int) -> Canvas:
        """The canvas of a photograph of so many pixels. long_side: of the first pass."""
        shape = bucket(width, height, max(LEAST_LONG_SIDE, round(long_side * view.scale)))
        whole = canvas(shape, view.turn)
        usual = canvas(bucket(width, height, long_side), view.turn)
        tile = min(whole[0], usual[0]), min(whole[1], usual[1])
        return cls((height, width), shape, view.turn, tile)

    @property
    def whole(self) -> tuple[int, int]:
        """(h, w) of the canvas."""
        return canvas(self.shape, self.turn)

    def grid(self) -> np.ndarray:
        """(T, 2) int32: x and y of the first pixel of every tile, row by row."""
        ys, xs = (_starts(*sides) for sides in zip(self.whole, self.tile, strict=True))
        tiles: np.ndarray = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2).astype(np.int32)
        return tiles

    def inside(self, keypoints: np.ndarray) -> np.ndarray:
        """(T, M) bool: which of the points (M, 2) of the original a tile shows well.

        The margin of a tile does not count, unless it is the edge of the canvas.
        """
        points = ((keypoints + 0.5) / np.array(self.original[::-1])) * np.array(self.shape[::-1])
        placed = onto_canvas(points - 0.5, self.turn, self.shape)
        size, end = np.array(self.tile[::-1]), np.array(self.whole[::-1])
        first = self.grid()[:, None]
        low = np.where(first == 0, -np.inf, first + MARGIN * size)
        high = np.where(first + size == end, np.inf, first + (1 - MARGIN) * size)
        shown: np.ndarray = np.all((placed >= low) & (placed < high), axis=2)
        return shown

    def in_original(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (M, 2) of the canvas in pixels of the original, float32, and which lie on it."""
        upright = unturned(points, self.turn, self.shape)
        edge = np.array(self.shape[::-1]) - 0.5
        on_it = np.all((upright >= -0.5) & (upright <= edge), axis=1) | (self.turn % 90 == 0)
        return to_original(upright, self.shape, self.original), on_it


def _starts(whole: int, tile: int) -> np.ndarray:
    """Where tiles begin on one side of a canvas, from 0 to its end."""
    count = math.ceil((whole - OVERLAP * tile) / (tile - OVERLAP * tile))
    starts: np.ndarray = CELL * np.round(np.linspace(0, whole - tile, count) / CELL)
    return starts


def finer(
    views: tuple[View, View], sides: tuple[int, int], factor: int, long_side: int
) -> tuple[View, View] | None:
    """The two views of a pair at a resolution that is `factor` times as fine.

    views: as the pair was matched. sides: pixels of the longer side of each photograph. Both gain
    the same factor, because the network wants the scene at one size, and neither gains more than it
    has pixels. None where they would gain less than LEAST_GAIN.
    """
    before = [long_side * view.scale for view in views]
    gain = min(factor, *(side / seen for side, seen in zip(sides, before, strict=True)))
    if gain < LEAST_GAIN:
        return None
    # Sides are multiples of 32, rounded down, so that no photograph is enlarged.
    longer = [max(LEAST_LONG_SIDE, 32 * int(seen * gain / 32 + 1e-9)) for seen in before]
    first, second = (
        view._replace(scale=float(np.float32(side / long_side)))
        for view, side in zip(views, longer, strict=True)
    )
    return first, second


def tiles_in_common(inside0: np.ndarray, inside1: np.ndarray) -> np.ndarray:
    """(P, 2) int32: pairs of tiles that show all inliers but a few, the most needed ones first.

    inside0, inside1: (T, M) bool of the tiles of both images, which of the M inliers they show. The
    next pair is the one that shows most of the inliers that none shows yet, and at least
    LEAST_NEW_INLIERS of them. The first pair is taken however few it shows.
    """
    left = np.ones(inside0.shape[1], bool)
    chosen: list[tuple[int, int]] = []
    while True:
        shown = (inside0 & left).astype(np.int32) @ inside1.T.astype(np.int32)
        first, second = divmod(int(shown.argmax()), shown.shape[1])
        if shown[first, second] < (LEAST_NEW_INLIERS if chosen else 1):
            return np.array(chosen, np.int32).reshape(-1, 2)
        chosen.append((first, second))
        left &= ~(inside0[first] & inside1[second])


def joined(found: list[tuple[Any, Any, Matches]], canvases: tuple[Canvas, Canvas]) -> Matches:
    """The matches of all pairs of tiles of two photographs, in pixels of the originals.

    found: of every pair of tiles, where (x, y) each begins, and its matches in their pixels; at
    least one.

    A cell of a canvas that several pairs of tiles match belongs to the one whose match there has
    the highest score, of equal ones the first. A match is kept where its cells in both images
    belong to its pair of tiles. So no place is matched twice because two tiles show it. Matches are
    ordered by their cell of image 0.
    """
    tiles = np.repeat(np.arange(len(found)), [len(matches) for _, _, matches in found])
    points = [
        np.concatenate(
            [
                (matches.keypoints0, matches.keypoints1)[side].astype(np.float64) + starts[side]
                for *starts, matches in found
            ]
        )
        for side in (0, 1)
    ]
    scores = np.concatenate([matches.scores for _, _, matches in found])
    best = np.lexsort((tiles, -scores))
    kept = np.ones(len(scores), bool)
    cells = []
    for of_side, canvas_ in zip(points, canvases, strict=True):
        # The network refines a match within its cell of image 0, and nearly so in image 1.
        x, y = np.floor(of_side / CELL + 0.5).astype(np.int64).T
        cell = (y + 1) * (canvas_.whole[1] // CELL + 2) + x + 1
        _, first, place = np.unique(cell[best], return_index=True, return_inverse=True)
        kept[best] &= tiles[best] == tiles[best][first[place.reshape(-1)]]
        cells.append(cell)
    sides = []
    for of_side, canvas_ in zip(points, canvases, strict=True):
        original, on_it = canvas_.in_original(of_side)
        kept &= on_it
        sides.append(original)
    order = np.flatnonzero(kept)
    order = order[np.lexsort((cells[1][order], cells[0][order]))]
    return replace(
        found[0][2], keypoints0=sides[0][order], keypoints1=sides[1][order], scores=scores[order]
    )
