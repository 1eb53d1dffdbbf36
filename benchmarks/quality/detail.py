"""What finer passes over large photographs find: `match --detail` at several resolutions.

    python benchmarks/quality/detail.py --data FOLDER [--sets fountain11 …] [--out FILE]

Each row is a longer side of the first pass and a number of finer passes. Columns:

verified, matches, inliers   pairs that verification keeps, and numbers of all pairs together
right      matches within 1 px of the epipolar line in both images, pixels of the originals, of a
           set with poses: the mean of all pairs, and of wide ones, 30 degrees apart or more
error      median distance of inliers from the epipolar line, pixels of the originals
track, px  mean track length, and reprojection error in pixels of the originals, of the model as it
           is mapped, and after its tracks are refined
position   of a set with poses: median distance of cameras from the true ones, in % of the root mean
           square distance of these from their mean, with the true intrinsics; else metres, see
           `surveys.py`; as mapped, and after its tracks are refined
factor     time of matching against that without finer passes

Pairs are those of pairs.json where a set has poses, else the 12 nearest by GPS, or all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import argument_parser, write_results
from benchmarks.quality.datasets import KINDS, Pair, load_pairs
from benchmarks.quality.reconstruction import load_truth, measure
from benchmarks.quality.surveys import models_of, pairs_of
from pipeline.match.turns.tries import settled_matches
from pipeline.photos.source import list_images
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.store.folder import Folder
from pipeline.tables import PAIRS, unragged

SETS = ("fountain11", "brighton18", "copr41")
PASSES = ("320:0", "320:1", "320:2", "640:0", "640:1")  # longer side of the first pass : detail
WIDE = 30.0  # degrees between two views
RIGHT = 1.0  # pixels of the originals
Record = dict[str, Any]


def truth_of(folder: Path) -> dict[tuple[str, str], Pair]:
    """The pairs of a set with poses, by their names; of other sets none."""
    if KINDS.get(folder.name) != "pose":
        return {}
    return {pair.names: pair for pair in load_pairs(folder)}


def angle(pair: Pair) -> float:
    """Degrees between two views."""
    assert pair.cameras is not None
    cosine = (np.trace(pair.cameras.rotation) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def judged(run: Path, truth: dict[tuple[str, str], Pair]) -> Record:
    """How many matches are right, of all pairs and of wide ones, and how far inliers are off."""
    right, wide, off = [], [], []
    for _, table in settled_matches(Folder(str(run))):
        columns = [unragged(table[name]) for name in ("keypoints0", "keypoints1", "inliers")]
        names = (table[name].to_pylist() for name in ("image0", "image1"))
        for image0, image1, points0, points1, inliers in zip(*names, *columns, strict=True):
            pair = truth[image0, image1]
            errors = pair.errors(points0, points1)
            right.append(int((errors <= RIGHT).sum()))
            wide.append(angle(pair) >= WIDE)
            off.append(errors[inliers.astype(bool)])
    return {
        "right": float(np.mean(right)),
        "right_wide": float(np.mean(np.array(right)[wide])),
        "wide_pairs": int(np.sum(wide)),
        "median_error": float(np.median(np.concatenate(off))),
    }


def mapped(run: Path, folder: Path, posed: bool) -> Record:
    """Reconstruct a run: the model as it is mapped, and after its tracks are refined."""
    if not posed:
        pipeline.reconstruct(str(run), cameras=CameraOptions(sharing="single"))
        made = ((step, models_of(run / "sfm" / step, folder / "images")) for step in STEPS)
        return {STEPS[step]: found for step, found in made}
    truth, cameras = load_truth(folder)
    pipeline.reconstruct(str(run), cameras=CameraOptions.parse(intrinsics=min(cameras)))
    found = {}
    for step, title in STEPS.items():
        record = measure(run / "sfm" / step / "0", truth)
        position = list(record.get("position", {}).values())
        found[title] = {
            "images": [record["registered"]],
            "track_length": record.get("track_length"),
            "error": record.get("reprojection_px"),
            "position": 100 * float(np.median(position)) if position else None,
        }
    return found


STEPS = {"mapped": "mapped", "sparse": "refined"}  # folders of `sfm/`, and what they are called


def measured(folder: Path, long_side: int, detail: int, run: Path) -> Record:
    """Match and reconstruct a set."""
    images, truth = folder / "images", truth_of(folder)
    if truth:
        columns = [*zip(*truth, strict=True), [None] * len(truth)]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, PAIRS, strict=True)]
        pairs = pa.Table.from_arrays(arrays, schema=PAIRS)
    else:
        pairs = pairs_of(images, list_images(Folder(str(images))))
    started = time.monotonic()
    options = {"pairs": pairs, "long_side": long_side, "detail": detail, "executor": "local"}
    summary = pipeline.match(str(images), str(run), **options)
    seconds = time.monotonic() - started
    numbers = ("pairs", "verified", "matches", "inliers", "detail", "stage_seconds")
    record = {name: value for name, value in summary.items() if name in numbers}
    work = sum(summary["stage_seconds"].values())
    record |= {"seconds": round(seconds, 1), "work_seconds": round(work, 1)}
    if truth:
        record |= judged(run, truth)
    return record | mapped(run, folder, bool(truth))


def row(name: str, setting: str, record: Record, first: Record) -> str:
    """One row of the printed table. first: of the same set and longer side, without detail."""
    models = [record[title] for title in STEPS.values()]
    right = f"{record['right']:8.0f}{record['right_wide']:8.0f}" if "right" in record else " " * 16
    error = f"{record['median_error']:6.2f}" if "right" in record else " " * 6
    places = (m.get("position") or m.get("gps") or m.get("control") for m in models)
    where = " / ".join("-" if place is None else f"{place:.3f}" for place in places)
    return (
        f"{name:11}{setting:7}{record['verified']:5}/{record['pairs']:<5}{record['matches']:>9}"
        f"{record['inliers']:>9}{right}{error}"
        f"{'+'.join(map(str, models[0]['images'])):>6}"
        f"{models[0]['track_length'] or 0:6.2f}{models[1]['track_length'] or 0:6.2f}"
        f"{models[0]['error'] or 0:6.2f}{models[1]['error'] or 0:6.2f}  {where}"
        f"{record['work_seconds'] / first['work_seconds']:6.1f}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the sets, each with a folder images")
    add("--sets", nargs="+", default=SETS, help="(default: %(default)s)")
    add("--passes", nargs="+", default=PASSES, help="long side:detail (default: %(default)s)")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, Record]] = {}
    for name in options.sets:
        of_set = results.setdefault(name, {})
        for setting in options.passes:
            long_side, detail = map(int, setting.split(":"))
            with tempfile.TemporaryDirectory() as scratch:
                run = Path(scratch) / "run"
                of_set[setting] = measured(options.data / name, long_side, detail, run)
            first = of_set.get(f"{long_side}:0", of_set[setting])
            print(row(name, setting, of_set[setting], first), flush=True)
            if options.out:
                write_results(options.out, {"sets": results}, "torch", "pycolmap", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
