"""Surveys from the air and photographs that are turned, with SIFT on the same pairs.

    python benchmarks/quality/surveys.py --data FOLDER [--sets seneca167 …] [--sift] [--out FILE]

verified   share of pairs that verification keeps (SIFT: at least 15 inliers), by the difference of
           the headings that the files hold; for ours with turns and scales off, too
rounds     pairs that every later round of ours tries again
models     images registered, largest model first; of it the points' mean track length and
           reprojection error, pixels
GPS        of the largest model: horizontal distance of the camera centres from the positions in
           EXIF after the best similarity, root mean square, metres; of a set with a gcp.csv that
           of its control points, which are triangulated from their marks
seconds    of matching with turns and scales off, and as it is by default

Pairs are the 12 nearest of every photograph by GPS, or all where the files hold no position. All
photographs of a set share one SIMPLE_RADIAL camera. SIFT is COLMAP's, at a longer side of 1,600.
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

import itertools

import pipeline
from benchmarks.environment import argument_parser, write_results
from pipeline.events import Event
from pipeline.extras import import_pycolmap
from pipeline.match.turns.between import wrapped
from pipeline.match.turns.tries import settled_matches
from pipeline.pairs.pair_list import exhaustive, pairs_table
from pipeline.pairs.spatial import exif_positions, neighbours
from pipeline.photos.headings import headings as headings_of
from pipeline.photos.source import list_images
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.similarity import umeyama
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.reconstruct.world.control import read_control
from pipeline.reconstruct.world.points import seen_points, views_by_name
from pipeline.store.folder import Folder

SETS = ("brighton18", "seneca167", "copr41", "monstree23")
NEAREST = 12
LEAST_INLIERS = 15  # of a verified pair of SIFT's
SIFT_SIDE = 1600  # pixels of the longer side
BINS = (0, 15, 30, 60, 120, 150, 180)  # degrees between two headings
LEAST_POSITIONS = 4  # registered images with GPS, for an alignment
Record = dict[str, Any]


def pairs_of(images: Path, names: list[str]) -> pa.Table:
    """A table of PAIRS: the nearest by GPS, or all."""
    positions = exif_positions(Folder(str(images)), names)
    if len(positions.names) < len(names):
        return pairs_table(names, exhaustive(len(names)))
    found = neighbours(positions, NEAREST)
    return pairs_table(positions.names, found.pairs)


def shares(inliers: dict[tuple[str, str], int], headings: dict[str, float | None]) -> Record:
    """How many pairs are verified, in all and by the difference of their headings."""
    good = np.array([number > 0 for number in inliers.values()])
    result: Record = {"pairs": len(good), "verified": int(good.sum())}
    sides = [[headings[pair[side]] for pair in inliers] for side in (0, 1)]
    if all(one is not None for side in sides for one in side):
        first, second = np.array(sides, float)
        off = np.abs(wrapped(second - first))
        result["by_heading"] = {
            f"{low}-{high}": [int(inside.sum()), round(float(good[inside].mean()), 3)]
            for low, high in itertools.pairwise(BINS)
            if (inside := (off >= low) & ((off < high) | (high == BINS[-1]))).any()
        }
    return result


def gps_residual(model: Any, images: Path) -> float | None:
    """Root mean square horizontal distance from EXIF's positions, metres; None without them."""
    registered = [model.images[k] for k in model.reg_image_ids()]
    names = sorted(image.name for image in registered)
    positions = exif_positions(Folder(str(images)), names, height=True)
    if len(positions.names) < LEAST_POSITIONS:
        return None
    centres = {image.name: image.projection_center() for image in registered}
    source = np.array([centres[name] for name in positions.names])
    off = _residuals(source, positions.metres)
    up = positions.metres.mean(axis=0)
    up /= np.linalg.norm(up)
    return _root_mean_square(off - np.outer(off @ up, up))


def control_residual(model: Any, table: Path) -> float | None:
    """Root mean square horizontal distance of control points from where they were measured, metres.

    table: a CSV with gcp, easting, northing, height, image, x, y; a row for every mark. Marks that
    contradict the others do not count. None where fewer than LEAST_POSITIONS points can be seen.
    """
    control = read_control(str(table))
    seen, _ = seen_points(control, views_by_name(ModelViews.of(model)))
    if len(seen) < LEAST_POSITIONS:
        return None
    found = np.array([point.place for point in seen])
    true = control.coordinates[[point.row for point in seen]]
    return _root_mean_square(_residuals(found, true)[:, :2])


def _residuals(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, 3): how far points lie from others after the best similarity."""
    scale, turn, shift = umeyama(source, target)
    off: np.ndarray = scale * source @ turn.T + shift - target
    return off


def _root_mean_square(off: np.ndarray) -> float:
    return float(np.sqrt((off**2).sum(axis=1).mean()))


def models_of(sparse: Path, images: Path) -> Record:
    """What the models of a folder hold, the largest first."""
    pycolmap = import_pycolmap()
    models = [pycolmap.Reconstruction(folder) for folder in sorted(sparse.glob("*"))]
    models.sort(key=lambda model: -model.num_reg_images())
    if not models:
        return {"images": []}
    first, table = models[0], images.parent / "gcp.csv"
    return {
        "images": [model.num_reg_images() for model in models],
        "track_length": round(first.compute_mean_track_length(), 2),
        "error": round(first.compute_mean_reprojection_error(), 3),
        "gps": gps_residual(first, images),
        "control": control_residual(first, table) if table.exists() else None,
    }


def ours(
    images: Path, pairs: pa.Table, headings: dict[str, float | None], work: Path, weights: str
) -> Record:
    """Match and reconstruct. `off`: what matching without turns and second chances finds."""
    options = {"pairs": pairs, "weights": weights, "executor": "local"}
    started = time.monotonic()
    pipeline.match(str(images), str(work / "off"), turns="off", scales="off", **options)
    off = time.monotonic() - started
    run, rounds = str(work / "run"), []

    def listen(event: Event) -> None:
        if event.name == "turns":
            rounds.append(event.fields["pairs"])

    started = time.monotonic()
    pipeline.match(str(images), run, progress=listen, **options)
    seconds = time.monotonic() - started
    pipeline.reconstruct(run, cameras=CameraOptions(sharing="single"))
    return {
        "off": shares(inliers_of(str(work / "off")), headings),
        "rounds": rounds,
        **shares(inliers_of(run), headings),
        "models": models_of(work / "run" / "sfm" / "sparse", images),
        "seconds": [round(off, 1), round(seconds, 1)],
    }


def inliers_of(run: str) -> dict[tuple[str, str], int]:
    """Inliers of every pair of a run, 0 where it is not verified."""
    return {
        (row["image0"], row["image1"]): row["num_inliers"] or 0
        for _, table in settled_matches(Folder(run), ("image0", "image1", "num_inliers"))
        for row in table.to_pylist()
    }


def sift(images: Path, pairs: pa.Table, headings: dict[str, float | None], work: Path) -> Record:
    """COLMAP's SIFT and incremental mapper on the same pairs."""
    pycolmap = import_pycolmap()
    database, models = work / "sift.db", work / "sift"
    models.mkdir()
    rows = pairs.to_pylist()
    listed = work / "pairs.txt"
    listed.write_text("".join(f"{row['image0']} {row['image1']}\n" for row in rows))
    extraction = pycolmap.FeatureExtractionOptions(max_image_size=SIFT_SIDE)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = 0
    started = time.monotonic()
    pycolmap.extract_features(
        database,
        images,
        camera_mode=pycolmap.CameraMode.SINGLE,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )
    pycolmap.match_image_pairs(
        database,
        pairing_options=pycolmap.ImportedPairingOptions(match_list_path=listed),
        verification_options=verification,
        device=pycolmap.Device.cpu,
    )
    seconds = time.monotonic() - started
    inliers = {}
    with pycolmap.Database.open(database) as opened:
        number = {image.name: image.image_id for image in opened.read_all_images()}
        for row in rows:
            pair = row["image0"], row["image1"]
            ids = [number[name] for name in pair]
            exists = opened.exists_two_view_geometry(*ids)
            found = len(opened.read_two_view_geometry(*ids).inlier_matches) if exists else 0
            inliers[pair] = found if found >= LEAST_INLIERS else 0
    mapping = pycolmap.IncrementalPipelineOptions(random_seed=0, min_model_size=3)
    mapping.extract_colors = False
    for number, model in pycolmap.incremental_mapping(database, images, models, mapping).items():
        (models / f"written_{number}").mkdir()
        model.write(models / f"written_{number}")
    (models / "sparse").mkdir()
    for folder in models.glob("written_*"):
        folder.rename(models / "sparse" / folder.name)
    return {
        **shares(inliers, headings),
        "models": models_of(models / "sparse", images),
        "seconds": [round(seconds, 1)],
    }


def line(name: str, method: str, record: Record) -> str:
    """One row of the printed table."""
    models, bins = record["models"], record.get("by_heading", {})
    parts = " ".join(f"{share:.2f}" for _, share in bins.values()) or "-"
    gps = models.get("gps") or models.get("control")
    return (
        f"{name:12}{method:6}{record['verified']:6}/{record['pairs']:<6}{parts:32}"
        f"{'+'.join(map(str, models['images'])) or '0':>12}{models.get('error', 0):7.2f} px"
        f"{models.get('track_length', 0):6.2f}{'' if gps is None else f'{gps:8.2f} m'}"
        f"  {' '.join(f'{value:.0f} s' for value in record['seconds'])}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the sets, each with a folder images")
    add("--sets", nargs="+", choices=SETS, default=SETS, help="(default: all)")
    add("--weights", default="small", help="of the matcher (default: %(default)s)")
    add("--sift", action="store_true", help="SIFT on the same pairs, too")
    add("--work", type=Path, help="folder that keeps the runs and models of each set, as NAME")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, Record]] = {}
    for name in options.sets:
        images = options.data / name / "images"
        folder = Folder(str(images))
        names = list_images(folder)
        pairs = pairs_of(images, names)
        table = headings_of(folder, names).table(names)
        headings = dict(zip(names, table["heading"].to_pylist(), strict=True))
        with tempfile.TemporaryDirectory() as scratch:
            work = (options.work or Path(scratch)) / name
            work.mkdir(parents=True)
            found = {"ours": ours(images, pairs, headings, work, options.weights)}
            if options.sift:
                found["sift"] = sift(images, pairs, headings, work)
        results[name] = found
        for method, record in found.items():
            print(line(name, method, record), flush=True)
        if options.out:
            write_results(options.out, {"sets": results}, "torch", "pycolmap", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
