"""Which pairs to match: one function for each way to choose them, from folders and files to names and a PairList.

Every list is in canonical order (`pairs.canonical`) and without duplicates; similarities are its scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.descriptors import Descriptors, describe_images, nearest, read_descriptors, reduced
from pipeline.images import list_images
from pipeline.lists import MOST, of_pairs, union
from pipeline.pairs import PairList, PairListError, exhaustive
from pipeline.run import load_weights
from pipeline.schemas import FAILURES
from pipeline.sequences import closures, overlaps, sequences
from pipeline.storage import Folder, Names

OWN_DIMENSIONS = 256  # that descriptors made here are reduced to

Plan = tuple[Names, PairList]


def images_of(images: str, storage: dict[str, Any]) -> Names:
    """Sorted names of a folder's photographs; `PairListError` where there are fewer than two."""
    folder = Folder(images, storage)
    names = list_images(folder)
    if len(names) < 2:
        raise PairListError(f"{folder.shown}: holds {len(names)} photographs, and a pair needs two; check the path.")
    return names


def plan_exhaustive(images: str, storage: dict[str, Any]) -> Plan:
    """All pairs of a folder. `PairListError` where they are more than one list may hold."""
    names = images_of(images, storage)
    count = len(names) * (len(names) - 1) // 2
    if count > MOST:
        raise PairListError(f"{len(names):,} images have {count:,} pairs, too many for a list ({MOST:,}); plan fewer.")
    return names, PairList(exhaustive(len(names)), None, FAILURES.empty_table(), 0)


def plan_sequential(
    images: str,
    storage: dict[str, Any],
    window: int = 10,
    quadratic: bool = False,
    across_folders: bool = False,
    loop_closure: int = 0,
    loop_every: int = 10,
    loop_gap: int = 50,
    descriptors: str | None = None,
    weights: str = "small",
    reduce: int | None = None,
    progress: Callable[[int], None] = lambda described: None,
) -> Plan:
    """Photographs taken one after another, see `pipeline.sequences`. loop_closure: images each is closed with, or 0."""
    names = images_of(images, storage)
    taken = sequences(names, across_folders)
    found = overlaps(taken, window, quadratic)
    if loop_closure:
        described = described_images(images, storage, descriptors, weights, reduce, progress)
        found = union([found, closures(taken, names, described, loop_closure, loop_every, loop_gap)])
    return names, replace(found, duplicates=0)


def plan_retrieval(
    images: str,
    storage: dict[str, Any],
    descriptors: str | None = None,
    weights: str = "small",
    reduce: int | None = None,
    top_k: int = 20,
    min_score: float | None = None,
    mutual: bool = False,
    progress: Callable[[int], None] = lambda described: None,
) -> Plan:
    """Every image with the `top_k` most similar to it.

    descriptors: a file of them; None describes the images with the matcher's own weights. reduce: dimensions, see
    `descriptors.reduced`; None leaves those of a file as they are, and takes OWN_DIMENSIONS for our own.
    min_score: lowest cosine. mutual: only pairs in which each is among the most similar of the other.
    """
    if top_k < 1:
        raise PairListError(f"the {top_k} most similar images of each make no pair; give 1 or more.")
    described = described_images(images, storage, descriptors, weights, reduce, progress)
    return described.names, similar(described, top_k, min_score, mutual)


def similar(described: Descriptors, top_k: int, min_score: float | None = None, mutual: bool = False) -> PairList:
    """Pairs of described images, see `plan_retrieval`; indices into `described.names`."""
    found, cosines = nearest(described.vectors, None, top_k)
    first = np.repeat(np.arange(len(found)), found.shape[1])
    second, scores = found.ravel(), cosines.ravel()
    if mutual:
        keys = first * len(found) + second
        both = np.isin(keys, second * len(found) + first)
        first, second, scores = first[both], second[both], scores[both]
    if min_score is not None:
        high = scores >= min_score
        first, second, scores = first[high], second[high], scores[high]
    return of_pairs(first, second, scores, described.failures)


def described_images(
    images: str,
    storage: dict[str, Any],
    descriptors: str | None,
    weights: str,
    reduce: int | None,
    progress: Callable[[int], None],
) -> Descriptors:
    """Descriptors of a folder's images from a file, or made here. `PairListError` where fewer than two have one."""
    if reduce is not None and reduce < 1:
        raise PairListError(f"descriptors of {reduce} dimensions tell nothing apart; give 1 or more.")
    names = images_of(images, storage)
    if descriptors is not None:
        found = read_descriptors(descriptors, names, storage)
    else:
        found = describe_images(Folder(images, storage), load_weights(weights, storage), names, progress=progress)
        reduce = OWN_DIMENSIONS if reduce is None else reduce
    if len(found.names) < 2:
        first = first_reason(found.failures)
        raise PairListError(f"{len(found.names)} of {len(names)} images have a descriptor ({first}); a pair needs two.")
    return replace(found, vectors=reduced(found.vectors, reduce)) if reduce else found


def first_reason(failures: pa.Table) -> str:
    """The first failure, for a message."""
    rows = failures.slice(0, 1).to_pylist()
    return f"{rows[0]['image0']}: {rows[0]['detail']}" if rows else "there is no failure"
