"""Images that look alike: descriptors of folders, compared, as pairs or as candidates of queries.

one folder, with a file of descriptors or the matcher's weights → compared → similar → PairList
two folders, of queries and of images → compared → candidates_of → Candidates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PairListError
from pipeline.events import Listener, Progress, nobody
from pipeline.pairs.candidates import Candidates
from pipeline.pairs.descriptors import (
    Descriptors,
    check_ending,
    describe_images,
    nearest,
    read_descriptors,
    reduced,
    write_descriptors,
)
from pipeline.pairs.formats import check_size, of_pairs
from pipeline.pairs.pair_list import PairList
from pipeline.photos.source import list_images
from pipeline.store.folder import Folder, Names, place
from pipeline.store.weights import load_weights
from pipeline.tables import FAILURES
from pipeline.vocabulary import DEFAULT_WEIGHTS

OWN_DIMENSIONS = 256  # descriptors that are made here are reduced to so many dimensions


def plan_retrieval(
    images: str,
    storage: dict[str, Any],
    descriptors: str | None = None,
    weights: str = DEFAULT_WEIGHTS,
    reduce: int | None = None,
    top_k: int = 20,
    min_score: float | None = None,
    mutual: bool = False,
    queries: str | None = None,
    query_descriptors: str | None = None,
    listen: Listener = nobody,
) -> tuple[Names, PairList | Candidates]:
    """Pairs of every image with the `top_k` most similar to it, or candidates of queries.

    images: the folder of images.
    descriptors: a file with their descriptors. None describes them by the matcher's own weights.
    reduce: dimensions; see `compared`.
    min_score: lowest cosine.
    mutual: only pairs in which each image is among the most similar of the other.
    queries: a folder. With it, the result is the candidates of each of its images.
    query_descriptors: a file with the descriptors of the queries. None takes `descriptors`.

    Raises `PairListError` for options that do not fit together, and as `compared`.
    """
    if top_k < 1:
        raise PairListError(
            f"the {top_k} most similar images of each make no pair; give 1 or more."
        )
    if queries is None:
        if query_descriptors is not None:
            raise PairListError(
                "--query-descriptors are those of the images of --queries; give both."
            )
        (found,) = compared([(images, descriptors)], storage, weights, reduce, listen)
        return found.names, similar(found, top_k, min_score, mutual)
    if mutual:
        raise PairListError(
            "--mutual chooses pairs, and --queries asks for the candidates of each; leave one out."
        )
    if query_descriptors is not None and descriptors is None:
        raise PairListError(
            "--query-descriptors need those of the images by the same model; give --descriptors."
        )
    places = [place(Folder(folder, storage)) for folder in (queries, images)]
    sides = [(queries, query_descriptors or descriptors), (images, descriptors)]
    if query_descriptors is None and places[0] == places[1]:
        sides = sides[1:]
    described = compared(sides, storage, weights, reduce, listen)
    asked, known = described[0], described[-1]
    row = {places[1] + name: number for number, name in enumerate(known.names)}
    own = np.array([row.get(places[0] + name, -1) for name in asked.names])
    return asked.names, candidates_of(asked, known, own, top_k, min_score)


def similar(
    described: Descriptors, top_k: int, min_score: float | None = None, mutual: bool = False
) -> PairList:
    """Pairs of described images, as indices into `described.names`; see `plan_retrieval`."""
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


def candidates_of(
    asked: Descriptors,
    known: Descriptors,
    own: np.ndarray,
    top_k: int,
    min_score: float | None = None,
) -> Candidates:
    """The `top_k` images of `known` most similar to each query of `asked`, best first.

    own: (Q,) the row of `known` that is the query itself, −1 where there is none.
    min_score: lowest cosine.

    Raises `PairListError` for more candidates than a list may hold.
    """
    found, cosines = nearest(asked.vectors, known.vectors, top_k + 1)  # one may be the query itself
    kept = found != own[:, None]
    kept &= np.cumsum(kept, axis=1) <= top_k
    if min_score is not None:
        kept &= cosines >= min_score
    sides = (asked.names, np.nonzero(kept)[0]), (known.names, found[kept])
    check_size("candidates", *sides)
    query, candidate = (
        pa.array(names, pa.string()).take(pa.array(taken)) for names, taken in sides
    )
    rank = np.cumsum(kept, axis=1, dtype=np.int32)[kept]
    failures = known.failures
    if asked is not known:  # labels are those of the rounds of reranking
        failures = pa.concat_tables(
            [_labelled("query", asked.failures), _labelled("database", failures)]
        )
    return Candidates(
        query,
        candidate,
        pa.array(cosines[kept]),
        rank,
        pa.nulls(len(rank), pa.string()),
        failures,
        0,
    )


def _labelled(label: str, failures: pa.Table) -> pa.Table:
    names = pc.binary_join_element_wise(label, failures["image0"], "/")
    return failures.set_column(0, FAILURES.field("image0"), names)


def compared(
    folders: Sequence[tuple[str, str | None]],
    storage: dict[str, Any],
    weights: str = DEFAULT_WEIGHTS,
    reduce: int | None = None,
    listen: Listener = nobody,
) -> list[Descriptors]:
    """Descriptors of the images of each folder, from its file or made here; see `described`.

    reduce: dimensions; see `descriptors.reduced`, which learns on all folders together. None leaves
        descriptors from files as they are, and reduces our own to OWN_DIMENSIONS.

    Raises `PairListError` where a single folder has fewer than two descriptors, where one of
    several folders has none, and where descriptors differ in length.
    """
    if reduce is not None and reduce < 1:
        raise PairListError(
            f"descriptors of {reduce} dimensions tell nothing apart; give 1 or more."
        )
    found = [
        described(*folder, storage, weights, 2 if len(folders) == 1 else 1, listen)
        for folder in folders
    ]
    vectors = [one.vectors for one in found]
    widths = [part.shape[1] for part in vectors]
    if len(set(widths)) > 1:
        different = f"descriptors of {' and '.join(map(str, widths))} numbers cannot be compared"
        raise PairListError(f"{different}; give those of one model for queries and images.")
    dimensions = OWN_DIMENSIONS if reduce is None and folders[0][1] is None else reduce
    if dimensions is None:
        return found
    parts = np.split(
        reduced(vectors[0] if len(vectors) == 1 else np.concatenate(vectors), dimensions),
        np.cumsum([len(part) for part in vectors])[:-1],
    )
    return [replace(one, vectors=part) for one, part in zip(found, parts, strict=True)]


def described(
    images: str,
    descriptors: str | None,
    storage: dict[str, Any],
    weights: str = DEFAULT_WEIGHTS,
    least: int = 1,
    listen: Listener = nobody,
) -> Descriptors:
    """Descriptors of a folder's images from a file, or made here.

    Raises `PairListError` where fewer than `least` images have a descriptor.
    """
    names, folder = images_of(images, storage, least), Folder(images, storage)
    if descriptors is not None:
        found = read_descriptors(descriptors, names, storage)
    else:
        progress = Progress(len(names), "images", listen)
        found = describe_images(
            folder, load_weights(weights, storage), names, progress=progress.advance
        )
    if len(found.names) < least:
        first = first_reason(found.failures)
        counts = f"{len(found.names)} of {len(names)} images have a descriptor ({first})"
        raise PairListError(
            f"{folder.shown}: {counts}; at least {least} must, by the name it has there."
        )
    return found


def describe(
    images: str,
    output: str,
    storage: dict[str, Any],
    weights: str = DEFAULT_WEIGHTS,
    listen: Listener = nobody,
) -> Descriptors:
    """Descriptors of a folder's images by the matcher's own backbone, written to a file.

    Raises `DescriptorError` for an unknown ending, and as `described`.
    """
    check_ending(output)
    found = described(images, None, storage, weights, listen=listen)
    write_descriptors(output, found, storage)
    return found


def images_of(images: str, storage: dict[str, Any], least: int = 2) -> Names:
    """Sorted names of a folder's photographs.

    Raises `PairListError` where there are fewer than `least`; a pair needs two.
    """
    folder = Folder(images, storage)
    names = list_images(folder)
    if len(names) < least:
        raise PairListError(
            f"{folder.shown}: holds {len(names)} photographs, {least} are needed; check the path."
        )
    return names


def first_reason(failures: pa.Table) -> str:
    """The first failure as text, for a message."""
    rows = failures.slice(0, 1).to_pylist()
    return case(rows[0]) if rows else "there is no failure"


def case(failure: dict[str, Any]) -> str:
    """A row of FAILURES as text, for a message: its image, where it has one, and the reason."""
    image = failure["image0"]  # a malformed line of a list has none
    return failure["detail"] if image is None else f"{image}: {failure['detail']}"
