"""Judge models without a truth: by matches that they have not seen, and by a second model that
shares no pair with the first. COLMAP's own SIFT on the same pairs stands beside ours.

    pip install .[test]
    python benchmarks/quality/agreement.py --out results.json

All pairs of a set are dealt out to two halves at random. Each method makes a model of each half:

ours   `pipeline.match` on the pairs at `--long-side`, then `pipeline.reconstruct`
SIFT   pycolmap's extract_features, match_image_pairs and incremental_mapping on the full-size
       photographs: its defaults, but fixed seeds, and models from three images on

Both know whether one camera took the photographs: `poses.json` of the set says it. Nothing else of
that file is used, because a SIFT model of all pairs gave it in these sets.

The halves of ours share nothing but the photographs. Those of SIFT share its keypoints, and with
them the errors of these: this is in favour of SIFT.

Columns:

images      registered in the largest models of both halves, and of how many
rotation    angle between the two models' poses of an image, degrees, after the similarity that
            brings the camera centres closest; median / worst
pairs       angle between the two models' relative rotations of two images, degrees, over all pairs
            of images; median / worst
position    distance between the two centres of an image, % of their root mean square distance from
            their mean; median / worst
held out    distance of the verified matches of the other half's pairs from the epipolar lines of
            the model, pixels of the photographs (Sampson's), median over the matches of both
            halves: of our matches, and of SIFT's. Both methods are judged by both, between the
            images that all four models have.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.quality.datasets import epipolar_residuals
from benchmarks.quality.quality import environment
from benchmarks.quality.reconstruction import (
    MIN_ALIGNED,
    error_cells,
    in_own_process,
    largest,
    load_truth,
    mapping_options,
    pose_errors,
    say,
)
from benchmarks.quality.sets import add_matching, aligned, chosen, exit_code, report, sets_parser
from eloftr.errors import ArgumentError
from pipeline.demo.truth import DemoTruth
from pipeline.extras import import_pycolmap
from pipeline.match.turns.tries import settled_matches
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.store.folder import Folder
from pipeline.tables import unragged

SETS = ("door12", "sceaux11", "sacre_coeur17", "fox50")
TITLES = {"ours": "ours", "sift": "SIFT"}
MATCHES = ("image0", "image1", "keypoints0", "keypoints1", "inliers", "num_inliers")

Record = dict[str, Any]
Points = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]  # of both images, COLMAP's origin


def halves(names: list[str]) -> tuple[list[tuple[str, str]], ...]:
    """All pairs of the images, dealt out to two lists at random."""
    pairs = list(itertools.combinations(sorted(names), 2))
    order = np.random.default_rng(0).permutation(len(pairs))
    return tuple([pairs[k] for k in np.sort(order[half::2])] for half in (0, 1))


def map_ours(images: Path, pairs: Path, work: Path, single: bool, options: Any) -> Points:
    """Our model of a half, work/sparse/0, and its verified matches."""
    pipeline.match(
        *(str(images), str(work / "run")),
        pairs=str(pairs),
        weights=options.weights,
        long_side=options.long_side,
        progress=say,
    )
    cameras = CameraOptions(sharing="single" if single else "per-image")
    pipeline.reconstruct(str(work / "run"), work / "model", cameras=cameras, progress=say)
    found = work / "model" / "sparse"
    if found.is_dir():
        found.rename(work / "sparse")
    points: Points = {}
    for _, table in settled_matches(Folder(str(work / "run")), MATCHES):
        sides = [unragged(table[name]) for name in ("keypoints0", "keypoints1", "inliers")]
        for row, one, other, inliers in zip(table.to_pylist(), *sides, strict=True):
            if row["num_inliers"]:
                points[row["image0"], row["image1"]] = one[inliers] + 0.5, other[inliers] + 0.5
    return points


def map_sift(images: Path, pairs: Path, work: Path, single: bool) -> Points:
    """SIFT's model of a half, work/sparse/0, and its verified matches."""
    pycolmap = import_pycolmap()
    database = work / "database.db"
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = 0
    mode = pycolmap.CameraMode.SINGLE if single else pycolmap.CameraMode.PER_IMAGE
    cpu = pycolmap.Device.cpu
    pycolmap.extract_features(database, images, camera_mode=mode, device=cpu)
    pycolmap.match_image_pairs(
        database,
        pairing_options=pycolmap.ImportedPairingOptions(match_list_path=pairs),
        verification_options=verification,
        device=cpu,
    )
    (work / "models").mkdir()
    models = pycolmap.incremental_mapping(database, images, work / "models", mapping_options())
    if models:
        (work / "sparse" / "0").mkdir(parents=True)
        largest(models).write(work / "sparse" / "0")
    points: Points = {}
    with pycolmap.Database.open(database) as opened:
        stored = {image.image_id: image.name for image in opened.read_all_images()}
        keypoints = {number: opened.read_keypoints(number)[:, :2] for number in stored}
        for ids, geometry in zip(*opened.read_two_view_geometries(), strict=True):
            one, other = pycolmap.pair_id_to_image_pair(ids)
            found = geometry.inlier_matches
            if len(found):
                points[stored[one], stored[other]] = (
                    keypoints[one][found[:, 0]],
                    keypoints[other][found[:, 1]],
                )
    return points


class Model:
    """The largest model of a half: poses and cameras by name; none where nothing was mapped."""

    def __init__(self, folder: Path) -> None:
        self.poses: dict[str, np.ndarray] = {}  # (3, 4), world to camera
        self.cameras: dict[str, Any] = {}
        if not folder.is_dir():
            return
        reconstruction = import_pycolmap().Reconstruction(str(folder))
        for number in reconstruction.reg_image_ids():
            image = reconstruction.images[number]
            self.poses[image.name] = image.cam_from_world().matrix()
            # A copy: the model takes its own with it.
            self.cameras[image.name] = copy.deepcopy(image.camera)

    def distances(self, points: Points, names: set[str]) -> np.ndarray:
        """Sampson's distances of matches between these images, pixels."""
        parts = [np.empty(0)]
        for (one, other), (first, second) in points.items():
            if {one, other} <= names:
                cameras = self.cameras[one], self.cameras[other]
                rays = cameras[0].cam_from_img(first), cameras[1].cam_from_img(second)
                focal = [camera.mean_focal_length() for camera in cameras]
                parts.append(sampson(self.poses[one], self.poses[other], *rays, *focal))
        return np.concatenate(parts)


def sampson(
    pose0: np.ndarray,
    pose1: np.ndarray,
    points0: np.ndarray,
    points1: np.ndarray,
    focal0: float,
    focal1: float,
) -> np.ndarray:
    """Sampson's distances (n,), pixels, of normalised points (n, 2) from the epipolar geometry.

    pose0, pose1: (3, 4), world to camera. focal0, focal1: pixels.
    """
    turn = pose1[:, :3] @ pose0[:, :3].T
    x, y, z = pose1[:, 3] - turn @ pose0[:, 3]
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ turn
    to_lines = epipolar_residuals(essential, points0, points1) * [[focal0], [focal1]]
    apart = np.maximum(np.hypot(*to_lines), np.finfo(float).tiny)
    distances: np.ndarray = np.abs(to_lines.prod(axis=0)) / apart
    return distances


def agreement(models: tuple[Model, Model]) -> Record:
    """How far the poses of two models lie from each other, by image and by pair of images."""
    names = sorted(models[0].poses.keys() & models[1].poses.keys())
    record: Record = {"registered": [len(model.poses) for model in models], "both": len(names)}
    if len(names) < MIN_ALIGNED:
        return record
    first, second = ({name: model.poses[name] for name in names} for model in models)
    poses = {name: (matrix[:, :3], matrix[:, 3]) for name, matrix in first.items()}
    return record | pose_errors(second, DemoTruth(Path(), (0, 0), {}, poses))


def held_out(
    models: Mapping[str, tuple[Model, Model]], points: Mapping[str, tuple[Points, Points]]
) -> dict[str, Record]:
    """Of each method, the distances of both methods' matches from the model that has not seen them.

    models, points: those of both halves, by method.
    """
    every = [model.poses.keys() for both in models.values() for model in both]
    names = set.intersection(*map(set, every))
    found: dict[str, Record] = {}
    for method, both in models.items():
        found[method] = {}
        for judge, seen in points.items():
            off = np.concatenate(
                [model.distances(seen[1 - half], names) for half, model in enumerate(both)]
            )
            found[method][judge] = {"matches": len(off)}
            if len(off):
                low, middle, high = np.percentile(off, (25, 50, 75)).tolist()
                found[method][judge] |= {"median": middle, "quartiles": [low, high]}
    return found


def compare(images: Path, names: list[str], single: bool, work: Path, options: Any) -> Record:
    """The record of each method on one set."""
    points: dict[str, list[Points]] = {method: [] for method in TITLES}
    models: dict[str, list[Model]] = {method: [] for method in TITLES}
    for half, pairs in enumerate(halves(names)):
        listed = work / f"pairs_{half}.txt"
        listed.write_text("".join(f"{one} {other}\n" for one, other in pairs))
        for method in TITLES:
            folder = work / f"{method}_{half}"
            folder.mkdir()
            what = images, listed, folder, single
            if method == "ours":
                points[method].append(map_ours(*what, options))
            else:
                points[method].append(in_own_process(map_sift, *what))
            models[method].append(Model(folder / "sparse" / "0"))
    pair = {method: (both[0], both[1]) for method, both in models.items()}
    judged = held_out(pair, {method: (both[0], both[1]) for method, both in points.items()})
    return {
        method: {"of": len(names), **agreement(pair[method]), "held_out": judged[method]}
        for method in TITLES
    }


def table(sets: dict[str, Record]) -> str:
    """An aligned Markdown table with a row for each method on each set."""
    head = ("images", "rotation °", "pairs °", "position %", "held out, ours", "held out, SIFT")
    rows = [["set", "method", *head]]
    for name, methods in sets.items():
        for method, record in methods.items():
            registered = " + ".join(map(str, record["registered"]))
            row = [name, TITLES[method], f"{registered} of {record['of']}"]
            row += error_cells(record)
            for judge in TITLES:
                median = record["held_out"][judge].get("median")
                row.append("–" if median is None else f"{median:.3f} px")
            rows.append(row)
    return aligned(rows)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make the models, print the table, write the JSON and return what it holds."""
    loaded = {name: load_truth(folder) for name, folder in chosen(options).items()}
    for name, (truth, _) in loaded.items():
        if len(truth.poses) <= MIN_ALIGNED:
            raise ArgumentError(
                f"{name}: {len(truth.poses)} images; halves need {MIN_ALIGNED + 1} or more."
            )
    from eloftr import load_matcher

    measured_with = environment(options.weights, load_matcher(options.weights))
    sets: dict[str, Record] = {}
    for name, (truth, cameras) in loaded.items():
        print(f"{name}: {len(truth.poses)} images", file=sys.stderr, flush=True)
        with TemporaryDirectory() as scratch:
            what = truth.images.resolve(), sorted(truth.poses), len(cameras) == 1
            sets[name] = compare(*what, Path(scratch), options)
    results = {
        "settings": {"long_side": options.long_side},
        "environment": measured_with,
        "sets": sets,
    }
    report(results, table(sets), options.out)
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = sets_parser(__doc__, SETS, "write the numbers, the settings and the versions as JSON")
    add_matching(parser)
    return exit_code("agreement", run, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
