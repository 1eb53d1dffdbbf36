"""Cut a view graph into blocks that overlap.

METIS cuts every part that hangs together into blocks of about equal size, where few matches are
lost. A block then takes in the images outside it that are tied to it most: its ring. Neighbours
meet in the images of their rings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pipeline.events import counted, duration
from pipeline.extras import import_pymetis
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.tables import BLOCKS

SHOWN = 20  # blocks in a text
LEAST_IMAGES = 3  # of a part that is mapped, as COLMAP's mapper demands of a model
# What mapping a block took in measurements on one core: seconds and megabytes for each image.
SECONDS_AN_IMAGE, MEGABYTES_AN_IMAGE, MEGABYTES = 0.12, 0.5, 250


@dataclass(frozen=True)
class Block:
    """name: of its files. core, ring: COLMAP's numbers of images. pairs: of their graph."""

    name: str
    part: int  # of those that hang together
    core: np.ndarray
    ring: np.ndarray
    pairs: int

    @property
    def images(self) -> np.ndarray:
        """Numbers of all its images, sorted."""
        return np.sort(np.concatenate([self.core, self.ring]))


def cut_blocks(graph: ViewGraph, size: int, ring: float) -> list[Block]:
    """Blocks of about `size` images and a ring of `ring · size` images each.

    Images of parts with fewer than LEAST_IMAGES are in no block.
    """
    adjacency = graph.adjacency()
    blocks: list[Block] = []
    for part, rows in enumerate(graph.components()):
        if len(rows) < LEAST_IMAGES:
            continue
        inside = csr_array(adjacency[rows][:, rows])
        for mine in _cores(inside, -(-len(rows) // size)):
            beside = _ring(inside, mine, round(ring * size))
            members = np.concatenate([mine, beside])
            blocks.append(
                Block(
                    f"{len(blocks):05}",
                    part,
                    graph.images[rows[mine]],
                    graph.images[rows[beside]],
                    int(inside[members][:, members].nnz // 2),
                )
            )
    return blocks


def blocks_table(blocks: list[Block]) -> pa.Table:
    """The plan as a table, BLOCKS."""
    images = [len(block.core) + len(block.ring) for block in blocks]
    columns = {
        "block": [block.name for block in blocks],
        "part": [block.part for block in blocks],
        "core": [block.core.tolist() for block in blocks],
        "ring": [block.ring.tolist() for block in blocks],
        "pairs": [block.pairs for block in blocks],
        "expected_megabytes": [MEGABYTES + MEGABYTES_AN_IMAGE * count for count in images],
        "expected_seconds": [SECONDS_AN_IMAGE * count for count in images],
    }
    return pa.table(columns, schema=BLOCKS)


def plan_text(plan: pa.Table) -> str:
    """A BLOCKS table for a person: the first blocks, and what all cost."""
    lines = [
        f"{'block':>5} {'part':>5} {'images':>7} {'ring':>5} {'pairs':>8} {'MB':>6} {'seconds':>8}"
    ]
    for row in plan.slice(0, SHOWN).to_pylist():
        lines.append(
            f"{row['block']:>5} {row['part']:5} {len(row['core']):7} {len(row['ring']):5} "
            f"{row['pairs']:8,} {row['expected_megabytes']:6.0f} {row['expected_seconds']:8.0f}"
        )
    if len(plan) > SHOWN:
        lines.append(f"… {len(plan) - SHOWN} more")
    images = sum(map(len, plan["core"].to_pylist()))
    seconds = sum(plan["expected_seconds"].to_pylist())
    total = f"{counted(len(plan), 'block')}, {counted(images, 'image')}"
    return "\n".join([*lines, f"{total}, about {duration(seconds)} of one core to map"]) + "\n"


def _cores(adjacency: csr_array, count: int) -> list[np.ndarray]:
    """Rows of the images of each block, sorted; every block hangs together."""
    if count == 1:
        return [np.arange(adjacency.shape[0])]
    pymetis = import_pymetis()
    graph = pymetis.CSRAdjacency(
        adj_starts=adjacency.indptr.astype(np.int64), adjacent=adjacency.indices.astype(np.int64)
    )
    of = np.array(
        pymetis.part_graph(
            count,
            graph,
            eweights=adjacency.data.astype(np.int64),
            recursive=count <= 8,
            options=pymetis.Options(seed=1),
        ).vertex_part
    )
    of = _whole(adjacency, of)
    return [np.flatnonzero(of == number) for number in np.unique(of)]


def _whole(adjacency: csr_array, of: np.ndarray) -> np.ndarray:
    """Give fragments of blocks to the block that they are tied to most; METIS may leave some."""
    while True:
        rows = np.repeat(np.arange(len(of)), np.diff(adjacency.indptr))
        same = of[rows] == of[adjacency.indices]
        within = csr_array(
            (same[same].astype(np.int8), (rows[same], adjacency.indices[same])), adjacency.shape
        )
        _, fragment = connected_components(within, directed=False)
        sizes = np.bincount(fragment)
        # The largest fragment of every block stays; of equal ones, the first.
        first = np.unique(fragment, return_index=True)[1]
        order = np.lexsort((-sizes, of[first]))
        largest = order[np.unique(of[first][order], return_index=True)[1]]
        loose = ~np.isin(fragment, largest)
        if not loose.any():
            return of
        smallest = fragment[loose][np.argmin(sizes[fragment[loose]])]
        mine = fragment == smallest
        ties = adjacency[mine].sum(axis=0)
        weight = np.bincount(of, np.where(mine, 0, ties), of.max() + 1)
        weight[of[mine][0]] = 0
        of = np.where(mine, np.argmax(weight), of)


def _ring(adjacency: csr_array, core: np.ndarray, most: int) -> np.ndarray:
    """Rows of the images outside that have most matches with the core."""
    ties = adjacency[core].sum(axis=0)
    ties[core] = 0
    order = np.argsort(-ties, kind="stable")[:most]
    return np.sort(order[ties[order] > 0])
