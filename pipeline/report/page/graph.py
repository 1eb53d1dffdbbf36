"""The graph of a run: images, and the verified pairs that connect them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.report.page.pairs import PairRows

MOST_CLUSTERED = 2_000  # images whose distances are a matrix in memory
NAMED = 200  # images of a part, and of those that nothing matched, that are listed


def connected_parts(pairs: PairRows) -> np.ndarray:
    """The part (N,) int32 of every image: those that verified pairs connect have one number.

    Part 0 has most images, and of equally large ones the image that comes first.
    """
    from pipeline.match.turns.graph import parts_of

    count, used = len(pairs.names), pairs.verified
    label = parts_of(np.stack([pairs.first[used], pairs.second[used]], axis=1), count)
    sizes = np.bincount(label, minlength=1)
    first = np.full(len(sizes), count)
    np.minimum.at(first, label, np.arange(count))
    rank = np.empty(len(sizes), np.int32)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return np.asarray(rank[label])


def cluster_order(pairs: PairRows) -> np.ndarray:
    """A permutation (N,) of the images that puts those with many common inliers side by side.

    It is the order of the leaves of average linkage, where the distance of two images falls with
    their inliers; for more than MOST_CLUSTERED images it is reverse Cuthill–McKee.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee
    from scipy.spatial.distance import squareform

    count, used = len(pairs.names), pairs.verified
    if count < 3:
        return np.arange(count)
    first, second, inliers = pairs.first[used], pairs.second[used], pairs.inliers[used]
    if count > MOST_CLUSTERED:
        graph = coo_array((inliers, (first, second)), (count, count)).tocsr()
        return np.asarray(reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True))
    distance = np.ones((count, count), np.float32)
    distance[first, second] = distance[second, first] = 1 / (1 + inliers)
    np.fill_diagonal(distance, 0)
    return np.asarray(leaves_list(linkage(squareform(distance, checks=False), "average")))


def image_table(pairs: PairRows) -> dict[str, list[Any]]:
    """Columns of the images, ready for JSON.

    pairs, verified: how many pairs an image stands in. inliers: of its best pair. part: see
    `connected_parts`. place: its place in the order of `cluster_order`.
    """
    count = len(pairs.names)
    ends = np.concatenate([pairs.first, pairs.second])
    verified = np.tile(pairs.verified, 2)
    best = np.zeros(count, np.int64)
    np.maximum.at(best, ends, np.tile(pairs.inliers, 2))
    place = np.empty(count, np.int64)
    place[cluster_order(pairs)] = np.arange(count)
    return {
        "name": pairs.names,
        "pairs": np.bincount(ends, minlength=count).tolist(),
        "verified": np.bincount(ends[verified], minlength=count).tolist(),
        "inliers": best.tolist(),
        "part": connected_parts(pairs).tolist() if count else [],
        "place": place.tolist(),
    }


def graph_table(images: dict[str, list[Any]]) -> dict[str, Any]:
    """The parts with several images, and the images without a verified pair; from `image_table`.

    parts: of each its number of images and the first of them. alone: images, and how many.
    """
    verified = np.array(images["verified"], int)
    part = np.array(images["part"], int)
    sizes = np.bincount(part, minlength=1)
    alone = np.flatnonzero(verified == 0)
    return {
        "parts": [
            {"images": int(sizes[k]), "first": np.flatnonzero(part == k)[:NAMED].tolist()}
            for k in np.flatnonzero(sizes > 1)
        ],
        "alone": {"count": len(alone), "first": alone[:NAMED].tolist()},
    }
