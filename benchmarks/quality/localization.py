"""Localize photographs that a model was made without, and compare with the same photographs in the
model of all.

    pip install .[test]
    python benchmarks/quality/localization.py --work DIR --out results.json

A set is a folder with `images/` and `poses.json`, as of reconstruction.py. Every third image is a
query, and the others are the database. Two models are made by `pipeline.match` and
`pipeline.reconstruct`: of all images, and of the database. `pipeline.localize` places the queries
in the second. Both models are brought to the true camera centres by the similarity of the database
images, so that the queries of both are measured in the same way.

"known" has the true camera of the set everywhere. "unknown" has none: the models and the queries
begin with nothing. The queries of another set are given to the model of each as photographs of
another place. Columns:

localized  queries with a pose, of all
rotation   angle to the true one, degrees, median: localized / in the model of all / their ratio /
           that of the images of the database in their own model
position   distance to the true centre, % of the root mean square distance of the true centres from
           their mean, likewise
foreign    photographs of another place that got a pose, of all
encodes    images that were encoded, and images of the run
ms         CPU time of placing a query, beside matching: median / largest
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.quality.quality import environment
from benchmarks.quality.reconstruction import Record, load_truth, say
from benchmarks.quality.sets import chosen, exit_code, report, sets_parser
from pipeline.demo.truth import DemoTruth, Pose
from pipeline.extras import import_pycolmap
from pipeline.pairs.plan import plan
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.localize.candidates import QueryFolders
from pipeline.reconstruct.localize.options import LocalizeOptions
from pipeline.reconstruct.localize.place import PlaceQueries, QueryBatch
from pipeline.reconstruct.localize.plan import plan_queries
from pipeline.reconstruct.localize.points import known_surface
from pipeline.reconstruct.models.files import ModelFiles
from pipeline.reconstruct.similarity import Similarity, umeyama
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store.folder import Folder

SETS = ("fountain11", "door12", "fox50")
THIRD = slice(1, None, 3)  # which images are queries
ALL_PAIRS = 16  # images; larger sets are matched in the order of their names
WINDOW = 4
CANDIDATES = 6


class SplitSet:
    """A set in a working folder, with the folders of its images and its models."""

    def __init__(self, name: str, source: Path, work: Path) -> None:
        self.name, self.work = name, work / name
        self.truth, cameras = load_truth(source)
        self.camera = min(cameras)
        names = sorted(self.truth.poses)
        self.queries = names[THIRD]
        self.database = [one for one in names if one not in self.queries]
        for part, some in (("full", names), ("db", self.database), ("q", self.queries)):
            folder = self.work / "images" / part
            folder.mkdir(parents=True, exist_ok=True)
            for one in some:
                shutil.copy(source / "images" / one, folder / one)

    def images(self, part: str) -> str:
        """The folder of some of the images: full, db or q."""
        return str(self.work / "images" / part)

    def model(self, part: str, kind: str) -> Path:
        """The model of some of the images, made now or before."""
        found = self.work / kind / part / "sparse" / "0"
        if (found / "images.bin").exists():
            return found
        run = self.work / "run" / part
        pairs = None
        if len(self.database) > ALL_PAIRS:
            pairs = str(self.work / f"{part}.txt")
            plan("sequential", {}, pairs, images=self.images(part), window=WINDOW)
        how: dict[str, Any] = {"turns": "off", "scales": "off", "progress": say}
        pipeline.match(self.images(part), str(run), pairs=pairs, **how)
        cameras = CameraOptions.parse(intrinsics=self.camera if kind == "known" else None)
        pipeline.reconstruct(str(run), self.work / kind / part, cameras=cameras, progress=say)
        return found


def poses_of(model: Path) -> dict[str, Pose]:
    """The poses of a model by the names of its images."""
    views = SparseModel.of(import_pycolmap().Reconstruction(str(model))).views
    return {name: (views.rotation[row], views.shift[row]) for row, name in enumerate(views.names)}


def localized_poses(output: Path) -> dict[str, Pose]:
    """The poses that `pipeline.localize` wrote for hloc."""
    pycolmap = import_pycolmap()
    found = {}
    for line in (output / "poses.txt").read_text().splitlines():
        name, *numbers = line.split()
        w, x, y, z, *shift = map(float, numbers)
        found[name] = pycolmap.Rotation3d([x, y, z, w]).matrix(), np.array(shift)
    return found


def errors_of(poses: dict[str, Pose], truth: DemoTruth, move: Similarity) -> dict[str, list[float]]:
    """Degrees and % of the spread for each pose, after a similarity to the world of the truth."""
    every = np.array([-R.T @ t for R, t in truth.poses.values()])
    spread = np.sqrt(((every - every.mean(0)) ** 2).sum(1).mean())
    found = {}
    for name, (R, t) in poses.items():
        true_R, true_t = truth.poses[name]
        chord = np.linalg.norm(R @ move.rotation.T - true_R) / np.sqrt(8)
        away = np.linalg.norm(move((-R.T @ t)[None])[0] + true_R.T @ true_t)
        degrees = float(np.degrees(2 * np.arcsin(min(1.0, chord))))
        found[name] = [degrees, float(100 * away / spread)]
    return found


def to_truth(poses: dict[str, Pose], names: list[str], truth: DemoTruth) -> Similarity:
    """The similarity that brings the centres of these images closest to the true ones."""
    centres = [
        np.array([-R.T @ t for R, t in (some[name] for name in names)])
        for some in (poses, truth.poses)
    ]
    return Similarity(*umeyama(*centres))


def measure_set(one: SplitSet, foreign: SplitSet, kind: str, measure: bool) -> Record:
    """The record of a set. foreign: the set whose queries are of another place."""
    full, database = (poses_of(one.model(part, kind)) for part in ("full", "db"))
    model, output = one.model("db", kind), one.work / "localized"
    how: dict[str, Any] = {"candidates": CANDIDATES, "measure": measure, "progress": say}
    known = one.camera if kind == "known" else None
    summary = pipeline.localize(
        model, one.images("db"), one.images("q"), output, intrinsics=known, **how
    )
    names = sorted(full.keys() & database.keys())
    placed = errors_of(localized_poses(output), one.truth, to_truth(database, names, one.truth))
    own = {name: database[name] for name in names}
    own_errors = errors_of(own, one.truth, to_truth(database, names, one.truth))
    queries = {name: pose for name, pose in full.items() if name in one.queries}
    same = errors_of(queries, one.truth, to_truth(full, names, one.truth))
    record: Record = {
        "localized": summary["localized"],
        "queries": summary["queries"],
        "cameras": summary["cameras"],
        "errors": placed,
        "full": same,
        "median": np.median([*placed.values()], axis=0).tolist(),
        "median_own": np.median([*own_errors.values()], axis=0).tolist(),
        "median_full": np.median([*same.values()], axis=0).tolist(),
        "encodes": summary["matching"]["encodes"],
        "images": summary["matching"]["images"],
        "milliseconds": placing_times(one, model, output, kind, measure),
    }
    if kind == "known" and measure:
        one.work / f"foreign-{foreign.name}"
        refused = pipeline.localize(
            model,
            one.images("db"),
            foreign.images("q"),
            one.work / f"foreign-{foreign.name}",
            **how,
        )
        record["foreign"] = {key: refused[key] for key in ("localized", "queries", "reasons")}
    return record


def placing_times(
    one: SplitSet, model: Path, output: Path, kind: str, measure: bool
) -> list[float]:
    """CPU time in ms of placing each query, in one process that has begun its work."""
    from pipeline.front.matching import MATCH_DEFAULTS, run_options
    from pipeline.photos.cameras.intrinsics import read_intrinsics

    folders = {"query": one.images("q"), "database": one.images("db")}
    run = run_options({**MATCH_DEFAULTS, "images": folders, "output": str(output)})
    given = read_intrinsics(one.camera) if kind == "known" else ()
    options = LocalizeOptions(run, intrinsics=given, measure=measure)
    surface, _ = known_surface(ModelFiles(model, str(model)))
    parts = QueryFolders.of(run, surface.views.names, str(model))
    candidates, failures = (
        Folder(str(output)).read_table(f"candidates/{name}.parquet")
        for name in ("candidates", "failures")
    )
    matched = Folder(str(output / "run"))
    queries = plan_queries(parts, surface.views, matched, candidates, failures).queries
    place = PlaceQueries(surface, matched, parts.source, parts.name("database", ""), options)
    place(QueryBatch("first", queries[:1]))
    times = []
    for query in queries:
        start = time.process_time()
        place(QueryBatch("one", [query]))
        times.append(1000 * (time.process_time() - start))
    return times


def table(sets: dict[str, dict[str, Record]]) -> str:
    """A Markdown table with a row for each set and kind."""
    head = ["set", "cameras", "localized", "rotation °", "position %", "foreign", "encodes", "ms"]
    rows = [head, ["---"] * len(head)]
    for name, kinds in sets.items():
        for kind, record in kinds.items():
            medians = (record[name] for name in ("median", "median_full", "median_own"))
            shown = [
                f"{ours:.3f} / {full:.3f} / {ours / full:.2f} / {own:.3f}"
                for ours, full, own in zip(*medians, strict=True)
            ]
            other = record.get("foreign")
            times = record["milliseconds"]
            rows.append(
                [
                    *(name, kind, f"{record['localized']}/{record['queries']}", *shown),
                    f"{other['localized']}/{other['queries']}" if other else "–",
                    f"{record['encodes']} of {record['images']}",
                    f"{np.median(times):.0f} / {max(times):.0f}",
                ]
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the sets, print the table, write the JSON and return what it holds."""
    from eloftr import load_matcher

    folders = chosen(options)
    names = list(folders)
    sets: dict[str, dict[str, Record]] = {}
    with TemporaryDirectory() as made:
        work = Path(made) if options.work is None else options.work.resolve()
        split = {name: SplitSet(name, folder, work) for name, folder in folders.items()}
        for row, name in enumerate(names):
            foreign = split[names[0 if row else 1]]
            sets[name] = {
                kind + title: measure_set(split[name], foreign, kind, measure)
                for kind in options.kinds.split(",")
                for measure, title in ((True, ""), (False, ", --no-measure"))
            }
            print(table({name: sets[name]}), file=sys.stderr, flush=True)
    measured_with = {**environment("small", load_matcher("small")), "cores": os.cpu_count()}
    results = {"environment": measured_with, "candidates": CANDIDATES, "sets": sets}
    report(results, table(sets), options.out)
    return results


def main(arguments: list[str] | None = None) -> int:
    out, listed = "write the errors of every image as JSON", "comma-separated, two or more"
    parser = sets_parser(__doc__, SETS, out, listed)
    add = parser.add_argument
    add("--kinds", default="known,unknown", help="of cameras (default: %(default)s)")
    add("--work", type=Path, help="folder of models and runs, which are kept and used again")
    return exit_code("localization", run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
