"""What a run was asked, how far it is, where its time went and what failed, as tables."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipeline.errors import StorageError
from pipeline.match.run import (
    MARKER_THREADS,
    PLAN_FILE,
    RUN_FILE,
    SUMMARY_FILE,
    finished_shards,
)
from pipeline.match.turns.tries import of_later_round
from pipeline.report.page.pairs import PAIR_KINDS, PairRows
from pipeline.store.folder import Folder
from pipeline.store.lease import at_work
from pipeline.vocabulary import MEANINGS, StageName

BINS = 40
NAMED = 100  # failures of a reason that are listed
MOST_TIMES = 500  # points of the curve of finished pairs
SPREAD = 99.5  # per cent of the values that the bins of a histogram cover


def run_state(runs: Sequence[Folder], top: Folder) -> dict[str, Any]:
    """How far runs are: `finished`, `going` or `stopped`, and their shards and pairs.

    top: the folder that a command locks and writes its summary to.
    """
    planned = done = shards = 0
    for run in runs:
        if run.exists(PLAN_FILE):
            table = run.read_table(PLAN_FILE, ["shard", "pairs"])
            planned += sum(len(of_shard) for of_shard in table["pairs"])
            shards += table.num_rows
        done += sum(not of_later_round(name) for name in finished_shards(run))
    whole = top.exists(SUMMARY_FILE) and done >= shards
    going = any(at_work(folder) for folder in {top.url: top, **{r.url: r for r in runs}}.values())
    state = "going" if going else "finished" if whole else "stopped"
    return {"state": state, "shards": shards, "done_shards": done, "planned_pairs": planned}


def planned_images(runs: Sequence[Folder]) -> set[str]:
    """Names of the images that stand in a planned pair."""
    names: set[str] = set()
    for run in runs:
        if run.exists(PLAN_FILE):
            column = run.read_table(PLAN_FILE, ["images"])["images"].combine_chunks()
            names.update(column.flatten().unique().to_pylist())
    return names


def images_read(runs: Sequence[Folder]) -> dict[str, dict[str, Any]]:
    """Rows of IMAGES by name: the size of an image, its camera and focal length."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name in run.names("images"):
            columns = ["image", "width", "height", "orientation", "focal", "camera"]
            found |= {row["image"]: row for row in run.read_table(name, columns).to_pylist()}
    return found


def failure_tables(runs: Sequence[Folder], pairs: PairRows) -> list[dict[str, Any]]:
    """Failures by what failed and why, the most frequent first.

    of: `images`, `pairs` or `lines` of the list. names: the first NAMED of them, each with a
    sentence that says what was wrong.
    """
    found: dict[tuple[str, str], dict[tuple[str, ...], str]] = {}
    for run in runs:
        for name in run.names("failures"):
            for row in run.read_table(name).to_pylist():
                both = tuple(one for one in (row["image0"], row["image1"]) if one is not None)
                stage = row["stage"]
                of = {StageName.READ: "images", StageName.PLAN: "lines"}.get(stage, "pairs")
                found.setdefault((of, row["reason"]), {})[both] = row["detail"]
    counts = Counter({key: len(rows) for key, rows in found.items()})
    # A pair of a bad image fails for the reason of the image, and has no row of its own.
    of_pairs = np.bincount(pairs.reason[pairs.kind == 3].clip(0), minlength=len(pairs.reasons))
    for number, reason in enumerate(pairs.reasons):
        if of_pairs[number]:
            counts["pairs", reason] = int(of_pairs[number])
    order = {"images": 0, "pairs": 1, "lines": 2}
    return [
        {
            "of": of,
            "reason": reason,
            "meaning": MEANINGS.get(reason, ""),  # type: ignore[call-overload]
            "count": count,
            "names": [
                {"names": [*names], "detail": detail}
                for names, detail in sorted(found.get((of, reason), {}).items())[:NAMED]
            ],
        }
        for (of, reason), count in sorted(
            counts.items(), key=lambda item: (order[item[0][0]], -item[1], item[0][1])
        )
    ]


def asked_of(described: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """What a run was asked, from its run.json: dotted names and values as text."""
    rows: list[list[str]] = []
    for name, value in described.items():
        if isinstance(value, dict):
            rows += asked_of(value, f"{prefix}{name}.") if name != "versions" else []
        else:
            rows.append([f"{prefix}{name}".removeprefix("options."), str(value)])
    return rows


def markers_of(runs: Sequence[Folder]) -> list[dict[str, Any]]:
    """What the done markers of runs hold; `time` too, seconds from 1970, of runs on a disk."""
    names = [(run, name) for run in runs for name in sorted(run.done_names())]
    with ThreadPoolExecutor(MARKER_THREADS) as threads:
        return [marker for marker in threads.map(_marker, names) if marker]


def _marker(which: tuple[Folder, str]) -> dict[str, Any]:
    run, name = which
    try:
        marker: dict[str, Any] = run.read_done(name)
        if run.local:
            marker["time"] = os.stat(run.path(f"done/{name}.json")).st_mtime
    except (StorageError, OSError):  # a command that goes on may have removed it meanwhile
        return {}
    return marker


def time_tables(markers: Sequence[dict[str, Any]], started: float | None) -> dict[str, Any]:
    """Seconds by stage, summed over processes, and finished pairs over time.

    started: when the work began, seconds from 1970, or None where that is not known.
    curve: seconds since then and pairs that were finished by then.
    """
    seconds: Counter[str] = Counter()
    for marker in markers:
        seconds.update(marker["seconds"])
    timed = sorted(
        (marker["time"], marker["counts"]["pairs"]) for marker in markers if "time" in marker
    )
    curve: list[list[float]] = []
    if timed:
        begin = min(timed[0][0], started if started is not None else timed[0][0])
        total = np.cumsum([count for _, count in timed])
        kept = np.unique(np.linspace(0, len(timed) - 1, MOST_TIMES).astype(int))
        curve = [[0.0, 0], *([round(timed[k][0] - begin, 2), int(total[k])] for k in kept)]
    stages = {name: round(value, 2) for name, value in sorted(seconds.items(), key=lambda s: -s[1])}
    return {"seconds": stages, "curve": curve}


def began_at(runs: Sequence[Folder]) -> float | None:
    """When the first run wrote its run.json, seconds from 1970; None where that is not known."""
    times = [
        os.stat(run.path(RUN_FILE)).st_mtime for run in runs if run.local and run.exists(RUN_FILE)
    ]
    return min(times, default=None)


def histograms(pairs: PairRows) -> dict[str, dict[str, list[float]]]:
    """Edges and counts of the matches of all matched pairs, and of what verified pairs have."""
    matched, verified = pairs.kind <= 1, pairs.verified
    values = {
        "matches": pairs.matches[matched],
        "inliers": pairs.inliers[verified],
        "ratio": pairs.ratio[verified],
        "angle": pairs.angle[verified & np.isfinite(pairs.angle)],
    }
    return {name: _histogram(one, name == "ratio") for name, one in values.items()}


def _histogram(values: np.ndarray, share: bool) -> dict[str, list[float]]:
    if not len(values):
        return {"edges": [], "counts": []}
    top = 1.0 if share else max(float(np.percentile(values, SPREAD)), 1.0)
    step = 0.05 if share else _round_step(top / BINS)
    edges = np.arange(0, top + 2 * step if not share else 1 + step / 2, step)
    counts, _ = np.histogram(np.minimum(values, edges[-1] - step / 2), edges)
    return {"edges": [round(float(e), 4) for e in edges], "counts": counts.tolist()}


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is not below `least`."""
    power = 10 ** max(0, int(np.floor(np.log10(max(least, 1)))))
    return float(next(power * k for k in (1, 2, 5, 10) if power * k >= least))


def counts_of(pairs: PairRows, failures: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The numbers of the pairs, and how many images are unusable."""
    by_kind = np.bincount(pairs.kind, minlength=len(PAIR_KINDS)).tolist()
    return {
        "images": len(pairs.names),
        "pairs": len(pairs),
        "matched": by_kind[0] + by_kind[1],
        **dict(zip(PAIR_KINDS, by_kind, strict=True)),
        "matches": int(pairs.matches.sum()),
        "inliers": int(pairs.inliers.sum()),
        "unusable_images": sum(one["count"] for one in failures if one["of"] == "images"),
    }
