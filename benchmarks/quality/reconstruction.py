"""Reconstruct photographs whose cameras are known, and compare, next to COLMAP's own SIFT on the
same photographs.

    pip install .[test]
    python benchmarks/quality/reconstruction.py --weights NAME_OR_PATH --out results.json

A set is a folder with `images/` and `poses.json`: for each file name R (3×3) and t, world to
camera, K (3×3) in pixels with centres at integers, and optionally dist, OpenCV's k1 k2 p1 p2. Where
these come from a SIFT model themselves, the errors favour SIFT.

ours   `pipeline.match` on all pairs at `--long-side`, then `pipeline.reconstruct`
SIFT   pycolmap's extract_features, match_exhaustive and incremental_mapping on the full-size
       images: its defaults, but fixed seeds, and models from three images on, as ours

Both have the set's one camera with `--known-cameras`. Otherwise ours begins with nothing given, and
SIFT has a SIMPLE_RADIAL camera for each image, COLMAP's default. "as mapped" is our model before
its tracks are refined. Columns:

images     registered in the largest model, of all
track      mean number of images that see a point
px         mean reprojection error, pixels of the original images
rotation   angle to the true one, degrees, after the similarity that brings the camera centres
           closest; median / worst
pairs      angle between the true and the found relative rotation of two images, degrees, over all
           pairs of images; median / worst
position   distance to the true centre, % of the root mean square distance of the true centres from
           their mean
seconds    ours: matching + mapping (one thread); SIFT: features + matching + mapping (all cores)
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.quality.quality import environment
from benchmarks.quality.sets import add_matching, aligned, chosen, exit_code, report, sets_parser
from eloftr.errors import ArgumentError
from pipeline.demo.truth import DemoTruth, compare_with_truth
from pipeline.events import Event
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.mapping import MAPPERS
from pipeline.reconstruct.summary import ModelSummary

SETS = ("fountain11", "sceaux11", "sacre_coeur17")
TITLES = {"ours": "ours", "sift": "SIFT"}
CAMERA = "SIMPLE_RADIAL"
MIN_ALIGNED = 3  # images: fewer centres fix no similarity

Record = dict[str, Any]
Result = TypeVar("Result")


def load_truth(folder: Path) -> tuple[DemoTruth, set[str]]:
    """The poses of a set, and its distinct cameras as COLMAP writes them.

    A camera is `OPENCV:fx,fy,cx,cy,k1,k2,p1,p2`. Raises ArgumentError where poses.json cannot be
    read or has no poses, or lacks an image or has one too many.
    """
    path = folder / "poses.json"
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise ArgumentError(
            f"{path}: not a readable list of poses ({error}); check --data and --sets."
        ) from error
    poses = {
        name: (np.array(row["R"], float), np.array(row["t"], float)) for name, row in rows.items()
    }
    intrinsics = {name: np.array(row["K"], float) for name, row in rows.items()}
    cameras = {
        _camera(intrinsics[name], row.get("dist") or [0.0] * 4) for name, row in rows.items()
    }
    found = {entry.name for entry in (folder / "images").glob("*")}
    if found != poses.keys() or not found:
        raise ArgumentError(
            f"{folder}: images/ and poses.json hold different names; they must be the same."
        )
    first = rows[min(rows)]
    return DemoTruth(folder / "images", (first["w"], first["h"]), intrinsics, poses), cameras


def _camera(K: np.ndarray, distortion: list[float]) -> str:
    # COLMAP's origin is the corner of the top-left pixel, half a pixel before its centre.
    numbers = [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, *distortion]
    return "OPENCV:" + ",".join(str(float(number)) for number in numbers)


def reconstruct_ours(
    truth: DemoTruth, work: Path, camera: str | None, weights: str, long_side: int, mapper: str
) -> Record:
    """The record of our model, and the seconds of the steps; work/run and work/ours are written."""
    images, run, model = truth.images.resolve(), work / "run", work / "ours"
    times = [time.perf_counter()]
    summary = pipeline.match(
        str(images), str(run), weights=weights, long_side=long_side, progress=say
    )
    times.append(time.perf_counter())
    cameras = CameraOptions.parse(intrinsics=camera)
    pipeline.reconstruct(str(run), model, mapper=mapper, cameras=cameras, progress=say)
    times.append(time.perf_counter())
    seconds = dict(zip(("matching", "mapping"), np.diff(times).tolist(), strict=True))
    return {
        **measure(model / "sparse" / "0", truth),
        "seconds": seconds,
        "matching": summary,
        "mapped": measure(model / "mapped" / "0", truth),
    }


def say(event: Event) -> None:
    """Print what the work says while it goes on, beside the table."""
    print(event.text, file=sys.stderr, flush=True)


def reconstruct_sift(truth: DemoTruth, work: Path, camera: str | None) -> Record:
    """COLMAP's own pipeline into work/sift, in a process of its own, which a bad input may kill."""
    seconds = in_own_process(map_sift, truth.images.resolve(), work / "sift", camera)
    return {**measure(work / "sift" / "sparse" / "0", truth), "seconds": seconds}


def in_own_process(work: Callable[..., Result], images: Path, *what: Any) -> Result:
    """What COLMAP makes of images, in a process that a bad input may kill.

    Raises ArgumentError where it does.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, images, *what).result()
        except BrokenProcessPool as error:
            raise ArgumentError(f"{images}: pycolmap's process died on these images.") from error


def map_sift(images: Path, output: Path, camera: str | None) -> dict[str, float]:
    """Features, matches and models of a folder; `output` gets database.db and sparse/0, the largest
    model, if any.

    camera: `MODEL:params`, known and kept; None for one SIMPLE_RADIAL an image. Returns the seconds
    of each step.
    """
    pycolmap = import_pycolmap()
    database, models = output / "database.db", output / "models"
    models.mkdir(parents=True)
    model, _, params = (camera or CAMERA).partition(":")
    reader = pycolmap.ImageReaderOptions(camera_model=model, camera_params=params)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = 0
    mapping = mapping_options()
    if camera is not None:
        mapping.ba_refine_focal_length = mapping.ba_refine_extra_params = False
        mapping.mapper.abs_pose_refine_focal_length = (
            mapping.mapper.abs_pose_refine_extra_params
        ) = False

    times = [time.perf_counter()]
    per_image = pycolmap.CameraMode.PER_IMAGE
    pycolmap.extract_features(
        database, images, camera_mode=per_image, reader_options=reader, device=pycolmap.Device.cpu
    )
    times.append(time.perf_counter())
    pycolmap.match_exhaustive(
        database, verification_options=verification, device=pycolmap.Device.cpu
    )
    times.append(time.perf_counter())
    found = pycolmap.incremental_mapping(database, images, models, mapping)
    times.append(time.perf_counter())
    if found:
        target = output / "sparse" / "0"
        target.mkdir(parents=True)
        largest(found).write(target)
    return dict(zip(("features", "matching", "mapping"), np.diff(times).tolist(), strict=True))


def mapping_options() -> Any:
    """COLMAP's defaults, but fixed seeds, and models from three images on."""
    options = import_pycolmap().IncrementalPipelineOptions(
        random_seed=0, min_model_size=MIN_ALIGNED, extract_colors=False
    )
    options.mapper.random_seed = options.triangulation.random_seed = 0
    return options


def largest(models: dict[int, Any]) -> Any:
    """The model of most images, and of these that of most points."""
    return max(models.values(), key=lambda m: (m.num_reg_images(), m.num_points3D()))


def measure(model: Path, truth: DemoTruth) -> Record:
    """A COLMAP model against the truth; `registered` is 0 where there is no model.

    Returns registered, of, points, track_length, reprojection_px, and, from three registered images
    on, rotation_deg and position (in units of the spread of the true centres), each of every image
    by name.
    """
    record: Record = {"registered": 0, "of": len(truth.poses)}
    if not model.is_dir():
        return record
    reconstruction = import_pycolmap().Reconstruction(str(model))
    summary = ModelSummary.of(reconstruction)
    record |= {"registered": summary.images, "points": summary.points}
    record |= {"track_length": summary.track_length, "reprojection_px": summary.error}
    if summary.images >= MIN_ALIGNED:
        registered = (reconstruction.images[number] for number in reconstruction.reg_image_ids())
        matrices = {image.name: image.cam_from_world().matrix() for image in registered}
        record |= pose_errors(matrices, truth)
    return record


def pose_errors(matrices: dict[str, np.ndarray], truth: DemoTruth) -> Record:
    """rotation_deg, pairs_deg and position of poses (3, 4), each by name."""
    errors = compare_with_truth({name: (m[:, :3], m[:, 3]) for name, m in matrices.items()}, truth)
    return {
        "rotation_deg": dict(zip(errors.names, errors.rotation.tolist(), strict=True)),
        "pairs_deg": relative_errors(matrices, truth),
        "position": dict(zip(errors.names, errors.position.tolist(), strict=True)),
    }


def relative_errors(matrices: dict[str, np.ndarray], truth: DemoTruth) -> dict[str, float]:
    """Angles in degrees between found and true relative rotations of all pairs of images."""
    angles = {}
    for first, second in itertools.combinations(sorted(matrices), 2):
        found = matrices[second][:, :3] @ matrices[first][:, :3].T
        true = truth.poses[second][0] @ truth.poses[first][0].T
        chord = float(np.linalg.norm(found - true)) / np.sqrt(8)
        angles[f"{first} {second}"] = float(np.degrees(2 * np.arcsin(min(1.0, chord))))
    return angles


def table(sets: dict[str, dict[str, Record]]) -> str:
    """An aligned Markdown table with a row for each method on each set."""
    rows = [
        [
            *("set", "method", "images", "points", "track", "px"),
            *("rotation °", "pairs °", "position %", "seconds"),
        ]
    ]
    for name, methods in sets.items():
        shown = [
            (title, record)
            for method, whole in methods.items()
            for title, record in (
                *([("ours, as mapped", whole["mapped"])] if "mapped" in whole else []),
                (TITLES[method], whole),
            )
        ]
        for title, record in shown:
            row = [name, title, f"{record['registered']}/{record['of']}"]
            for key, form in (
                ("points", "{}"),
                ("track_length", "{:.2f}"),
                ("reprojection_px", "{:.3f}"),
            ):
                row.append(form.format(record[key]) if key in record else "–")
            row += error_cells(record)
            times = record.get("seconds", {}).values()
            rows.append([*row, " + ".join(f"{seconds:.0f}" for seconds in times)])
    return aligned(rows)


def error_cells(record: Record) -> list[str]:
    """Median and worst of what `pose_errors` gives, positions in %; – where there is nothing."""
    cells = []
    for key, factor in (("rotation_deg", 1), ("pairs_deg", 1), ("position", 100)):
        errors = factor * np.array(list(record.get(key, {}).values()))
        cells.append(f"{np.median(errors):.3f} / {errors.max():.3f}" if len(errors) else "–")
    return cells


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Reconstruct, print the table, write the JSON and return what it holds."""
    folders = chosen(options)
    loaded = {name: load_truth(folder) for name, folder in folders.items()}
    for name, (_, cameras) in loaded.items():
        if options.known_cameras and len(cameras) > 1:
            raise ArgumentError(
                f"{folders[name]}: has {len(cameras)} cameras; --known-cameras is for sets of one."
            )
    from eloftr import load_matcher

    measured_with = environment(options.weights, load_matcher(options.weights))
    packages = ("pycolmap", "ray", "pyarrow")
    measured_with["versions"] |= {name: version(name) for name in packages}
    measured_with["cores"] = os.cpu_count()
    sets: dict[str, dict[str, Record]] = {}
    with ExitStack() as stack:
        if options.work is None:
            root = Path(stack.enter_context(TemporaryDirectory()))
        else:
            root = options.work.resolve()
            if root.exists() and any(root.iterdir()):
                raise ArgumentError(
                    f"--work {root}: holds files already; give an empty or a new folder."
                )
        for name, (truth, cameras) in loaded.items():
            camera = min(cameras) if options.known_cameras else None
            work = root / name
            work.mkdir(parents=True)
            print(f"{name}: {len(truth.poses)} images", file=sys.stderr, flush=True)
            ours = reconstruct_ours(
                truth, work, camera, options.weights, options.long_side, options.mapper
            )
            sets[name] = {"ours": ours, "sift": reconstruct_sift(truth, work, camera)}
    settings = {name: getattr(options, name) for name in ("long_side", "mapper", "known_cameras")}
    results = {"settings": settings, "environment": measured_with, "sets": sets}
    report(results, table(sets), options.out)
    return results


def main(arguments: list[str] | None = None) -> int:
    out = "write the errors of every image, the settings and the versions as JSON"
    parser = sets_parser(__doc__, SETS, out)
    add_matching(parser)
    add = parser.add_argument
    add(
        "--mapper",
        choices=MAPPERS,
        default="incremental",
        help="ours; SIFT's is incremental (default: %(default)s)",
    )
    add(
        "--known-cameras",
        action="store_true",
        help="both keep the true intrinsics; for sets of one camera",
    )
    add(
        "--work",
        type=Path,
        help="keep databases, models and logs in this empty folder (default: they are deleted)",
    )
    return exit_code("reconstruction", run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
