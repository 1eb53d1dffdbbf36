"""Models brought into the world: real surveys by EXIF and control points, and a made one by GPS.

    python benchmarks/quality/world.py --data FOLDER [--sets brighton18 …] [--models SET=FOLDER …]
        [--side 32] [--out FILE]

survey     a made survey of N × N images, mapped in blocks, and five draws of GPS that errs by 3 m a
           coordinate: metres that its cameras lie off their true places, and what a model without
           errors of its own would be off. Then one fault at a time: columns swapped, 30 % of the
           altitudes 45 m higher, all altitudes of the wrong sign, one position 300 m off; the
           sentences that name it
EXIF       residual and scale of a real survey by its EXIF positions, and how far pitch, roll and
           headings agree
control    by control points: residual, and the error of each where it is left out

A model of a real set is matched and mapped with default options and without refining, unless a
folder with a model is given.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import argument_parser, write_results
from benchmarks.quality.surveys import pairs_of
from benchmarks.scale.scenes import Scene, survey
from pipeline.errors import ReconstructionError
from pipeline.extras import import_pycolmap
from pipeline.pairs.spatial import east_north_up, from_east_north_up, geodetic
from pipeline.photos.source import list_images
from pipeline.reconstruct.similarity import Similarity, umeyama
from pipeline.store.folder import Folder

BY_EXIF, BY_CONTROL = ("brighton18", "seneca167"), ("copr41",)
PLACE = np.array([50.0865, 14.4114, 210.0])  # of the made survey
NOISE, DRAWS = 3.0, 5  # metres of a coordinate, 1 sigma; how often it is drawn
HIGHER, SHARE = 45.0, 0.3  # metres, as of the geoid in Prague; share of the images
OUTLIER = np.array([240.0, -180.0, 0.0])
Record = dict[str, Any]
Fault = Callable[[np.ndarray], np.ndarray]


def higher(degrees: np.ndarray) -> np.ndarray:
    """A share of the altitudes over the ellipsoid, the others over the sea."""
    changed = degrees.copy()
    changed[: int(SHARE * len(degrees)), 2] += HIGHER
    return changed


def one_off(degrees: np.ndarray) -> np.ndarray:
    """One position far off."""
    changed = degrees.copy()
    changed[7] = geodetic(from_east_north_up(OUTLIER[None], degrees[7]))[0]
    return changed


FAULTS: dict[str, Fault] = {
    "latitude and longitude swapped": lambda degrees: degrees[:, [1, 0, 2]],
    "30 % of the altitudes over the ellipsoid": higher,
    "altitudes below sea level": lambda degrees: degrees * [1, 1, -1],
    "one position 300 m off": one_off,
}


def write_gps(table: Path, degrees: np.ndarray) -> Path:
    """A table of the positions (N, 3) of a made survey."""
    rows = [
        f"{row:06}.jpg,{latitude:.9f},{longitude:.9f},{altitude:.3f}"
        for row, (latitude, longitude, altitude) in enumerate(degrees.tolist())
    ]
    table.write_text("\n".join(["image,latitude,longitude,altitude", *rows]) + "\n")
    return table


def off_truth(model: Path, origin: dict[str, float], scene: Scene) -> np.ndarray:
    """Metres from the cameras of an aligned model to their true places. Nothing is aligned here."""
    made = import_pycolmap().Reconstruction(model)
    rows = np.array(sorted(made.reg_image_ids())) - 1
    centres = np.array([made.images[row + 1].projection_center() for row in rows.tolist()])
    places = from_east_north_up(scene.centre[rows], PLACE)
    true = east_north_up(places, np.array([*origin.values()]))
    off: np.ndarray = np.linalg.norm(centres - true, axis=1)
    return off


def made_survey(side: int, model: Path | None, work: Path) -> Record:
    """Bring a made survey to GPS with noise, and with one fault at a time.

    model: of the survey; None maps it.
    """
    scene = survey(side)
    if model is None:
        model = work / "survey" / "sparse" / "0"
        scene.write(work / "survey.db")
        how: Record = {"refine": "none", "executor": "local"}
        pipeline.reconstruct(database=work / "survey.db", output=work / "survey", **how)
    draws = [noisy(scene, seed) for seed in range(DRAWS)]
    found = [aligned(model, degrees_of(places), scene, work) for places in draws]
    for record, places in zip(found, draws, strict=True):
        best = Similarity(*umeyama(scene.centre, places))(scene.centre)
        record["bound"] = float(np.median(np.linalg.norm(best - scene.centre, axis=1)))
    degrees = degrees_of(draws[0])
    wrong = {name: aligned(model, fault(degrees), scene, work) for name, fault in FAULTS.items()}
    return {
        "images": side**2,
        "draws": found,
        "faults": wrong,
    }


def noisy(scene: Scene, seed: int) -> np.ndarray:
    """Measured places (N, 3) of the cameras, metres."""
    places: np.ndarray = scene.centre + np.random.default_rng(seed).normal(
        0, NOISE, scene.centre.shape
    )
    return places


def degrees_of(places: np.ndarray) -> np.ndarray:
    """Latitudes, longitudes and altitudes of places (N, 3) of the made survey."""
    return geodetic(from_east_north_up(places, PLACE))


def aligned(model: Path, degrees: np.ndarray, scene: Scene, work: Path) -> Record:
    """A model of the made survey brought to a table, against the truth; or why it is not."""
    output, table = work / "aligned", write_gps(work / "gps.csv", degrees)
    try:
        made = pipeline.align_model(model, output, gps=table, gps_error=NOISE)
    except ReconstructionError as error:
        return {"refused": str(error).removeprefix(f"{model}: ")}
    world = made.world or {}
    off = off_truth(output, world["origin"], scene)
    return {
        "images": len(off),
        "median": float(np.median(off)),
        "largest": float(off.max()),
        "residual": world["positions"]["median"],
        "scale": world["scale"],
        "notes": made.notes,
    }


def model_of(images: Path, work: Path) -> Path:
    """Match and map a set."""
    names = list_images(Folder(str(images)))
    run = str(work / "run")
    pipeline.match(str(images), run, pairs=pairs_of(images, names), executor="local")
    pipeline.reconstruct(run, refine="none")
    return work / "run" / "sfm" / "sparse" / "0"


def by_exif(model: Path, images: Path, output: Path) -> Record:
    """A model by the EXIF positions of its photographs."""
    made = pipeline.align_model(model, output, gps=images)
    world = made.world or {}
    return {**world["positions"], "scale": world["scale"], "notes": made.notes}


def by_control(model: Path, table: Path, output: Path) -> Record:
    """A model by control points in UTM 11N."""
    made = pipeline.align_model(model, output, gcp=table, crs="WGS84 UTM 11N", frame="utm")
    control = (made.world or {})["control"]
    judged = [point for point in control["points"] if point["out"] is not None]
    ratio = float(
        np.median([point["out"] for point in judged])
        / np.median([point["others"] for point in judged])
    )
    return {**control, "scale": (made.world or {})["scale"], "ratio": ratio, "notes": made.notes}


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    sets = (*BY_EXIF, *BY_CONTROL)
    add("--data", type=Path, required=True, help="folder of the sets, each with a folder images")
    add("--sets", nargs="*", choices=sets, default=sets, help="(default: all)")
    add(
        "--models", nargs="*", default=[], metavar="SET=FOLDER", help="models that are made already"
    )
    add("--side", type=int, default=32, help="of the made survey (default: %(default)s)")
    options = parser.parse_args(arguments)
    given = dict(one.split("=", 1) for one in options.models)
    results: Record = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if options.side:
            results["survey"] = made_survey(
                options.side, Path(given["survey"]) if "survey" in given else None, work
            )
        for name in options.sets:
            images = options.data / name / "images"
            model = Path(given[name]) if name in given else model_of(images, work / name)
            output = work / f"{name}-aligned"
            table = images.parent / "gcp.csv"
            results[name] = (
                by_exif(model, images, output)
                if name in BY_EXIF
                else by_control(model, table, output)
            )
    for name, record in results.items():
        notes = record.get("notes") or [
            f"{fault}: {', '.join(one.get('notes', [one.get('refused', '')]))}"
            for fault, one in record["faults"].items()
        ]
        print(name, *notes, sep="\n  ", flush=True)
    if options.out:
        write_results(options.out, results, "pycolmap", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
