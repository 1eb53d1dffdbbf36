"""Triangulate with known poses and cameras, and measure the points in photographs left out, next to
COLMAP's own SIFT.

    pip install .[test]
    python benchmarks/quality/known_poses.py --out results.json

A set is as `reconstruction.py` tells. Every third photograph is left out, beginning with the
second. The others are matched, and triangulated with the poses and cameras of the set:

ours   `pipeline.match` on all pairs at `--long-side`, then `pipeline.reconstruct` with the poses
       fixed; "as triangulated" is its model before its tracks are refined
SIFT   pycolmap's extract_features, match_exhaustive and triangulate_points on the full-size
       photographs: its defaults, but fixed seeds; "two views too" also keeps points that only two
       photographs see, as ours does

Then each point is projected into each photograph left out, and its place there is measured by
least-squares matching: the window around the point in that view of its track that looks at it from
most nearly the same side is moved, with an affine map, gain and offset, until its grey values fit.
The error is the distance between projection and measured place. It is the same for all methods:

- The window in the view of the track lies where the *projection* of the point is, not at an
  observation, so that nothing counts but the place of the point. "observed" takes the observation.
- The surface faces that view; no normals of a model are used.
- Of each model `MOST_POINTS` points are looked for, chosen at random.
- Windows of radius `RADIUS` at full size count where they correlate at `CORRELATION` or better and
  moved less than `FARTHEST` pixels. Hidden points and gross errors fail this. "found" is the share.

Columns:

points, track   of the model
measured        places measured in photographs left out
found           of the windows tried, %
error           median distance in pixels, with 95 % of a bootstrap over points
along           median of its part along the epipolar line, which the depth of a point decides
across          of its part across the line, which no point changes: errors of poses, cameras and
                the measurement
observed        median distance where the window lies at the observation
< 1 px          places of all points that would be measured at less than 1 pixel, in thousands: a
                model of more points that are as exact has more
"""

from __future__ import annotations

import argparse
import itertools
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.quality.quality import environment
from benchmarks.quality.reconstruction import (
    CAMERA,
    in_own_process,
    load_truth,
    mapping_options,
    say,
)
from benchmarks.quality.sets import add_matching, aligned, chosen, exit_code, report, sets_parser
from eloftr.errors import ArgumentError
from pipeline.demo.truth import DemoTruth
from pipeline.extras import import_pycolmap
from pipeline.photos.cameras.intrinsics import Intrinsics
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.tracks.photographs import PhotographCache
from pipeline.reconstruct.tracks.predict import BESIDE, Surfaces, predict
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews, SparseModel, project
from pipeline.reconstruct.tracks.windows import SLACK, Reference
from pipeline.store.folder import Folder

SETS = ("fountain11", "temple19")
THIRD, FIRST = 3, 1  # every third photograph is left out, from this row on
RADIUS, STEPS, CORRELATION, FARTHEST = 7, 10, 0.9, float(SLACK)
MOST_POINTS = 3000  # of a model, chosen at random, that are looked for
BOOTSTRAPS = 200
TITLES = {
    "ours": "ours",
    "triangulated": "ours, as triangulated",
    "sift": "SIFT",
    "sift_two": "SIFT, two views too",
}

Record = dict[str, Any]


def left_out(names: list[str]) -> tuple[list[str], list[str]]:
    """The names that are kept, and those that are left out."""
    out = names[FIRST::THIRD]
    return [name for name in names if name not in out], out


def write_poses(truth: DemoTruth, table: Path) -> None:
    """The poses of a set as a table of quaternions."""
    pycolmap = import_pycolmap()
    lines = ["image,qw,qx,qy,qz,tx,ty,tz"]
    for name, (rotation, shift) in truth.poses.items():
        x, y, z, w = pycolmap.Rotation3d(rotation).quat.tolist()
        lines.append(",".join([name, *map(repr, (w, x, y, z, *shift.tolist()))]))
    table.write_text("\n".join(lines) + "\n")


def triangulate_ours(
    truth: DemoTruth, kept: list[str], work: Path, camera: str, weights: str, long_side: int
) -> dict[str, Path]:
    """Our models of the kept photographs, by the keys of TITLES."""
    images, run, model = truth.images.resolve(), work / "run", work / "ours"
    pairs = work / "pairs.txt"
    pairs.write_text("".join(f"{a} {b}\n" for a, b in itertools.combinations(kept, 2)))
    write_poses(truth, work / "poses.csv")
    pipeline.match(
        *(str(images), str(run)),
        pairs=str(pairs),
        weights=weights,
        long_side=long_side,
        progress=say,
    )
    cameras = CameraOptions.parse(intrinsics=camera)
    pipeline.reconstruct(str(run), model, cameras=cameras, poses=work / "poses.csv", progress=say)
    return {"ours": model / "sparse" / "0", "triangulated": model / "mapped" / "0"}


def triangulate_sift(truth: DemoTruth, kept: list[str], work: Path, camera: str) -> dict[str, Path]:
    """Models of SIFT, made in a process of its own, which a bad input may kill."""
    write_poses(truth, work / "poses.csv")
    what = truth.images.resolve(), kept, truth.poses, work, camera
    return in_own_process(map_sift_points, *what)


def map_sift_points(
    images: Path, kept: list[str], poses: dict[str, Any], work: Path, camera: str
) -> dict[str, Path]:
    """Features, matches and points of some images of a folder."""
    pycolmap = import_pycolmap()
    database = work / "sift.db"
    model, _, params = camera.partition(":")
    reader = pycolmap.ImageReaderOptions(camera_model=model or CAMERA, camera_params=params)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = 0
    pycolmap.extract_features(
        *(database, images, kept),
        camera_mode=pycolmap.CameraMode.PER_IMAGE,
        reader_options=reader,
        device=pycolmap.Device.cpu,
    )
    pycolmap.match_exhaustive(
        database, verification_options=verification, device=pycolmap.Device.cpu
    )
    found = {}
    for key, only_longer in (("sift", True), ("sift_two", False)):
        with pycolmap.Database.open(database) as opened:
            cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions())
        made = pycolmap.Reconstruction()
        made.load(cache)
        for image in made.images.values():
            rotation, shift = poses[image.name]
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), shift)
            made.frames[image.frame_id].rig_from_world = pose
            made.register_frame(image.frame_id)
        how = mapping_options()
        how.triangulation.ignore_two_view_tracks = only_longer
        found[key] = work / key
        found[key].mkdir()
        pycolmap.triangulate_points(made, database, images, found[key], True, how).write(found[key])
    return found


def measure(model: Path, truth: DemoTruth, out: list[str], camera: str) -> Record:
    """The errors of a model's points in the photographs that were left out."""
    scene = SparseModel.of(import_pycolmap().Reconstruction(str(model)))
    views = with_views(scene.views, truth, out, camera)
    photographs = PhotographCache(Folder(str(truth.images)), sys.maxsize)
    parts: list[dict[str, np.ndarray]] = []
    tried = 0
    random = np.random.default_rng(0)
    chosen = np.sort(random.permutation(len(scene.xyz))[:MOST_POINTS])
    for row in range(len(scene.views), len(views)):
        nearest = nearest_views(scene, views, row)
        for reference in range(len(scene.views)):
            mine = chosen[scene.view[nearest[chosen]] == reference]
            found, count = measured(scene, views, reference, row, nearest[mine], mine, photographs)
            tried += count
            parts.append(found)
    of_all = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    good = of_all["error"]
    record: Record = {
        "points": len(scene.xyz),
        "track_length": len(scene.point) / max(len(scene.xyz), 1),
        "tried": tried,
        "measured": int(np.isfinite(good).sum()),
        "below_1_px": float((good < 1).sum() / max(len(chosen), 1) * len(scene.xyz)),
    }
    for key in ("error", "along", "across", "observed"):
        values = of_all[key][np.isfinite(of_all[key])]
        record[key] = float(np.median(values))
        record[f"{key}_90"] = float(np.percentile(values, 90))
    record["error_interval"] = interval(of_all["point"], good)
    return record


def with_views(views: ModelViews, truth: DemoTruth, out: list[str], camera: str) -> ModelViews:
    """The views of a model, then those of the photographs that were left out."""
    entry = Intrinsics(
        camera.partition(":")[0], tuple(map(float, camera.partition(":")[2].split(",")))
    )
    size = next(iter(views.cameras.values()))
    number = max(views.cameras) + 1
    added = ModelCamera(entry.model, size.width, size.height, entry.params)
    return ModelViews(
        [*views.names, *out],
        np.concatenate([views.numbers, views.numbers.max() + 1 + np.arange(len(out))]),
        np.concatenate([views.camera, np.full(len(out), number)]),
        np.concatenate([views.rotation, [truth.poses[name][0] for name in out]]),
        np.concatenate([views.shift, [truth.poses[name][1] for name in out]]),
        {**views.cameras, number: added},
    )


def nearest_views(scene: SparseModel, views: ModelViews, row: int) -> np.ndarray:
    """Of every point, the observation of the view that sees it most nearly as view `row`: (P,)."""
    centres = views.centres()
    ray = centres[scene.view] - scene.xyz[scene.point]
    other = centres[row] - scene.xyz[scene.point]
    cosine = np.einsum("oi,oi->o", ray, other)
    cosine /= np.linalg.norm(ray, axis=1) * np.linalg.norm(other, axis=1)
    order = np.lexsort((scene.view, -cosine, scene.point))
    best: np.ndarray = order[np.searchsorted(scene.point[order], np.arange(len(scene.xyz)))]
    return best


def measured(
    scene: SparseModel,
    views: ModelViews,
    reference: int,
    row: int,
    observation: np.ndarray,
    point: np.ndarray,
    photographs: PhotographCache,
) -> tuple[dict[str, np.ndarray], int]:
    """Errors in pixels in view `row` of points whose nearest view is `reference`.

    observation, point: (n,). Returns arrays (n,), NaN where a window was not found, and how many
    windows were tried.
    """
    xyz = scene.xyz[point]
    where = project(views, row, xyz)
    at = project(views, reference, xyz)
    facing = views.centres()[reference] - xyz
    facing /= np.linalg.norm(facing, axis=1, keepdims=True)
    found = {key: np.full(len(point), np.nan) for key in ("error", "along", "across", "observed")}
    images = [photographs.read(views.names[k], views.camera_of(k)) for k in (reference, row)]
    unit, tried = np.ones(2), 0
    for key, xy in (("error", at), ("observed", scene.xy[observation])):
        inside = np.flatnonzero(np.isfinite(at).all(axis=1))
        surfaces = Surfaces.of(views, reference, xy[inside], xyz[inside], facing[inside], BESIDE)
        rows, places, maps = predict(views, surfaces, row, unit, 2.0 * RADIUS)
        if not len(rows):
            continue
        windows = Reference(images[0], xy[inside], RADIUS)
        seen = windows.find(images[1], rows, places, maps, STEPS)
        good = (seen.correlation > CORRELATION) & (seen.moved < FARTHEST)
        chosen = inside[rows[good]]
        off = seen.xy[good] - where[chosen]
        found[key][chosen] = np.linalg.norm(off, axis=1)
        if key == "error":
            tried = len(rows)
            farther = project(views, row, xyz[chosen] - 1e-4 * facing[chosen])
            line = farther - where[chosen]
            line /= np.linalg.norm(line, axis=1, keepdims=True)
            found["along"][chosen] = np.abs(np.einsum("ni,ni->n", off, line))
            found["across"][chosen] = np.abs(off[:, 0] * line[:, 1] - off[:, 1] * line[:, 0])
    return {**found, "point": point}, tried


def interval(point: np.ndarray, error: np.ndarray) -> list[float]:
    """95 % of the medians of a bootstrap over points."""
    good = np.isfinite(error)
    point, error = point[good], error[good]
    order = np.argsort(point, kind="stable")
    _, starts, counts = np.unique(point[order], return_index=True, return_counts=True)
    random, medians = np.random.default_rng(0), []
    for _ in range(BOOTSTRAPS):
        chosen = random.integers(len(starts), size=len(starts))
        rows = np.repeat(starts[chosen], counts[chosen])
        first = np.repeat(np.cumsum(counts[chosen]) - counts[chosen], counts[chosen])
        medians.append(np.median(error[order[rows + np.arange(len(rows)) - first]]))
    return [float(value) for value in np.percentile(medians, (2.5, 97.5))]


def table(sets: dict[str, dict[str, Record]]) -> str:
    """An aligned Markdown table with a row for each method on each set."""
    head = (
        "points",
        "track",
        "measured",
        "found",
        "error",
        "along",
        "across",
        "observed",
        "< 1 px",
    )
    rows = [["set", "method", *head]]
    for name, methods in sets.items():
        for key, record in methods.items():
            low, high = record["error_interval"]
            rows.append(
                [
                    *(name, TITLES[key], f"{record['points']:,}", f"{record['track_length']:.2f}"),
                    f"{record['measured']:,}",
                    f"{100 * record['measured'] / max(record['tried'], 1):.0f} %",
                    f"{record['error']:.3f} [{low:.3f}, {high:.3f}]",
                    *(f"{record[part]:.3f}" for part in ("along", "across", "observed")),
                    f"{record['below_1_px'] / 1000:.1f}",
                ]
            )
    return aligned(rows)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Triangulate, measure, print the table, write the JSON and return what it holds."""
    folders = chosen(options)
    loaded = {name: load_truth(folder) for name, folder in folders.items()}
    for name, (_, cameras) in loaded.items():
        if len(cameras) > 1:
            raise ArgumentError(f"{folders[name]}: has {len(cameras)} cameras; give sets of one.")
    from eloftr import load_matcher

    measured_with = environment(options.weights, load_matcher(options.weights))
    measured_with["versions"] |= {name: version(name) for name in ("pycolmap", "pyarrow")}
    sets: dict[str, dict[str, Record]] = {}
    for name, (truth, cameras) in loaded.items():
        (camera,) = cameras
        kept, out = left_out(sorted(truth.poses))
        with TemporaryDirectory() as scratch:
            work = Path(scratch)
            models = triangulate_sift(truth, kept, work, camera)
            how = work, camera, options.weights, options.long_side
            models |= triangulate_ours(truth, kept, *how)
            sets[name] = {key: measure(models[key], truth, out, camera) for key in TITLES}
    settings = {"long_side": options.long_side, "radius": RADIUS, "correlation": CORRELATION}
    results = {"settings": settings, "environment": measured_with, "sets": sets}
    report(results, table(sets), options.out)
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = sets_parser(__doc__, SETS, "write the numbers, the settings and the versions as JSON")
    add_matching(parser)
    return exit_code("known_poses", run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
