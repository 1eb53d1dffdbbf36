"""The results of localizing: a table, hloc's text, and a summary."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.photos.sizes import resize_factor
from pipeline.store.folder import Folder
from pipeline.vocabulary import PoseStatus

ROUGH = 1.0  # pixels of what the network sees; true queries had 0.24 to 0.95
NUMBERS = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")


class LocalizeSummary(TypedDict):
    """Counts of a localization.

    reasons: queries without a pose by reason. cameras: localized queries by where their camera is
    from. inliers, error: medians of the localized queries, None where there are none; pixels.
    largest_error: pixels.
    matching: the summary of the run, empty where there was nothing to match. seconds: of this
    command; placing: those of them after matching. results: the folder.
    """

    queries: int
    localized: int
    refused: int
    failed: int
    reasons: dict[str, int]
    cameras: dict[str, int]
    inliers: float | None
    error: float | None
    largest_error: float | None
    matching: dict[str, Any]
    notes: list[str]
    seconds: float
    placing: float
    results: str


def publish_poses(
    folder: Folder,
    poses: pa.Table,
    matching: dict[str, Any],
    notes: list[str],
    seconds: dict[str, float],
) -> LocalizeSummary:
    """Write the table of POSES, the poses as hloc writes them, and the summary, which is returned.

    seconds: of the command and of placing.
    """
    status = Counter(poses["status"].to_pylist())
    placed = poses.filter(pc.equal(poses["status"], PoseStatus.LOCALIZED.value))
    summary = {
        "queries": poses.num_rows,
        **{word.value: status[word.value] for word in PoseStatus},
        "reasons": dict(sorted(Counter(poses["reason"].drop_null().to_pylist()).items())),
        "cameras": dict(sorted(Counter(placed["camera_source"].to_pylist()).items())),
        **{name: _median(placed[name]) for name in ("inliers", "error")},
        "largest_error": pc.max(placed["error"]).as_py(),
        "matching": matching,
        "notes": notes,
        **seconds,
        "results": folder.shown,
    }
    folder.publish_table("poses.parquet", poses)
    folder.publish("poses.txt", hloc_text(placed).encode())
    folder.publish_json("summary.json", summary)
    return cast(LocalizeSummary, summary)


def hloc_text(placed: pa.Table) -> str:
    """A line for every localized query, `name qw qx qy qz tx ty tz`, world to camera."""
    return "".join(
        " ".join([row["query"], *(repr(row[name]) for name in NUMBERS)]) + "\n"
        for row in placed.select(["query", *NUMBERS]).to_pylist()
    )


def doubtful(poses: pa.Table, long_side: int) -> list[str]:
    """A sentence on localized queries whose points agree only roughly, if there are any.

    poses: POSES. long_side: pixels of the longer side that the network saw.
    """
    placed = poses.filter(pc.equal(poses["status"], PoseStatus.LOCALIZED.value))
    width, height, error = (placed[name].to_numpy() for name in ("width", "height", "error"))
    rough = np.flatnonzero(error > ROUGH * resize_factor(width, height, long_side))
    if not len(rough):
        return []
    return [
        f"The error of {len(rough):,} of {placed.num_rows:,} localized queries is above {ROUGH:g} "
        f"pixel of what the network sees, {placed['query'][rough[0]].as_py()} for one; its camera "
        "may be wrong, as that of a cropped photograph."
    ]


def _median(column: pa.ChunkedArray) -> float | None:
    return float(np.median(column.to_numpy())) if len(column) else None
