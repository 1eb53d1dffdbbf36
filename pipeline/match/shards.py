"""Cut pairs into shards that share images, and say what a plan costs.

    pairs (N, 2) int32 → shards, each of at most `max_images` images and `max_pairs` of their pairs

One worker matches a shard on its own. It reads, decodes and encodes each image of the shard once.
The number of pairs is given, so the cost of a plan is its encodes: the images of all shards
together. In the best plan each image is encoded once.

The plan is made in three steps. The images are put in an order that brings partners together. The
pairs are then points of the upper triangle of the images × images matrix, which is swept in strips
of a few rows, column by column. The sweep is cut where a bound is reached.

High strips give square tiles, which suit dense lists. Strips of one row give stars, which suit
lists without structure. Along a diagonal band every height is good. The order of the names suits
exhaustive and sequential lists, and an order found by clustering suits others. All combinations are
tried and the cheapest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import ArgumentError
from pipeline.photos.turns import View
from pipeline.tables import SHARDS, TURNED, ragged, unragged

CLUSTERING_ROUNDS = 64  # at most; later rounds join the last few clusters and change nothing
GOOD_ENOUGH = 1.5  # times the lower bound; clustering such a plan is not worth its seconds


class Shard(NamedTuple):
    """A shard of a plan.

    images: (m,) int32, sorted indices into the names. pairs: (k, 2) int32, i < j, into `images`.
    """

    images: np.ndarray
    pairs: np.ndarray


class PlannedShard(NamedTuple):
    """A row of SHARDS, of TURNED or of GUIDED.

    shard: its name. images: names, one for every view. pairs: (k, 2) int32, into `images`.
    views: of every one of `images`; empty where all are upright and at the scale of the run.
    guides: (k, 3, 3) of every pair the homography from image 0 to image 1 that other pairs tell,
    pixels of the originals; None where none is told.
    """

    shard: str
    images: list[str]
    pairs: np.ndarray
    views: tuple[View, ...] = ()
    guides: np.ndarray | None = None


def planned_shards(table: pa.Table) -> list[PlannedShard]:
    """The rows of a table of SHARDS, of TURNED or of GUIDED."""
    columns = [table["shard"].to_pylist(), table["images"].to_pylist(), unragged(table["pairs"])]
    if "turns" in table.column_names:
        turns = unragged(table["turns"])
        older = "scales" not in table.column_names  # all views were at the scale of the run
        scales = [np.ones(len(row)) for row in turns] if older else unragged(table["scales"])
        columns.append(
            [
                tuple(View(int(turn), float(scale)) for turn, scale in zip(*both, strict=True))
                for both in zip(turns, scales, strict=True)
            ]
        )
    if "guides" in table.column_names:
        columns.append([row.reshape(-1, 3, 3) for row in unragged(table["guides"])])
    return [PlannedShard(*row) for row in zip(*columns, strict=True)]


def plan_shards(pairs: np.ndarray, max_images: int = 128, max_pairs: int = 1024) -> list[Shard]:
    """Cut pairs (N, 2) of image indices into shards that hold each pair once, with few encodes.

    The result depends on the set of pairs and the bounds alone, not on the order of the rows.

    Raises ArgumentError where a bound is too small for one pair, and ValueError where a pair is
    repeated or not of two images.
    """
    if max_images < 2 or max_pairs < 1:
        raise ArgumentError(
            f"a shard holds at least 2 images and 1 pair, not {max_images} and {max_pairs}."
        )
    pairs = np.sort(np.asarray(pairs).reshape(-1, 2).astype(np.int64), axis=1)
    if not len(pairs):
        return []
    if pairs.min() < 0 or (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError("pairs must be of two different images, with indices from 0.")
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    if (pairs[1:] == pairs[:-1]).all(axis=1).any():
        raise ValueError("pairs must be unique; read_pairs drops duplicates.")
    images, compact = np.unique(pairs, return_inverse=True)
    compact = compact.reshape(-1, 2)

    heights = sorted({1, max(1, min(math.isqrt(max_pairs), max_images // 2)), max_images // 2})
    by_name = np.arange(len(images))
    plans = [_cut(compact, by_name, height, max_images, max_pairs) for height in heights]
    if min(plan.encodes for plan in plans) > GOOD_ENOUGH * lower_bound(
        len(images), len(pairs), max_images, max_pairs
    ):
        rank = _cluster(compact, len(images))
        plans += [_cut(compact, rank, height, max_images, max_pairs) for height in heights]
    best = min(plans, key=lambda plan: plan.encodes)

    shards = []
    for start, stop in zip(best.cuts[:-1], best.cuts[1:], strict=True):
        # The pairs are sorted, so sorted rows give sorted pairs within the shard too.
        rows = np.sort(best.order[start:stop])
        members, local = np.unique(pairs[rows], return_inverse=True)
        shards.append(Shard(members.astype(np.int32), local.reshape(-1, 2).astype(np.int32)))
    return shards


def encodes(shards: Iterable[Shard]) -> int:
    """The cost of a plan: how many times an image is encoded."""
    return sum(len(shard.images) for shard in shards)


def shard_name(k: int) -> str:
    """The name of shard k of a plan: eight digits, so that names sort as numbers."""
    return f"{k:08}"


def shards_table(names: Sequence[str], shards: Sequence[Shard]) -> pa.Table:
    """A table of SHARDS, one row for each shard, named by `shard_name`."""
    members = np.concatenate([np.empty(0, np.int32), *(shard.images for shard in shards)])
    offsets = np.cumsum([0, *(len(shard.images) for shard in shards)])
    images = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(names, pa.string()).take(pa.array(members)),
        SHARDS.field("images").type,
    )
    labels = pa.array([shard_name(k) for k in range(len(shards))], pa.string())
    pairs = ragged([shard.pairs for shard in shards], SHARDS.field("pairs").type)
    return pa.Table.from_arrays([labels, images, pairs], schema=SHARDS)


def plan_views(
    names: Sequence[str],
    views: np.ndarray,
    max_images: int,
    max_pairs: int,
    named: Callable[[int], str],
) -> pa.Table:
    """Cut pairs of views into a table of TURNED. A view is encoded once in a shard.

    views: (M, 6): images i and j of every pair, their turns in degrees, and logarithms of base 2 of
        their scales.
    named: the name of shard k.
    """
    sides = np.concatenate([views[:, [0, 2, 4]], views[:, [1, 3, 5]]])
    distinct, which = np.unique(sides, axis=0, return_inverse=True)
    shards = plan_shards(which.reshape(2, -1).T, max_images, max_pairs)
    of_views = {
        "images": [[names[int(distinct[v, 0])] for v in shard.images] for shard in shards],
        "turns": [[int(distinct[v, 1]) for v in shard.images] for shard in shards],
        "scales": [[2.0 ** distinct[v, 2] for v in shard.images] for shard in shards],
    }
    columns = {name: pa.array(rows, TURNED.field(name).type) for name, rows in of_views.items()}
    columns["shard"] = pa.array([named(k) for k in range(len(shards))], pa.string())
    columns["pairs"] = ragged([shard.pairs for shard in shards], TURNED.field("pairs").type)
    return pa.table([columns[name] for name in TURNED.names], schema=TURNED)


class _Plan(NamedTuple):
    encodes: int
    order: np.ndarray  # (N,) rows of the pairs as the sweep meets them
    cuts: list[int]  # where in that order shards start and the last one ends


def lower_bound(images: int, pairs: int, max_images: int, max_pairs: int) -> float:
    """A number of encodes that no plan goes below.

    Each image is encoded at least once, and no shard is denser than all pairs of its images.
    """
    clique = min(max_images, math.ceil((1 + math.sqrt(1 + 8 * max_pairs)) / 2))
    return max(images, pairs * clique / min(max_pairs, clique * (clique - 1) // 2))


def _cut(
    pairs: np.ndarray, rank: np.ndarray, height: int, max_images: int, max_pairs: int
) -> _Plan:
    """Sweep the pairs (N, 2) in strips of `height` rows, and cut at the bounds.

    rank: (n,), the place of each image in the order.
    """
    placed = np.sort(rank[pairs], axis=1)
    strip, row = np.divmod(placed[:, 0], height)
    order = np.argsort((strip * len(rank) + placed[:, 1]) * height + row, kind="stable")
    # For both ends of each pair in this order: the earlier pair at which the image was last met.
    ends = pairs[order].ravel()
    by_image = np.argsort(ends, kind="stable")
    again = np.flatnonzero(ends[by_image[1:]] == ends[by_image[:-1]])
    last = np.full((len(pairs), 2), -1)
    last.ravel()[by_image[again + 1]] = by_image[again] // 2
    # An image is new to the shard that begins at `start` where it was last met before `start`.
    cuts, total = [0], 0
    while cuts[-1] < len(pairs):
        start = cuts[-1]
        images = np.cumsum((last[start : start + max_pairs] < start).sum(axis=1))
        size = int(np.searchsorted(images, max_images, side="right"))
        total += int(images[size - 1])
        cuts.append(start + size)
    return _Plan(total, order, cuts)


def _cluster(pairs: np.ndarray, n: int) -> np.ndarray:
    """Order images so that images with common partners are near, by agglomerative clustering.

    In every round each cluster chooses the neighbour with which it has most pairs, relative to the
    size of the smaller of both. Clusters that choose each other join. The order is that of the
    leaves of the resulting tree. Returns the ranks (n,) of the images.
    """
    first, second = np.concatenate([pairs, pairs[:, ::-1]]).T
    by_first = np.argsort(first, kind="stable")
    first, second = first[by_first], second[by_first]
    weight: np.ndarray = np.ones(len(first))
    size: np.ndarray = np.ones(n)
    joined: list[np.ndarray] = []
    while len(first) and len(joined) < CLUSTERING_ROUNDS:
        # Most weights are equal in the first rounds. A hash of the pair breaks ties in the same way
        # on both sides.
        low, high = np.minimum(first, second), np.maximum(first, second)
        tie = (low * 0x9E3779B1 + high * 0x85EBCA77) % 65521
        strength = weight / np.minimum(size[first], size[second]) * (1 + 1e-9 * tie)
        starts = np.flatnonzero(np.append(True, first[1:] != first[:-1]))
        strongest = np.maximum.reduceat(strength, starts)
        chosen = np.flatnonzero(
            strength == np.repeat(strongest, np.diff(np.append(starts, len(first))))
        )
        choice = np.full(len(size), -1)
        choice[first[chosen]] = second[chosen]
        mutual = (choice >= 0) & (choice[choice] == np.arange(len(size)))
        root = np.where(mutual, np.minimum(np.arange(len(size)), choice), np.arange(len(size)))
        kept, label = np.unique(root, return_inverse=True)
        if len(kept) == len(size):
            break
        joined.append(label)
        size = np.bincount(label, size)
        first, second = label[first], label[second]
        apart = first != second
        key, same = np.unique(first[apart] * len(kept) + second[apart], return_inverse=True)
        weight = np.bincount(same, weight[apart], len(key))
        first, second = np.divmod(key, len(kept))
    rank = np.arange(len(size))
    # From the roots to the leaves of the tree, children stay together in their parent's place.
    for label in reversed(joined):
        by_parent = np.argsort(rank[label], kind="stable")
        rank = np.empty(len(label), np.int64)
        rank[by_parent] = np.arange(len(label))
    return rank
