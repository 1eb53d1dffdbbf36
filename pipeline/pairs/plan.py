"""Which pairs to match: one function for each way to choose them, from folders and files to names and a PairList.

Every list is in canonical order (`pairs.canonical`) and without duplicates; similarities are its scores. Candidates of
queries, for `jobs/rerank.py`, have an order and a direction instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import PairListError
from pipeline.events import Listener, nobody
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
from pipeline.pairs.retrieval import (
    case,
    compared,
    describe,
    first_reason,
    images_of,
    plan_retrieval,
)
from pipeline.pairs.sequential import closures, overlaps, sequences
from pipeline.pairs.spatial import exif_positions, neighbours, read_positions
from pipeline.store.folder import Folder, Names
from pipeline.store.retries import redacted
from pipeline.tables import CANDIDATES, FAILURES

Plan = tuple[Names, PairList]


def plan_exhaustive(images: str, storage: dict[str, Any]) -> Plan:
    """All pairs of a folder. `PairListError` where they are more than one list may hold."""
    names = images_of(images, storage)
    count = len(names) * (len(names) - 1) // 2
    if count > MOST:
        raise PairListError(
            f"{len(names):,} images have {count:,} pairs, too many for a list ({MOST:,}); plan fewer."
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
    weights: str = "small",
    reduce: int | None = None,
    listen: Listener = nobody,
) -> Plan:
    """Photographs taken one after another, see `pipeline.pairs.sequential`. loop_closure: images each is closed with, or 0."""
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
        raise PairListError(
            f"{len(found.names)} images have a position ({first}), and a pair needs two."
        )
    return found.names, neighbours(found, nearest, radius)


def plan_covisibility(
    model: str, storage: dict[str, Any], min_shared: int = 15, top_k: int | None = 20
) -> Plan:
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
    list: str,
    images: str | None,
    storage: dict[str, Any],
    count: int,
    seed: int = 0,
    best: bool = False,
) -> Plan:
    """`count` pairs of a list, see `lists.sample`."""
    names, (found,) = read_lists([list], images_of(images, storage) if images else None, storage)
    return names, sample(found, count, seed, best)


MAKERS: dict[str, Callable[..., tuple[Names, PairList | Candidates]]] = {
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

WATCHED = (
    "sequential",
    "retrieval",
    "describe",
)  # the commands that may describe images, which takes long


def plan(
    command: str,
    storage: dict[str, Any],
    output: str | None = None,
    format: str | None = None,
    failures: str | None = None,
    dry_run: bool = False,
    listen: Listener = nobody,
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
            format_of(output, format, OF_CANDIDATES if chosen.get("queries") else ENDINGS)
        if failures is not None and not failures.endswith(".parquet"):
            raise PairListError(
                f"{redacted(failures)}: failures are a table; give a .parquet file."
            )
    if command in WATCHED:
        chosen["listen"] = listen
    if command == "describe":
        assert output is not None
        described = describe(output=output, storage=storage, **chosen)
        bad, dimensions = described.failures, described.vectors.shape[1]
        text = report(
            [
                ("described", f"{len(described.names):,} images, {dimensions:,} numbers each"),
                *unusable(bad),
            ]
        )
    else:
        names, found = MAKERS[command](storage=storage, **chosen)
        bad, text = found.failures, plan_text(names, found)
        if dry_run:
            return text
        assert output is not None
        if isinstance(found, Candidates):
            columns = [found.query, found.candidate, found.score]
            write_candidates(output, pa.table(columns, schema=CANDIDATES), format, storage)
        else:
            write_list(output, names, found, format, storage)
    if failures is not None:
        folder, name = Folder.of_file(failures, storage)
        folder.publish_table(name, bad)
    return text + report([("results", redacted(output))])


def report(lines: list[tuple[str, str]]) -> str:
    """Names and values, aligned."""
    return "".join(f"{name + ':':14}{value}\n" for name, value in lines)


def plan_text(names: Names, found: PairList | Candidates) -> str:
    """What a list holds, for a person: a few aligned lines. names: of the images, or of the queries."""
    count = len(names)
    if isinstance(found, Candidates):
        partners, scores = np.diff(found.starts), found.score.to_numpy()
        lines = [("queries", f"{count:,}, of which {len(partners):,} have candidates")]
        lines.append(("candidates", f"{len(scores):,}"))
        each = "a query"
    else:
        partners, scores = np.bincount(found.pairs.ravel(), minlength=count), found.scores
        partners = partners[partners > 0]
        lines = [("images", f"{count:,}, of which {len(partners):,} are in a pair")]
        lines.append(("pairs", f"{len(found.pairs):,} of {count * (count - 1) // 2:,}"))
        each = "an image"
    if len(partners):
        spread = (
            f"{partners.min():,} to {partners.max():,} {each}, median {int(np.median(partners)):,}"
        )
        lines.append(("partners", spread))
    if scores is not None and len(scores):
        known = scores[~np.isnan(scores)]
        lines.append(
            ("scores", f"{known.min():.4g} to {known.max():.4g}, median {np.median(known):.4g}")
        )
    if found.duplicates:
        lines.append(("repeated", f"{found.duplicates:,}, written once"))
    lines += unusable(found.failures)
    return report(lines)


def unusable(failures: pa.Table) -> list[tuple[str, str]]:
    """Failures by reason, with the first of each, as lines of a report."""
    reasons = Counter(failures["reason"].to_pylist())
    firsts = {row["reason"]: row for row in reversed(failures.to_pylist())}
    return [
        ("unusable", f"{count:,} {reason} ({case(firsts[reason])})")
        for reason, count in sorted(reasons.items())
    ]
