"""Which pairs to match: one function for each way to choose them, which returns names and pairs.

Every list is in canonical order (`pairs.canonical`) and without duplicates; similarities are its
scores. Candidates of queries, for `eloftr rerank`, have an order and a direction instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict, cast

import numpy as np
import pyarrow as pa

from pipeline.errors import PairListError
from pipeline.events import Listener, nobody
from pipeline.names.resolve import NameRules, Resolver, roots_of
from pipeline.pairs.candidates import Candidates
from pipeline.pairs.covisibility import shared_points, transitive
from pipeline.pairs.formats import (
    ENDINGS,
    MOST,
    OF_CANDIDATES,
    format_of,
    minus,
    read_lists,
    sample,
    union,
    write_candidates,
    write_list,
)
from pipeline.pairs.pair_list import PairList, exhaustive
from pipeline.pairs.poses.overlap import looking_alike
from pipeline.pairs.poses.read import read_poses
from pipeline.pairs.retrieval import (
    case,
    compared,
    describe,
    first_reason,
    images_of,
    plan_retrieval,
)
from pipeline.pairs.sequential import closures, overlaps, sequences
from pipeline.pairs.spatial import (
    exif_positions,
    neighbours,
    position_failures,
    read_positions,
)
from pipeline.store.folder import Folder, Names
from pipeline.store.retries import redacted
from pipeline.tables import CANDIDATES, FAILURES
from pipeline.vocabulary import DEFAULT_WEIGHTS

NamedPairs = tuple[Names, PairList]


def plan_exhaustive(images: str, storage: dict[str, Any]) -> NamedPairs:
    """All pairs of a folder. `PairListError` where they are more than one list may hold."""
    names = images_of(images, storage)
    count = len(names) * (len(names) - 1) // 2
    if count > MOST:
        raise PairListError(
            f"{len(names):,} images have {count:,} pairs, and a list holds {MOST:,}; plan fewer."
        )
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
    weights: str = DEFAULT_WEIGHTS,
    reduce: int | None = None,
    listen: Listener = nobody,
) -> NamedPairs:
    """Photographs taken one after another, see `pipeline.pairs.sequential`.

    loop_closure: images each is closed with, or 0.
    """
    names = images_of(images, storage)
    taken = sequences(names, across_folders)
    found = overlaps(taken, window, quadratic)
    if loop_closure:
        (described,) = compared([(images, descriptors)], storage, weights, reduce, listen)
        found = union(
            [found, closures(taken, names, described, loop_closure, loop_every, loop_gap)]
        )
    return names, replace(found, duplicates=0)


def plan_spatial(
    images: str | None,
    storage: dict[str, Any],
    positions: str | None = None,
    nearest: int | None = None,
    radius: float | None = None,
    height: bool = False,
) -> NamedPairs:
    """Photographs taken near each other, see `positions.neighbours`.

    positions: a table of them; None reads the EXIF data of the images. images: may be None with a
    table, whose images are then all used.
    """
    if images is None and positions is None:
        raise PairListError("give --images, --positions or both.")
    names = None if images is None else images_of(images, storage)
    if positions is not None:
        known = None if names is None else Resolver(names, NameRules(roots=roots_of(str(images))))
        found = read_positions(positions, names, height, storage, known)
    else:
        assert images is not None
        assert names is not None
        found = exif_positions(Folder(images, storage), names, height)
    if len(found.names) < 2:
        first = first_reason(found.failures)
        cure = "give a table of them by --positions" if positions is None else "correct the table"
        raise PairListError(
            f"{len(found.names)} images have a position ({first}), and a pair needs two; {cure}."
        )
    return found.names, neighbours(found, nearest, radius)


def plan_poses(
    poses: str,
    storage: dict[str, Any],
    images: str | None = None,
    nearest: int = 20,
    angle: float = 60.0,
    radius: float | None = None,
) -> NamedPairs:
    """Photographs with known poses that look the same way, see `overlap.looking_alike`.

    images: the folder that the names are of; None takes the images as the file names them. An image
    of the folder without a pose becomes a failure `no_position`.
    """
    names = None if images is None else images_of(images, storage)
    known = None if names is None else Resolver(names, NameRules(roots=roots_of(str(images))))
    found = read_poses(poses, storage, known)
    if found.poses is None:
        raise PairListError(
            f"{poses}: has positions and no rotations; give --positions of eloftr pairs spatial."
        )
    good = found.poses.known()
    row = {name: number for number, name in enumerate(found.names) if good[number]}
    chosen = sorted(row.keys() if names is None else row.keys() & {*names})
    lacking = {name: f"{found.file} has no pose of it" for name in names or () if name not in row}
    if len(chosen) < 2:
        raise PairListError(
            f"{poses}: has poses of {len(chosen)} of the images, and a pair needs two; "
            "give the names of the photographs."
        )
    listed = looking_alike(
        found.poses.of(np.array([row[name] for name in chosen])), nearest, angle, radius
    )
    return chosen, replace(listed, failures=position_failures(lacking))


def plan_covisibility(
    model: str, storage: dict[str, Any], min_shared: int = 15, top_k: int | None = 20
) -> NamedPairs:
    """Images that see the same points of a COLMAP model, see `covisibility.shared_points`."""
    return shared_points(Folder(model, storage), min_shared, top_k)


def plan_transitive(run: str, storage: dict[str, Any], steps: int = 2) -> NamedPairs:
    """Images that verified matches of a run connect, see `covisibility.transitive`.

    steps: 0 for any number.
    """
    return transitive(Folder(run, storage), steps or None)


def plan_union(lists: list[str], images: str | None, storage: dict[str, Any]) -> NamedPairs:
    """Every pair of any of the lists.

    images: the folder that they are of; None takes the names as they are.
    """
    names, found = _read(lists, images, storage)
    return names, union(found)


def plan_minus(lists: list[str], images: str | None, storage: dict[str, Any]) -> NamedPairs:
    """The pairs of the first list that none of the others has."""
    names, found = _read(lists, images, storage)
    return names, minus(found[0], found[1:])


def plan_sample(
    list: str,
    images: str | None,
    storage: dict[str, Any],
    count: int,
    seed: int = 0,
    best: bool = False,
) -> NamedPairs:
    """`count` pairs of a list, see `lists.sample`."""
    names, (found,) = _read([list], images, storage)
    return names, sample(found, count, seed, best)


def _read(
    lists: Sequence[str], images: str | None, storage: dict[str, Any]
) -> tuple[Names, list[PairList]]:
    """Lists of the photographs of a folder, or with the names that they have."""
    if not images:
        return read_lists(lists, None, storage)
    rules = NameRules(roots=roots_of(images))
    return read_lists(lists, images_of(images, storage), storage, rules)


MAKERS: dict[str, Callable[..., tuple[Names, PairList | Candidates]]] = {
    "exhaustive": plan_exhaustive,
    "sequential": plan_sequential,
    "retrieval": plan_retrieval,
    "spatial": plan_spatial,
    "poses": plan_poses,
    "covisibility": plan_covisibility,
    "transitive": plan_transitive,
    "union": plan_union,
    "minus": plan_minus,
    "sample": plan_sample,
}

WATCHED = ("sequential", "retrieval")  # the methods that may describe images, which takes long


class Spread(TypedDict):
    """The smallest, largest and median value of some."""

    least: float
    most: float
    median: float


class Unusable(TypedDict):
    """Images or lines that cannot be used for one reason: how many, and the first."""

    count: int
    first: str


class ListSummary(TypedDict):
    """What a list holds.

    kind: `pairs` or `candidates`. images: of the folder or lists, or the queries of candidates;
    used: those that are in a pair or have candidates. count: of pairs or candidates. partners: of
    an image, or candidates of a query. repeated: pairs that the input has several times. unusable:
    by reason. results: the file; None of a dry run.
    """

    kind: str
    images: int
    used: int
    count: int
    partners: Spread | None
    scores: Spread | None
    repeated: int
    unusable: dict[str, Unusable]
    results: str | None


class DescriptorsSummary(TypedDict):
    """What `describe_folder` wrote. dimensions: numbers of a descriptor. results: the file."""

    described: int
    dimensions: int
    unusable: dict[str, Unusable]
    results: str


def plan(
    method: str,
    storage: dict[str, Any],
    output: str | None = None,
    format: str | None = None,
    failures: str | None = None,
    dry_run: bool = False,
    listen: Listener = nobody,
    **chosen: Any,
) -> ListSummary:
    """Make the list that a method of MAKERS chooses, and write it to `output`.

    storage: options of the fsspec filesystems. format: one of FORMATS; None goes by the ending of
    `output`. failures: where to write what cannot be used, .parquet. dry_run: write nothing.
    chosen: arguments of the function. Raises `PairListError`, DescriptorError, StorageError,
    RunError or CheckpointError, each one sentence; for a wrong ending before any work.
    """
    if not dry_run:
        if output is None:
            raise PairListError("give --output, the list to write, or --dry-run.")
        format_of(output, format, OF_CANDIDATES if chosen.get("queries") else ENDINGS)
        _check_failures(failures)
    if method in WATCHED:
        chosen["listen"] = listen
    names, found = MAKERS[method](storage=storage, **chosen)
    summary = summarised(names, found)
    if dry_run or output is None:
        return summary
    if isinstance(found, Candidates):
        columns = [found.query, found.candidate, found.score]
        write_candidates(output, pa.table(columns, schema=CANDIDATES), format, storage)
    else:
        write_list(output, names, found, format, storage)
    _write_failures(failures, found.failures, storage)
    summary["results"] = redacted(output)
    return summary


def describe_folder(
    images: str,
    output: str,
    storage: dict[str, Any],
    weights: str = DEFAULT_WEIGHTS,
    failures: str | None = None,
    listen: Listener = nobody,
) -> DescriptorsSummary:
    """Write descriptors of a folder's images, made by the matcher's own backbone, to `output`.

    Other arguments and errors as of `plan`.
    """
    _check_failures(failures)
    described = describe(images, output, storage, weights, listen)
    _write_failures(failures, described.failures, storage)
    return {
        "described": len(described.names),
        "dimensions": described.vectors.shape[1],
        "unusable": by_reason(described.failures),
        "results": redacted(output),
    }


def _check_failures(failures: str | None) -> None:
    if failures is not None and not failures.endswith(".parquet"):
        raise PairListError(f"{redacted(failures)}: failures are a table; give a .parquet file.")


def _write_failures(failures: str | None, table: pa.Table, storage: dict[str, Any]) -> None:
    if failures is not None:
        folder, name = Folder.of_file(failures, storage)
        folder.publish_table(name, table)


def summarised(names: Names, found: PairList | Candidates) -> ListSummary:
    """What a list holds, in numbers. names: of the images, or of the queries."""
    if isinstance(found, Candidates):
        kind, partners = "candidates", np.diff(found.starts)
        scores, count = found.score.to_numpy(), len(found.score)
    else:
        kind, partners = "pairs", np.bincount(found.pairs.ravel(), minlength=len(names))
        partners = partners[partners > 0]
        scores, count = found.scores, len(found.pairs)
    return {
        "kind": kind,
        "images": len(names),
        "used": len(partners),
        "count": count,
        "partners": _spread(partners),
        "scores": None if scores is None else _spread(scores[~np.isnan(scores)]),
        "repeated": found.duplicates,
        "unusable": by_reason(found.failures),
        "results": None,
    }


def _spread(values: np.ndarray) -> Spread | None:
    """None where there are no values."""
    if not len(values):
        return None
    ends = {"least": values.min(), "most": values.max(), "median": np.median(values)}
    return cast(Spread, {name: value.item() for name, value in ends.items()})


def by_reason(failures: pa.Table) -> dict[str, Unusable]:
    """Failures by their reasons, in alphabetical order."""
    reasons = Counter(failures["reason"].to_pylist())
    firsts = {row["reason"]: row for row in reversed(failures.to_pylist())}
    return {
        reason: {"count": count, "first": case(firsts[reason])}
        for reason, count in sorted(reasons.items())
    }
