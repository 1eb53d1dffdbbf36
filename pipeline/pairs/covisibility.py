"""Pairs of images that are known to overlap, from the points of a COLMAP model or from a run.

COLMAP model → shared_points: pairs that see the same points, scored by their number
run folder   → transitive: pairs not tried yet that verified matches connect through other
               images
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array, csr_array, triu
from scipy.sparse.csgraph import connected_components

from pipeline.errors import PairListError, StorageError
from pipeline.extras import import_pycolmap
from pipeline.pairs.formats import MOST, of_pairs
from pipeline.pairs.pair_list import PairList
from pipeline.store.folder import Folder, Names
from pipeline.tables import FAILURES
from pipeline.vocabulary import VERIFIED

# The files are .bin or .txt. Newer models have files for rigs and frames as well.
MODEL_FILES = ("cameras", "images", "points3D")


def shared_points(
    model: Folder, min_shared: int = 15, top_k: int | None = None
) -> tuple[Names, PairList]:
    """Pairs of registered images that see at least `min_shared` points of a sparse model together.

    top_k: of each image, the images it shares most points with. None takes all.

    Returns the sorted names of the model's images, and the pairs, whose scores are the numbers of
    shared points. Raises `PairListError` where the model cannot be read or has fewer than two
    images.
    """
    if min_shared < 1 or (top_k is not None and top_k < 1):
        raise PairListError("covisibility: give min-shared and top-k of 1 or more.")
    seen = _points_of(model)
    names = sorted(seen)
    if len(names) < 2:
        raise PairListError(
            f"{model.shown}: the model has {len(names)} registered images, and a pair needs two."
        )
    points = np.concatenate([seen[name] for name in names])
    image = np.repeat(np.arange(len(names)), [len(seen[name]) for name in names])
    _, point = np.unique(points, return_inverse=True)
    sees = csr_array((np.ones(len(image), np.int32), (image, point)))
    sees.data[:] = 1  # a point that one image sees twice is one point
    shared = coo_array(triu(sees @ sees.T, k=1))
    enough = shared.data >= min_shared
    first, second, counts = shared.row[enough], shared.col[enough], shared.data[enough]
    if top_k is not None:
        chosen = _best_of_each(first, second, counts, top_k)
        first, second, counts = first[chosen], second[chosen], counts[chosen]
    return names, of_pairs(first, second, counts.astype(np.float32))


def _points_of(model: Folder) -> dict[str, np.ndarray]:
    """Ids of the points that every registered image sees, by the name of the image."""
    reconstruction = read_model(model)
    images = (reconstruction.images[number] for number in reconstruction.reg_image_ids())
    return {
        image.name: np.unique(
            [point.point3D_id for point in image.points2D if point.has_point3D()]
        ).astype(np.int64)
        for image in images
    }


def read_model(model: Folder) -> Any:
    """The `pycolmap.Reconstruction` of a folder, which may be in an object store.

    Raises `PairListError` where the folder holds no model that can be read.
    """
    pycolmap = import_pycolmap()
    try:
        with _local(model) as path:
            return pycolmap.Reconstruction(path)
    except (StorageError, OSError) as error:
        raise PairListError(f"{model.shown}: cannot be read ({error}); check the path.") from error
    except (ValueError, IndexError, RuntimeError) as error:  # pycolmap raises these for bad files
        cause = str(error).strip().replace("\n", " ")
        raise PairListError(
            f"{model.shown}: is no COLMAP model, or a damaged one ({cause}); export it again."
        ) from error


@contextmanager
def _local(model: Folder) -> Iterator[str]:
    """A folder on this machine's disk that holds the model, copied there where it is remote."""
    files = model.list((".bin", ".txt"), recursive=False)
    if not any(
        {f"{stem}{ending}" for stem in MODEL_FILES} <= set(files) for ending in (".bin", ".txt")
    ):
        raise PairListError(
            f"{model.shown}: holds no cameras, images and points3D in .bin or .txt; "
            "give such a folder."
        )
    if model.local:
        yield model.path()
        return
    with TemporaryDirectory() as scratch:
        for name in files:
            (Path(scratch) / name).write_bytes(model.read_bytes(name))
        yield scratch


def _best_of_each(
    first: np.ndarray, second: np.ndarray, scores: np.ndarray, top_k: int
) -> np.ndarray:
    """Of pairs (M,), (M,), those that are among the `top_k` best of one of their images: (M,) bool.

    Ties are decided by index.
    """
    image, other = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.lexsort((other, -np.tile(scores, 2), image))
    starts = np.searchsorted(image[order], image[order])  # where the pairs of each image begin
    rank = np.arange(len(order)) - starts
    chosen = np.zeros(2 * len(first), bool)
    chosen[order[rank < top_k]] = True
    return chosen[: len(first)] | chosen[len(first) :]


def transitive(run: Folder, steps: int | None = 2) -> tuple[Names, PairList]:
    """Pairs that the run has not tried and that chains of verified pairs connect.

    run: the run folder, as `pipeline.match` leaves it.
    steps: most verified pairs in a chain. None: chains of any length.

    Returns the sorted names of the run's images, and the pairs. A score is the number of images
    that both are verified with, 0 along longer chains. Raises `PairListError` where the run has no
    matches, or where there are too many pairs.
    """
    if steps is not None and steps < 2:
        raise PairListError(
            f"a chain of {steps} verified pairs connects no new images; give 2 or more."
        )
    tables = [
        run.read_table(name, ["image0", "image1", "geometry"]) for name in run.names("matches")
    ]
    if not tables:
        raise PairListError(
            f"{run.shown}: holds no matches/*.parquet; "
            "give a folder that `eloftr match` has finished."
        )
    table = pa.concat_tables(tables)
    names = sorted(
        pc.unique(pa.chunked_array([*table["image0"].chunks, *table["image1"].chunks])).to_pylist()
    )
    known = pa.array(names, pa.string())
    first, second = (
        pc.index_in(table[side], value_set=known).to_numpy() for side in ("image0", "image1")
    )
    verified = pc.is_in(table["geometry"], value_set=pa.array(VERIFIED, pa.string())).to_numpy()
    tried, linked = (
        _graph(first, second, len(names)),
        _graph(first[verified], second[verified], len(names)),
    )
    if steps is None:
        _check_size(run, linked)
    reached, last = linked, -1
    for _ in range(1, len(names) if steps is None else steps):
        if reached.nnz == last:  # the last step found nothing new
            break
        last = reached.nnz
        reached = _ones(reached + reached @ linked)
    new = coo_array(triu(reached - reached * tried, k=1))
    new.eliminate_zeros()
    both = csr_array(linked @ linked)[new.row, new.col] if new.nnz else np.empty(0)
    return names, of_pairs(new.row, new.col, np.asarray(both, np.float32), FAILURES.empty_table())


def _graph(first: np.ndarray, second: np.ndarray, count: int) -> csr_array:
    """A graph (count, count) int32 with 1 where two images are a pair, in both directions."""
    ones = np.ones(2 * len(first), np.int32)
    sides = np.concatenate([first, second]), np.concatenate([second, first])
    return _ones(csr_array((ones, sides), shape=(count, count)))


def _ones(graph: csr_array) -> csr_array:
    graph.data[:] = 1
    return graph


def _check_size(run: Folder, linked: csr_array) -> None:
    sizes = np.bincount(connected_components(linked, directed=False)[1])
    pairs = int((sizes * (sizes - 1) // 2).sum())
    if pairs > MOST:
        raise PairListError(
            f"{run.shown}: its closure has {pairs:,} pairs, too many for a list ({MOST:,}); "
            "give --steps."
        )
