"""Where two photographs overlap, as a third one that both are verified with tells it.

TURNS of all rounds → homographies of verified pairs → those of open pairs, through a neighbour

From the air the ground is nearly a plane, and the planes of two pairs in a row tell how the first
photograph lies in the last one. Warped by that, a photograph is matched of which a turn and a scale
alone show the network too little: where the overlap is small, or the camera was tilted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array

from pipeline.match.turns.rounds import Seen
from pipeline.match.turns.tries import SIDES
from pipeline.tables import GUIDED, ragged, unragged

CHAINS = 2  # neighbours of an open pair that are asked, one a round
IndexPair = tuple[int, int]
PLANE_COLUMNS = (*SIDES, "num_inliers", "homography")


def through_neighbours(seen: Seen, asked: Counter[IndexPair]) -> dict[IndexPair, int]:
    """Open pairs (i, j) of one part, i < j, and the neighbour through which each is seen next.

    asked: how many neighbours a pair was seen through before. That neighbour comes next whose two
    pairs, the weaker of them, have most inliers.
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
    for i, j in seen.pairs[seen.open() & seen.together()].tolist():
        (partners0, inliers0), (partners1, inliers1) = of(i), of(j)
        common, at0, at1 = np.intersect1d(partners0, partners1, True, return_indices=True)
        weaker = np.minimum(inliers0[at0], inliers1[at1])
        turn = asked[i, j]
        if turn < min(CHAINS, len(common)):
            found[i, j] = int(common[np.lexsort((common, -weaker))[turn]])
    return found


def chained(
    through: dict[IndexPair, int], tables: Iterable[pa.Table], names: pa.Array
) -> dict[IndexPair, np.ndarray]:
    """The homographies (3, 3) from image i to image j of pairs (i, j), through their neighbours.

    tables: TURNS of all rounds; the try of a pair with most inliers counts. A pair is left out
    where a plane of its neighbour is missing, as in files of an older version.
    """
    links = {(min(ends), max(ends)) for (i, j), k in through.items() for ends in ((i, k), (k, j))}
    wanted = np.array([*links], np.int64).reshape(-1, 2) @ [len(names), 1]
    best: dict[IndexPair, tuple[int, np.ndarray]] = {}
    for table in tables:
        if "homography" not in table.column_names:
            continue
        table = table.filter(pc.is_valid(table["homography"]))
        ends = np.stack([pc.index_in(table[side], value_set=names).to_numpy() for side in SIDES])
        told = np.flatnonzero(np.isin(np.sort(ends, axis=0).T @ [len(names), 1], wanted))
        planes = table["homography"].combine_chunks().flatten().to_numpy().reshape(-1, 3, 3)
        inliers = table["num_inliers"].to_numpy()
        for (i, j), number, plane in zip(
            ends.T[told].tolist(), inliers[told].tolist(), planes[told], strict=True
        ):
            pair = min(i, j), max(i, j)
            if number > best.get(pair, (0,))[0]:
                best[pair] = number, plane if i < j else np.linalg.inv(plane)

    def link(start: int, end: int) -> np.ndarray:
        plane = best[min(start, end), max(start, end)][1]
        return plane if start < end else np.linalg.inv(plane)

    return {
        (i, j): link(k, j) @ link(i, k)
        for (i, j), k in through.items()
        if {(min(i, k), max(i, k)), (min(k, j), max(k, j))} <= best.keys()
    }


def guided_table(plan: pa.Table, names: list[str], guides: dict[IndexPair, np.ndarray]) -> pa.Table:
    """A plan (TURNED) of pairs (i, j) and their homographies → GUIDED."""
    number = {name: k for k, name in enumerate(names)}
    rows = []
    for images, pairs in zip(plan["images"].to_pylist(), unragged(plan["pairs"]), strict=True):
        of_shard = [guides[number[images[a]], number[images[b]]] for a, b in pairs.tolist()]
        rows.append(np.reshape(of_shard, (-1, 9)))
    column = ragged(rows, GUIDED.field("guides").type)
    return pa.table([*plan.columns, column], schema=GUIDED)
