"""The pairs of runs as columns for the page, which of them it draws, and two runs compared."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.turns.tries import SIDES, Settled
from pipeline.store.folder import Folder
from pipeline.tables import unragged
from pipeline.vocabulary import (
    MEANINGS,
    REFUSED_GEOMETRIES,
    VERIFIED,
    CandidateStatus,
    Geometry,
    Status,
)

# What the page calls the state of a pair. Unverified: matched, and refused by verification.
PAIR_KINDS = (
    CandidateStatus.VERIFIED.value,
    CandidateStatus.UNVERIFIED.value,
    Status.UNMATCHED.value,
    Status.FAILED.value,
)
GEOMETRIES = [word.value for word in Geometry]
COLUMNS = (*SIDES, "status", "reason", "geometry", "num_inliers", "scores", "pose")
POINT_COLUMNS = ("keypoints0", "keypoints1", "scores", "inliers")
MOST_PAIRS = 100_000  # rows of the page
GROUPS = {"best": 12, "worst": 12, "random": 24, "unverified": 12}  # pairs with photographs
MOST_DRAWN = 800  # pairs with points
MOST_POINTS = 250  # matches of a pair that are drawn
STEPS = 65_535  # of a coordinate over the side of an image
MOST_COMPARED = 3_000  # pairs that are listed, those with the largest difference
MOST_DOTS = 5_000  # pairs in the plot of inliers against inliers


@dataclass(frozen=True)
class PairRows:
    """P pairs of N images, each once.

    names: of the images, sorted. first, second: (P,) int32, indices into them.
    kind: (P,) int8, index into PAIR_KINDS.
    geometry: (P,) int8, index into GEOMETRIES, −1 where it is not known.
    reason: (P,) int8, index into `reasons`, −1 for none. matches, inliers: (P,) int32.
    angle: (P,) float32, degrees by which the cameras are turned; NaN where no pose is known.
    tables: what reads the matches again. table, row: (P,) int32, where a pair stands in these.
    """

    names: list[str]
    first: np.ndarray
    second: np.ndarray
    kind: np.ndarray
    geometry: np.ndarray
    reason: np.ndarray
    matches: np.ndarray
    inliers: np.ndarray
    angle: np.ndarray
    reasons: list[str]
    tables: list[tuple[Settled, str]]
    table: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    @property
    def verified(self) -> np.ndarray:
        """(P,) bool."""
        return np.asarray(self.kind == 0)

    @property
    def ratio(self) -> np.ndarray:
        """(P,) float64: inliers as a share of the matches, 0 where there is no match."""
        return np.asarray(self.inliers / np.maximum(self.matches, 1))


class _Words:
    """Numbers of words, in the order in which they are met."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def of(self, column: pa.ChunkedArray) -> np.ndarray:
        """The number of every word of a column, −1 for null."""
        encoded = column.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        known = [
            self.number.setdefault(word, len(self.number))
            for word in encoded.dictionary.to_pylist()
        ]
        indices = encoded.indices.fill_null(len(known)).to_numpy()
        return np.asarray(np.array([*known, -1], np.int32)[indices])


def pair_rows(runs: Sequence[Folder], names: Sequence[str] = ()) -> PairRows:
    """Read the pairs of runs.

    names: images that count even where they stand in no pair.
    """
    images, reasons = _Words(), _Words()
    for name in names:
        images.number.setdefault(name, len(images.number))
    tables = [(settled, name) for settled in map(Settled.of, runs) for name in settled.names]
    parts = [
        _columns(settled.read(name, COLUMNS), number, images, reasons)
        for number, (settled, name) in enumerate(tables)
    ]
    empty = _columns(
        pa.table({name: pa.nulls(0, _KINDS[name]) for name in COLUMNS}), 0, *2 * [_Words()]
    )
    joined = {key: np.concatenate([part[key] for part in [empty, *parts]]) for key in empty}
    ordered = sorted(images.number)
    place = np.empty(len(ordered), np.int32)
    place[[images.number[name] for name in ordered]] = np.arange(len(ordered))
    for side in ("first", "second"):
        joined[side] = place[joined[side]]
    return PairRows(names=ordered, reasons=list(reasons.number), tables=tables, **joined)


_KINDS = {
    **dict.fromkeys((*SIDES, "status", "reason", "geometry"), pa.string()),
    "num_inliers": pa.int32(),
    "scores": pa.list_(pa.float32()),
    "pose": pa.list_(pa.float64(), 7),
}


def _columns(
    table: pa.Table, number: int, images: _Words, reasons: _Words
) -> dict[str, np.ndarray]:
    """The columns of PairRows of one table of MATCHES; images by their numbers in `images`."""
    inliers = pc.fill_null(table["num_inliers"], 0).to_numpy().astype(np.int32)
    geometry = pc.index_in(table["geometry"], value_set=pa.array(GEOMETRIES, pa.string()))
    verified = pc.is_in(table["geometry"], pa.array(VERIFIED, pa.string()))
    status = table["status"].to_numpy(zero_copy_only=False)
    kind = np.select(
        [status == Status.FAILED, status == Status.UNMATCHED, verified.to_numpy()], [3, 2, 0], 1
    )
    matches = pc.fill_null(pc.list_value_length(table["scores"]), 0)
    return {
        "first": images.of(table["image0"]),
        "second": images.of(table["image1"]),
        "kind": kind.astype(np.int8),
        "geometry": pc.fill_null(geometry, -1).to_numpy().astype(np.int8),
        "reason": reasons.of(table["reason"]).astype(np.int8),
        "matches": matches.to_numpy().astype(np.int32),
        "inliers": inliers,
        "angle": _angles(table["pose"]),
        "table": np.full(table.num_rows, number, np.int32),
        "row": np.arange(table.num_rows, dtype=np.int32),
    }


def _angles(column: pa.ChunkedArray) -> np.ndarray:
    """Degrees by which the cameras of poses are turned, (n,) float32; NaN where there is none."""
    angles = np.full(len(column), np.nan, np.float32)
    poses = column.combine_chunks()
    poses = poses.combine_chunks() if isinstance(poses, pa.ChunkedArray) else poses
    known = poses.is_valid().to_numpy(zero_copy_only=False)
    if known.any():
        real = np.abs(poses.flatten().to_numpy().reshape(-1, 7)[:, 3])
        angles[known] = np.degrees(2 * np.arccos(np.minimum(real, 1)))
    return angles


def shown_rows(pairs: PairRows) -> np.ndarray:
    """Rows of the pairs that the page lists: all, or an even sample, the same at every call."""
    if len(pairs) <= MOST_PAIRS:
        return np.arange(len(pairs))
    picked = [row for rows in picked_rows(pairs).values() for row in rows]
    order = np.array([*picked, *np.random.default_rng(0).permutation(len(pairs))])
    _, first = np.unique(order, return_index=True)
    return np.sort(order[np.sort(first)][:MOST_PAIRS])


def picked_rows(pairs: PairRows) -> dict[str, list[int]]:
    """Rows of the pairs that are drawn with their photographs, by the names of GROUPS.

    best, worst: the verified ones with the most and fewest inliers. random: of all with matches.
    unverified: those that verification refused, with most matches first. No pair stands twice.
    """
    verified = np.flatnonzero(pairs.verified)
    by_inliers = verified[np.argsort(-pairs.inliers[verified], kind="stable")]
    refused = np.flatnonzero(pairs.kind == 1)
    refused = refused[np.argsort(-pairs.matches[refused], kind="stable")]
    matched = np.random.default_rng(0).permutation(np.flatnonzero(pairs.kind <= 1))
    orders = {
        "best": by_inliers,
        "worst": by_inliers[::-1],
        "unverified": refused,
        "random": matched,
    }
    used: set[int] = set()
    groups: dict[str, list[int]] = {}
    for name, order in orders.items():
        rows = [int(row) for row in order[: 4 * sum(GROUPS.values())] if int(row) not in used]
        groups[name] = rows[: GROUPS[name]]
        used |= {*groups[name]}
    return groups


def pair_table(pairs: PairRows, rows: np.ndarray) -> dict[str, Any]:
    """The columns of some pairs, ready for JSON.

    total: how many pairs there are in all. meanings: of reasons, and of geometries without inliers.
    """
    angle = pairs.angle[rows]
    return {
        "total": len(pairs),
        "kinds": [*PAIR_KINDS],
        "geometries": GEOMETRIES,
        "reasons": pairs.reasons,
        "meanings": {
            str(word): text for word, text in (*REFUSED_GEOMETRIES.items(), *MEANINGS.items())
        },
        "first": pairs.first[rows].tolist(),
        "second": pairs.second[rows].tolist(),
        "kind": pairs.kind[rows].tolist(),
        "geometry": pairs.geometry[rows].tolist(),
        "reason": pairs.reason[rows].tolist(),
        "matches": pairs.matches[rows].tolist(),
        "inliers": pairs.inliers[rows].tolist(),
        "angle": [round(float(a), 1) if np.isfinite(a) else None for a in angle],
    }


def drawn_rows(
    pairs: PairRows, picked: Mapping[str, Sequence[int]], shown: np.ndarray
) -> list[int]:
    """Rows whose points stand in the page: the picked ones, and others of the same tables.

    Only tables that hold a picked pair are read again, so that the time does not grow with the run.
    """
    first = [row for rows in picked.values() for row in rows]
    near = shown[np.isin(pairs.table[shown], pairs.table[first]) & (pairs.kind[shown] <= 1)]
    more = np.setdiff1d(near, first)
    more = np.random.default_rng(0).permutation(more)[: max(0, MOST_DRAWN - len(first))]
    return [*first, *(int(row) for row in more)]


def pair_points(
    pairs: PairRows, rows: Sequence[int], sizes: Mapping[str, tuple[int, int]]
) -> dict[int, str]:
    """The matches of pairs, base64 of 10 bytes each: x0 y0 x1 y1 as uint16, score and inlier uint8.

    Coordinates run over the image: 0 is its left or upper edge and STEPS the opposite one. Of more
    than MOST_POINTS matches a sample is taken. sizes: width and height of images, by name. A pair
    whose sizes are not known is left out.
    """
    found: dict[int, str] = {}
    for number in np.unique(pairs.table[list(rows)]) if len(rows) else []:
        settled, name = pairs.tables[number]
        mine = [row for row in rows if pairs.table[row] == number]
        table = settled.read(name, POINT_COLUMNS).take(pa.array(pairs.row[mine]))
        columns = [unragged(table[column]) for column in POINT_COLUMNS]
        for row, points0, points1, scores, inliers in zip(mine, *columns, strict=True):
            both = [sizes.get(pairs.names[k]) for k in (pairs.first[row], pairs.second[row])]
            if both[0] and both[1] and len(scores):
                points = np.hstack([_steps(points0, both[0]), _steps(points1, both[1])])
                found[int(row)] = _packed(points, scores, inliers)
    return found


def _steps(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.clip((points + 0.5) / size * STEPS, 0, STEPS).round().astype("<u2")


def _packed(points: np.ndarray, scores: np.ndarray, inliers: np.ndarray) -> str:
    inliers = inliers if len(inliers) else np.zeros(len(scores), bool)
    chosen = np.sort(np.random.default_rng(0).permutation(len(scores))[:MOST_POINTS])
    packed = np.empty(len(chosen), [("points", "<u2", 4), ("score", "u1"), ("inlier", "u1")])
    packed["points"] = points[chosen]
    packed["score"] = np.clip(scores[chosen] * 255, 0, 255)
    packed["inlier"] = inliers[chosen]
    return base64.b64encode(packed.tobytes()).decode()


def compared_pairs(first: PairRows, second: PairRows) -> dict[str, Any]:
    """The pairs that two runs have in common, ready for JSON.

    Images are the same where their names are. gained, lost: pairs that are verified in the second
    or the first run alone. rows: pairs whose inliers differ, the largest difference first.
    """
    rows, others = _common(first, second)
    mine, theirs = first.inliers[rows], second.inliers[others]
    difference = theirs.astype(np.int64) - mine
    verified = first.verified[rows], second.verified[others]
    order = np.argsort(-np.abs(difference), kind="stable")
    order = order[difference[order] != 0][:MOST_COMPARED]
    dots = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST_DOTS])
    return {
        "common": len(rows),
        "only_first": len(first) - len(rows),
        "only_second": len(second) - len(rows),
        "gained": int((verified[1] & ~verified[0]).sum()),
        "lost": int((verified[0] & ~verified[1]).sum()),
        "more": int((difference > 0).sum()),
        "fewer": int((difference < 0).sum()),
        "inliers": [int(mine.sum()), int(theirs.sum())],
        "matches": [int(first.matches[rows].sum()), int(second.matches[others].sum())],
        "dots": [mine[dots].tolist(), theirs[dots].tolist()],
        "kinds": [*PAIR_KINDS],
        "rows": [
            {
                "images": [first.names[first.first[a]], first.names[first.second[a]]],
                "matches": [int(first.matches[a]), int(second.matches[b])],
                "inliers": [int(first.inliers[a]), int(second.inliers[b])],
                "kind": [int(first.kind[a]), int(second.kind[b])],
            }
            for a, b in zip(rows[order].tolist(), others[order].tolist(), strict=True)
        ],
    }


def _common(first: PairRows, second: PairRows) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pairs that both have, in both, in whatever order a pair names its images."""
    place = {name: number for number, name in enumerate(first.names)}
    number = np.array([place.get(name, -1) for name in second.names], np.int64)
    keys = []
    for ends in ((first.first, first.second), (number[second.first], number[second.second])):
        low, high = np.minimum(*ends).astype(np.int64), np.maximum(*ends).astype(np.int64)
        key = low * len(first.names) + high
        keys.append(np.where(low < 0, -1 - np.arange(len(key)), key))  # -1 …: of one run alone
    _, rows, others = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    return rows, others
