"""Measure what refining a model costs, by the size of its photographs.

    python benchmarks/speed/refining.py --model sparse/0 --images photos --out results.json

The photographs are reduced or enlarged to each of `--long-sides`, and the model with them. Each is
refined by this machine's processes in a process of its own, so that nothing is counted twice.
Columns:

seconds    an image, of all rounds: everything; measuring its tracks; adjusting the bundle
MB         peak memory of the largest process
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import argument_parser, commit, versions
from pipeline.events import Event
from pipeline.extras import import_pycolmap

LONG_SIDES = (1536, 3000, 6000)


def resized(model: Path, images: Path, target: Path, long_side: int) -> None:
    """Write the model and its photographs at another size into `target`."""
    pycolmap = import_pycolmap()
    made = pycolmap.Reconstruction(str(model))
    sizes: dict[int, tuple[int, int]] = {}
    for camera in made.cameras.values():
        factor = long_side / max(camera.width, camera.height)
        old = camera.width, camera.height
        camera.rescale(round(old[0] * factor), round(old[1] * factor))
        sizes[camera.camera_id] = old
    for image in made.images.values():
        camera, (width, height) = made.cameras[image.camera_id], sizes[image.camera_id]
        for point in image.points2D:
            point.xy = point.xy * [camera.width / width, camera.height / height]
        path = target / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = camera.width, camera.height
        Image.open(images / image.name).convert("RGB").resize(size).save(path, quality=95)
    (target / "model").mkdir()
    made.write_binary(target / "model")


def measured(folder: Path, long_side: int) -> dict[str, Any]:
    """Refine the model of a folder; seconds, and the peak memory of this process's children."""
    seconds = {"measuring": 0.0, "adjusting": 0.0}
    doing, since = "", 0.0

    def listen(event: Event) -> None:
        nonlocal doing, since
        if event.name in ("refining", "refined"):
            now = time.monotonic()
            seconds[doing] = seconds.get(doing, 0.0) + now - since
            next_one = "adjusting" if event.text.startswith("adjusting") else "measuring"
            doing, since = next_one if event.name == "refining" else "", now

    begun = time.monotonic()
    summary = pipeline.refine(
        folder / "model", folder / "images", folder / "out", executor="local", progress=listen
    )
    whole = time.monotonic() - begun
    return {
        "long_side": long_side,
        "images": summary.after.images,
        "points": summary.after.points,
        "observations": summary.after.observations,
        "seconds": whole,
        "measuring": seconds["measuring"],
        "adjusting": seconds["adjusting"],
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a new process, whose peaks of memory are its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table with a row for each size."""
    lines = [
        "| long side | images | points | seconds an image | measuring | adjusting | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        each = [row[name] / row["images"] for name in ("seconds", "measuring", "adjusting")]
        cells = [str(row[name]) for name in ("long_side", "images", "points")]
        cells += [f"{value:.2f}" for value in each]
        lines.append(f"| {' | '.join(cells)} | {row['peak_mb']:.0f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="folder of a COLMAP model")
    parser.add_argument("--images", type=Path, required=True, help="folder of its photographs")
    parser.add_argument("--long-sides", type=int, nargs="+", default=LONG_SIDES, help="pixels")
    options = parser.parse_args(arguments)
    rows = []
    for long_side in options.long_sides:
        with TemporaryDirectory() as name:
            where = Path(name), long_side
            alone(resized, options.model, options.images, *where)
            rows.append(alone(measured, *where))
    print(table(rows))
    if options.out is not None:
        results = {"versions": versions("torch", "pycolmap"), "commit": commit(), "rows": rows}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
