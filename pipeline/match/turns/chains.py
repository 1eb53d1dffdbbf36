"""Where two photographs overlap, as a third one that both are verified with tells it.

TURNS of all rounds → homographies of verified pairs → those of open pairs, through a neighbour

From the air the ground is nearly a plane, and the planes of two pairs in a row tell how the first
photograph lies in the last one. Warped by that, a photograph is matched of which a turn and a scale
alone show the network too little: where the overlap is small, or the camera was tilted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array

from pipeline.match.turns.rounds import Seen
from pipeline.match.turns.tries import SIDES
from pipeline.tables import GUIDED, ragged, unragged

CHAINS = 2  # neighbours that a pair is seen through, one a round
LIKELIEST = 4  # of them a round, of which the first counts that tells of an overlap
# Share of either photograph that the other one shows at least. Of 96 pairs below it, on a survey by
# a kite, 2 were verified, and of 447 without any overlap none.
LEAST_OVERLAP = 0.02
SIDE = (np.arange(16) + 0.5) / 16
GRID = np.stack(np.meshgrid(SIDE, SIDE), -1).reshape(-1, 2)  # shares of a photograph's sides
IndexPair = tuple[int, int]
PLANE_COLUMNS = (*SIDES, "num_inliers", "homography")
# Of pairs (i, j), i < j: the neighbour, and the homography (3, 3) from image i to image j.
Guides = dict[IndexPair, tuple[int, np.ndarray]]


def through_neighbours(
    seen: Seen, least: int, asked: Mapping[IndexPair, set[int]]
) -> dict[IndexPair, list[int]]:
    """Pairs (i, j) of one part, i < j, and the neighbours through which each may be seen next.

    They are open, or verified by fewer than `least` inliers, which may be wrong ones. asked: the
    neighbours that a pair was seen through before. Those come first whose two pairs, the weaker of
    them, have most inliers.
    """
    verified, count = ~np.isnan(seen.turn), len(seen.part)
    i, j = seen.pairs[verified].T
    inliers = seen.inliers[verified]
    ends = np.append(i, j), np.append(j, i)
    graph = coo_array((np.append(inliers, inliers), ends), (count, count)).tocsr()
    graph.sort_indices()

    def of(image: int) -> tuple[np.ndarray, np.ndarray]:
        """The partners of an image, and its inliers with each."""
        row = slice(*graph.indptr[image : image + 2])
        return graph.indices[row], graph.data[row]

    found = {}
    weak = seen.open() | (verified & (seen.inliers < least))
    for i, j in seen.pairs[weak & seen.together()].tolist():
        before = asked.get((i, j), set())
        (partners0, inliers0), (partners1, inliers1) = of(i), of(j)
        common, at0, at1 = np.intersect1d(partners0, partners1, True, return_indices=True)
        order = np.lexsort((common, -np.minimum(inliers0[at0], inliers1[at1])))
        new = [k for k in common[order].tolist() if k not in before][:LIKELIEST]
        if new and len(before) < CHAINS:
            found[i, j] = new
    return found


def chained(
    through: dict[IndexPair, list[int]],
    tables: Iterable[pa.Table],
    names: pa.Array,
    sizes: np.ndarray,
) -> Guides:
    """The homographies of pairs through the first of their neighbours that tells of an overlap.

    tables: TURNS of all rounds; the try of a pair with most inliers counts. Planes are missing in
    files of an older version.
    sizes: (n, 2), width and height of the images in pixels, NaN where unknown.
    """
    links = {
        ends
        for (i, j), neighbours in through.items()
        for k in neighbours
        for ends in ((i, k), (k, i), (j, k), (k, j))
    }
    wanted = np.array([*links], np.int64).reshape(-1, 2) @ [len(names), 1]
    best: dict[IndexPair, tuple[int, np.ndarray]] = {}  # in both directions
    for table in tables:
        if "homography" not in table.column_names:
            continue
        table = table.filter(pc.is_valid(table["homography"]))
        ends = np.stack([pc.index_in(table[side], value_set=names).to_numpy() for side in SIDES])
        told = np.flatnonzero(np.isin(ends.T @ [len(names), 1], wanted))
        planes = table["homography"].combine_chunks().flatten().to_numpy().reshape(-1, 3, 3)
        inliers = table["num_inliers"].to_numpy()
        for (i, j), number, plane in zip(
            ends.T[told].tolist(), inliers[told].tolist(), planes[told], strict=True
        ):
            if number > best.get((i, j), (0,))[0]:
                best[i, j], best[j, i] = (number, plane), (number, np.linalg.inv(plane))
    found: Guides = {}
    for (i, j), neighbours in through.items():
        for k in neighbours:
            if not {(i, k), (k, j)} <= best.keys():
                continue
            plane = best[k, j][1] @ best[i, k][1]
            if overlap(plane, sizes[i], sizes[j]) >= LEAST_OVERLAP:
                found[i, j] = k, plane
                break
    return found


def overlap(plane: np.ndarray, size0: np.ndarray, size1: np.ndarray) -> float:
    """The share of a photograph that another shows, or the other way round: the larger.

    plane: homography (3, 3) from the first to the second. size0, size1: width and height, pixels.
    0 where a size is NaN.
    """
    shares = []
    for way, source, target in ((plane, size0, size1), (np.linalg.inv(plane), size1, size0)):
        points = np.column_stack([GRID * source - 0.5, np.ones(len(GRID))])
        # Two views of one side of a plane have a positive determinant where points are in front.
        *places, depth = np.sign(np.linalg.det(way)) * (way @ points.T)
        inside = depth > 0
        for place, length in zip(places, target, strict=True):
            inside &= (place >= -0.5 * depth) & (place <= (length - 0.5) * depth)
        shares.append(float(inside.mean()))
    return max(shares)


def asked_before(plans: Iterable[pa.Table], names: list[str]) -> dict[IndexPair, set[int]]:
    """The neighbours of pairs in the plans of earlier rounds, of which some are GUIDED."""
    number = {name: k for k, name in enumerate(names)}
    found: dict[IndexPair, set[int]] = {}
    for plan in plans:
        if "through" not in plan.column_names:
            continue
        columns = plan["images"].to_pylist(), unragged(plan["pairs"]), plan["through"].to_pylist()
        for images, pairs, through in zip(*columns, strict=True):
            for (a, b), neighbour in zip(pairs.tolist(), through, strict=True):
                pair = number[images[a]], number[images[b]]
                found.setdefault(pair, set()).add(number[neighbour])
    return found


def guided_table(plan: pa.Table, names: list[str], guides: Guides) -> pa.Table:
    """A plan (TURNED) of pairs, and what neighbours tell of them → GUIDED."""
    number = {name: k for k, name in enumerate(names)}
    columns: tuple[list[np.ndarray], list[list[str]]] = ([], [])
    for images, pairs in zip(plan["images"].to_pylist(), unragged(plan["pairs"]), strict=True):
        of_shard = [guides[number[images[a]], number[images[b]]] for a, b in pairs.tolist()]
        columns[0].append(np.array([guide for _, guide in of_shard]).reshape(-1, 9))
        columns[1].append([names[neighbour] for neighbour, _ in of_shard])
    kinds = [GUIDED.field(name).type for name in ("guides", "through")]
    more = ragged(columns[0], kinds[0]), pa.array(columns[1], kinds[1])
    return pa.table([*plan.columns, *more], schema=GUIDED)
