"""The view graph: which images see the same, and how much."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

# COLMAP keeps pairs of images as lower · MOST_IMAGES + higher.
MOST_IMAGES = 2147483647
LEAST_MATCHES = 15  # of a pair, as COLMAP's mapper demands
VERIFIED_FROM = 2  # COLMAP's numbers below are of pairs that have no geometry
# Pairs with most matches that an image keeps for mapping. More of them cost memory and time, and
# hardly make a model more exact.
STRONGEST = 30


def address(database: Path) -> str:
    """The URI of a database that is only read, so that SQLite leaves no files beside it.

    Where another program has written to it and not ended, its journal is read too.
    """
    journal = database.with_name(database.name + "-wal")
    return f"{database.absolute().as_uri()}?mode=ro" + ("" if journal.exists() else "&immutable=1")


def image_names(database: Path) -> list[str]:
    """Names of all images of a COLMAP database, by their numbers."""
    with closing(sqlite3.connect(address(database), uri=True)) as opened:
        return [name for _, name in _images(opened)]


def _images(opened: sqlite3.Connection) -> list[tuple[int, str]]:
    return opened.execute("SELECT image_id, name FROM images ORDER BY image_id").fetchall()


@dataclass(frozen=True)
class ViewGraph:
    """N images and E verified pairs.

    images: (N,) COLMAP's numbers, sorted. names: of their files. first, second: (E,) rows of the
    images, first below second. inliers: (E,) matches.
    """

    images: np.ndarray
    names: list[str]
    first: np.ndarray
    second: np.ndarray
    inliers: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def read(cls, database: Path) -> ViewGraph:
        """The graph of a COLMAP database."""
        with closing(sqlite3.connect(address(database), uri=True)) as opened:
            named = _images(opened)
            pairs = opened.execute(
                "SELECT pair_id, rows FROM two_view_geometries WHERE rows >= ? AND config >= ? "
                "ORDER BY pair_id",
                (LEAST_MATCHES, VERIFIED_FROM),
            ).fetchall()
        images = np.array([number for number, _ in named], np.int64)
        pair, inliers = np.array(pairs, np.int64).reshape(-1, 2).T
        first, second = (np.searchsorted(images, side) for side in np.divmod(pair, MOST_IMAGES))
        return cls(images, [name for _, name in named], first, second, inliers)

    def pair_numbers(self) -> np.ndarray:
        """COLMAP's numbers of the pairs: (E,)."""
        numbers: np.ndarray = self.images[self.first] * MOST_IMAGES + self.images[self.second]
        return numbers

    def adjacency(self) -> csr_array:
        """(N, N), symmetric: the inliers of every pair."""
        rows = np.concatenate([self.first, self.second])
        columns = np.concatenate([self.second, self.first])
        return coo_array(
            (np.tile(self.inliers, 2), (rows, columns)), shape=(len(self), len(self))
        ).tocsr()

    def components(self) -> list[np.ndarray]:
        """Rows of the images that hang together, the largest group first."""
        count, of = connected_components(self.adjacency(), directed=False)
        order = np.argsort(of, kind="stable")
        groups = np.split(order, np.searchsorted(of[order], np.arange(1, count)))
        return sorted(groups, key=lambda group: (-len(group), group[0]))

    def pruned(self) -> ViewGraph:
        """The pairs that mapping needs: each image's strongest, and two trees through all images.

        The trees share no pair, so that no single one holds two parts together.
        """
        rows = np.arange(len(self.first))
        ends, pair = np.concatenate([self.first, self.second]), np.tile(rows, 2)
        order = np.lexsort((pair, -self.inliers[pair], ends))
        rank = np.arange(len(order)) - np.searchsorted(ends[order], ends[order])
        kept = np.zeros(len(rows), bool)
        kept[pair[order[rank < STRONGEST]]] = True
        open_pairs = np.ones(len(rows), bool)
        for _ in range(2):
            tree = self._strongest_tree(open_pairs)
            kept[tree] = True
            open_pairs[tree] = False
        return self.only(kept)

    def only(self, pairs: np.ndarray) -> ViewGraph:
        """The same images with some of the pairs, (E,) bool."""
        return ViewGraph(
            self.images, self.names, self.first[pairs], self.second[pairs], self.inliers[pairs]
        )

    def _strongest_tree(self, among: np.ndarray) -> np.ndarray:
        """Rows of the pairs of a spanning tree with the most inliers, out of some, (E,) bool."""
        rows = np.flatnonzero(among)
        # Costs differ all, so that the tree is the same everywhere; zero would mean no pair.
        order = np.argsort(-self.inliers[rows], kind="stable")
        cost = np.empty(len(rows))
        cost[order] = np.arange(1, len(rows) + 1)
        graph = coo_array((cost, (self.first[rows], self.second[rows])), shape=(len(self),) * 2)
        tree = minimum_spanning_tree(graph.tocsr())
        chosen: np.ndarray = rows[order[tree.data.astype(np.int64) - 1]]
        return chosen
