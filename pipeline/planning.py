"""Which pairs to match: one function for each way to choose them, from folders and files to names and a PairList.

Every list is in canonical order (`pairs.canonical`) and without duplicates; similarities are its scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.covisibility import shared_points, transitive
from pipeline.descriptors import (
    Descriptors,
    check_ending,
    describe_images,
    nearest,
    read_descriptors,
    reduced,
    write_descriptors,
)
from pipeline.images import list_images
from pipeline.lists import MOST, format_of, minus, of_pairs, read_lists, sample, union, write_list
from pipeline.pairs import PairList, PairListError, exhaustive
from pipeline.positions import exif_positions, neighbours, read_positions
from pipeline.progress import Progress
from pipeline.run import load_weights
from pipeline.schemas import FAILURES
from pipeline.sequences import closures, overlaps, sequences
from pipeline.storage import Folder, Names, redacted

OWN_DIMENSIONS = 256  # that descriptors made here are reduced to

Plan = tuple[Names, PairList]


def images_of(images: str, storage: dict[str, Any], least: int = 2) -> Names:
    """Sorted names of a folder's photographs; `PairListError` where there are fewer than `least`, two for a pair."""
    folder = Folder(images, storage)
    names = list_images(folder)
    if len(names) < least:
        raise PairListError(f"{folder.shown}: holds {len(names)} photographs, {least} are needed; check the path.")
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
) -> Plan:
    """Photographs taken one after another, see `pipeline.sequences`. loop_closure: images each is closed with, or 0."""
    names = images_of(images, storage)
    taken = sequences(names, across_folders)
    found = overlaps(taken, window, quadratic)
    if loop_closure:
        described = described_images(images, storage, descriptors, weights, reduce)
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
) -> Plan:
    """Every image with the `top_k` most similar to it.

    descriptors: a file of them; None describes the images with the matcher's own weights. reduce: dimensions, see
    `descriptors.reduced`; None leaves those of a file as they are, and takes OWN_DIMENSIONS for our own.
    min_score: lowest cosine. mutual: only pairs in which each is among the most similar of the other.
    """
    if top_k < 1:
        raise PairListError(f"the {top_k} most similar images of each make no pair; give 1 or more.")
    described = described_images(images, storage, descriptors, weights, reduce)
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
) -> Descriptors:
    """Descriptors of a folder's images from a file, or made here. `PairListError` where fewer than two have one."""
    if reduce is not None and reduce < 1:
        raise PairListError(f"descriptors of {reduce} dimensions tell nothing apart; give 1 or more.")
    names = images_of(images, storage)
    if descriptors is not None:
        found = read_descriptors(descriptors, names, storage)
    else:
        found = _described(images, names, storage, weights)
        reduce = OWN_DIMENSIONS if reduce is None else reduce
    if len(found.names) < 2:
        first = first_reason(found.failures)
        raise PairListError(f"{len(found.names)} of {len(names)} images have a descriptor ({first}); a pair needs two.")
    return replace(found, vectors=reduced(found.vectors, reduce)) if reduce else found


def plan_spatial(
    images: str | None,
    storage: dict[str, Any],
    positions: str | None = None,
    nearest: int | None = None,
    radius: float | None = None,
    height: bool = False,
) -> Plan:
    """Photographs taken near each other, see `positions.neighbours`.

    positions: a table of them; None reads the EXIF data of the images. images: may be None with a table, whose images
    are then all used.
    """
    if images is None and positions is None:
        raise PairListError("give --images, --positions or both.")
    names = None if images is None else images_of(images, storage)
    if positions is not None:
        found = read_positions(positions, names, height, storage)
    else:
        assert images is not None
        assert names is not None
        found = exif_positions(Folder(images, storage), names, height)
    if len(found.names) < 2:
        first = first_reason(found.failures)
        raise PairListError(f"{len(found.names)} images have a position ({first}), and a pair needs two.")
    return found.names, neighbours(found, nearest, radius)


def plan_covisibility(model: str, storage: dict[str, Any], min_shared: int = 15, top_k: int | None = 20) -> Plan:
    """Images that see the same points of a COLMAP model, see `covisibility.shared_points`."""
    return shared_points(Folder(model, storage), min_shared, top_k)


def plan_transitive(run: str, storage: dict[str, Any], steps: int = 2) -> Plan:
    """Images that verified matches of a run connect, see `covisibility.transitive`. steps: 0 for any number."""
    return transitive(Folder(run, storage), steps or None)


def plan_union(lists: list[str], images: str | None, storage: dict[str, Any]) -> Plan:
    """Every pair of any of the lists. images: the folder that they are of; None takes the names as they are."""
    names, found = read_lists(lists, images_of(images, storage) if images else None, storage)
    return names, union(found)


def plan_minus(lists: list[str], images: str | None, storage: dict[str, Any]) -> Plan:
    """The pairs of the first list that none of the others has."""
    names, found = read_lists(lists, images_of(images, storage) if images else None, storage)
    return names, minus(found[0], found[1:])


def plan_sample(
    list: str, images: str | None, storage: dict[str, Any], count: int, seed: int = 0, best: bool = False
) -> Plan:
    """`count` pairs of a list, see `lists.sample`."""
    names, (found,) = read_lists([list], images_of(images, storage) if images else None, storage)
    return names, sample(found, count, seed, best)


def describe(images: str, output: str, storage: dict[str, Any], weights: str = "small") -> Descriptors:
    """Descriptors of a folder's images by the matcher's own backbone, written to a file."""
    check_ending(output)
    found = _described(images, images_of(images, storage, least=1), storage, weights)
    write_descriptors(output, found, storage)
    return found


def _described(images: str, names: Names, storage: dict[str, Any], weights: str) -> Descriptors:
    progress = Progress(len(names), unit="images")
    found = describe_images(Folder(images, storage), load_weights(weights, storage), names, progress=progress.advance)
    progress.close()
    if not found.names:
        raise PairListError(f"no image can be described ({first_reason(found.failures)}).")
    return found


MAKERS: dict[str, Callable[..., Plan]] = {
    "exhaustive": plan_exhaustive,
    "sequential": plan_sequential,
    "retrieval": plan_retrieval,
    "spatial": plan_spatial,
    "covisibility": plan_covisibility,
    "transitive": plan_transitive,
    "union": plan_union,
    "minus": plan_minus,
    "sample": plan_sample,
}


def plan(
    command: str,
    storage: dict[str, Any],
    output: str | None = None,
    format: str | None = None,
    failures: str | None = None,
    dry_run: bool = False,
    **chosen: Any,
) -> str:
    """Make the list that a command of MAKERS asks for, or the descriptors of `describe`, and write it to `output`.

    failures: where to write what cannot be used, .parquet. dry_run: write nothing. chosen: arguments of the function.
    Returns what was made, for a person. Raises `PairListError`, DescriptorError, StorageError, RunError or
    CheckpointError, each one sentence; a wrong ending before any work.
    """
    if not dry_run:
        if output is None:
            raise PairListError("give --output, the list to write, or --dry-run.")
        if command != "describe":
            format_of(output, format)
        if failures is not None and not failures.endswith(".parquet"):
            raise PairListError(f"{redacted(failures)}: failures are a table; give a .parquet file.")
    if command == "describe":
        assert output is not None
        described = describe(output=output, storage=storage, **chosen)
        bad, dimensions = described.failures, described.vectors.shape[1]
        text = report([("described", f"{len(described.names):,} images, {dimensions:,} numbers each"), *unusable(bad)])
    else:
        names, found = MAKERS[command](storage=storage, **chosen)
        bad, text = found.failures, plan_text(names, found)
        if not dry_run:
            assert output is not None
            write_list(output, names, found, format, storage)
    if dry_run:
        return text
    if failures is not None:
        folder, name = Folder.of_file(failures, storage)
        folder.publish_table(name, bad)
    return text + report([("results", redacted(output))])


def report(lines: list[tuple[str, str]]) -> str:
    """Names and values, aligned."""
    return "".join(f"{name + ':':14}{value}\n" for name, value in lines)


def plan_text(names: Names, found: PairList) -> str:
    """What a list holds, for a person: a few aligned lines."""
    images, pairs = len(names), len(found.pairs)
    partners = np.bincount(found.pairs.ravel(), minlength=images)
    used = partners[partners > 0]
    lines = [("images", f"{images:,}, of which {len(used):,} are in a pair")]
    lines.append(("pairs", f"{pairs:,} of {images * (images - 1) // 2:,}"))
    if pairs:
        lines.append(("partners", f"{used.min():,} to {used.max():,} an image, median {int(np.median(used)):,}"))
    if found.scores is not None and pairs:
        known = found.scores[~np.isnan(found.scores)]
        lines.append(("scores", f"{known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}"))
    if found.duplicates:
        lines.append(("repeated", f"{found.duplicates:,}, written once"))
    lines += unusable(found.failures)
    return report(lines)


def unusable(failures: pa.Table) -> list[tuple[str, str]]:
    """Failures by reason, with the first of each, as lines of a report."""
    reasons = Counter(failures["reason"].to_pylist())
    firsts = {row["reason"]: row for row in reversed(failures.to_pylist())}
    return [("unusable", f"{count:,} {reason} ({_case(firsts[reason])})") for reason, count in sorted(reasons.items())]


def first_reason(failures: pa.Table) -> str:
    """The first failure, for a message."""
    rows = failures.slice(0, 1).to_pylist()
    return _case(rows[0]) if rows else "there is no failure"


def _case(failure: dict[str, Any]) -> str:
    image = failure["image0"]  # a malformed line of a list has none
    return failure["detail"] if image is None else f"{image}: {failure['detail']}"
