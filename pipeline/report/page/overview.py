"""What a run was asked, how far it is, where its time went and what failed, as tables.

`warnings_of` draws from them what a person should know.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from pipeline.errors import StorageError
from pipeline.events import counted
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
FEW_INLIERS = 30  # of the median verified pair
FEW_VERIFIED = 0.2  # of the matched pairs
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
    for row in _failures(runs):
        both = tuple(one for one in (row["image0"], row["image1"]) if one is not None)
        of = {StageName.READ: "images", StageName.PLAN: "lines"}.get(row["stage"], "pairs")
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


def unusable_images(runs: Sequence[Folder]) -> dict[str, str]:
    """The reasons of the images that cannot be used, by their names."""
    return {
        row["image0"]: row["reason"] for row in _failures(runs) if row["stage"] == StageName.READ
    }


def _failures(runs: Sequence[Folder]) -> Iterator[dict[str, Any]]:
    """The rows of FAILURES of runs."""
    for run in runs:
        for name in run.names("failures"):
            yield from run.read_table(name).to_pylist()


def asked_of(described: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """What was asked, from the JSON of a run or of models: dotted names, and values as text."""
    rows: list[list[str]] = []
    for name, value in described.items():
        if isinstance(value, dict):
            rows += asked_of(value, f"{prefix}{name}.") if name != "versions" else []
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            rows.append([f"{prefix}{name}".removeprefix("options."), text])
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


def warnings_of(tables: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[dict[str, str]]:
    """What a person should know, and what can be done about it: sentences `what` and `cure`."""
    return [
        {"what": what, "cure": cure}
        for found in (_of_state, _of_failures, _of_graph, _of_quality)
        for what, cure in found(tables)
    ] + [{"what": what, "cure": cure} for what, cure in _of_cameras(sizes)]


def _of_state(tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    state = tables["state"]
    far = f"{state['done_shards']:,} of {state['shards']:,} shards are done."
    if state["state"] == "going":
        return [(f"A command works on this run: {far}", "Make the report again when it has ended.")]
    if state["state"] == "stopped":
        return [(f"The run was stopped: {far}", "Run the same command again; it goes on there.")]
    return []


def _of_failures(tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    bad = {
        of: sum(f["count"] for f in tables["failures"] if f["of"] == of)
        for of in ("images", "lines")
    }
    found = []
    if bad["images"]:
        found.append(
            (
                f"{counted(bad['images'], 'image')} cannot be used.",
                "See Failures for their names; mend or remove the files and match into another "
                "folder.",
            )
        )
    if bad["lines"]:
        found.append(
            (
                f"{counted(bad['lines'], 'line')} of the pair list cannot be matched.",
                "See Failures; names must be those of the photographs, relative to their folder.",
            )
        )
    return found


def _of_graph(tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    if tables["state"]["state"] != "finished":
        return []  # the pairs that are not matched yet may connect them
    graph, images = tables["graph"], tables["images"]
    found = []
    if len(graph["parts"]) > 1:
        sizes = ", ".join(f"{part['images']:,}" for part in graph["parts"][:5])
        found.append(
            (
                f"The images fall into {len(graph['parts']):,} parts that no verified pair "
                f"connects (of {sizes} images).",
                "Each can only become a model of its own; match more pairs between them, or add "
                "photographs that show both.",
            )
        )
    both = zip(images["verified"], images["unusable"], strict=True)
    if alone := sum(not verified and why is None for verified, why in both):
        verb, they = ("is", "It") if alone == 1 else ("are", "They")
        found.append(
            (
                f"{counted(alone, 'image')} {verb} in no verified pair.",
                f"See Graph below. {they} may show something else, or need more pairs.",
            )
        )
    return found


def _of_quality(tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts, inliers = tables["counts"], tables["histograms"]["inliers"]
    found = []
    if counts["matched"] and counts["verified"] < FEW_VERIFIED * counts["matched"]:
        found.append(
            (
                f"Only {counts['verified']:,} of {counted(counts['matched'], 'matched pair')} "
                f"{'is' if counts['verified'] == 1 else 'are'} verified.",
                "The list may pair photographs of different places; eloftr pairs chooses better "
                "ones.",
            )
        )
    if counts["verified"]:
        middle = np.searchsorted(np.cumsum(inliers["counts"]), counts["verified"] / 2)
        median = inliers["edges"][int(middle)]
        if median < FEW_INLIERS:
            found.append(
                (
                    f"Half of the verified pairs have fewer than {FEW_INLIERS} inliers.",
                    "A larger --long-side or --detail 1 finds more.",
                )
            )
    return found


def _of_cameras(sizes: Mapping[str, Any]) -> list[tuple[str, str]]:
    without = sum(row["focal"] is None for row in sizes.values())
    if 2 * without <= len(sizes):
        return []
    return [
        (
            f"{without:,} of {counted(len(sizes), 'image')} "
            f"{'has' if without == 1 else 'have'} no focal length in EXIF.",
            "The angles of their pairs rest on a guess; give known cameras by --intrinsics.",
        )
    ]
