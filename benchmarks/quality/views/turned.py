"""How many matches are right where one photograph is turned, or shows the scene at another size.

    python benchmarks/quality/views/turned.py --data FOLDER [--pairs N] [--out FILE]

Image 1 of every pair is turned about its centre, or its middle is cropped, so that it shows the
scene larger; both at once in the last row. A match is right within 3 pixels of the truth, in pixels
of an image whose longer side is 640: of a homography the distance in image 1, of poses the larger
distance to the epipolar lines.

network   all matches of the first round, as the network gives them
off       inliers of verified pairs, without other turns and scales
auto      inliers of verified pairs, with both
sift      OpenCV's SIFT on the same pixels, mutual neighbours that pass the ratio test

Of each: the mean share of right matches, divided by that of the upright pair of equal size; and
the mean number of right matches. Where a pair has no match its share is 0. Every changed image has
one pair, so no chain of pairs tells how it was changed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import argument_parser, write_results
from benchmarks.quality.datasets import homogeneous, load_pairs, load_view
from benchmarks.quality.sift import detect_sift, match_sift
from pipeline.match.turns.tries import settled_matches
from pipeline.photos.turns import turned, unturned
from pipeline.store.folder import Folder
from pipeline.tables import PAIRS

SETS = ("homography16", "kodak24", "fountain11")
LONG_SIDE = 640
RIGHT = 3.0  # pixels of an image of that longer side
CORNER = 0.12  # of the sides; how far a drawn homography moves each corner at most
SPREAD, SHIFT = (0.7, 1.2), (-15.0, 15.0)  # of grey values between the two images
METHODS = ("network", "off", "auto", "sift")

Change = tuple[int, float]  # degrees clockwise, and how much larger image 1 shows the scene
Errors = Callable[[np.ndarray, np.ndarray], np.ndarray]  # points of both images → pixels of image 1
Record = dict[str, Any]
ONE: Change = (0, 1)
CHANGES: tuple[Change, ...] = (
    *((turn, 1) for turn in (0, 15, 30, 45, 60, 90, 180)),
    *((0, scale) for scale in (1.4, 2, 3)),
    (90, 2),
)


@dataclass(frozen=True)
class Truth:
    """Two images and what is true of them. images: (H, W) uint8. errors: see `Errors`."""

    name: str
    images: tuple[np.ndarray, np.ndarray]
    errors: Errors

    def right(self, points0: np.ndarray, points1: np.ndarray) -> int:
        """How many points (M, 2) and (M, 2) of the two images belong together."""
        if not len(points0):
            return 0
        limit = RIGHT * max(self.images[1].shape) / LONG_SIDE
        return int((self.errors(points0, points1) <= limit).sum())


def truths(data: Path, name: str, count: int) -> Iterator[Truth]:
    """So many pairs of a set, evenly spread over it."""
    if name == "kodak24":
        files = sorted((data / "photos" / name).rglob("*.*g"))
        for seed, file in enumerate(spread(files, count)):
            yield drawn(file.stem, load_view(file, None).grey, np.random.default_rng(seed))
        return
    for pair in spread(load_pairs(data / name), count):
        files = [data / name / "images" / one for one in pair.names]
        first, second = (load_view(file, None).grey for file in files)
        yield Truth("-".join(file.stem for file in files), (first, second), pair.errors)


def spread(items: list[Any], count: int) -> list[Any]:
    """So many items, the middle ones of equal stretches."""
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(min(count, len(items)))]


def drawn(name: str, image: np.ndarray, rng: np.random.Generator) -> Truth:
    """A photograph, and it through a homography and under another light."""
    height, width = image.shape
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    moved = corners + rng.uniform(-CORNER, CORNER, (4, 2)) * (width, height)
    matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))
    kind, edge = cv2.INTER_CUBIC, cv2.BORDER_REFLECT
    other = cv2.warpPerspective(image, matrix, (width, height), flags=kind, borderMode=edge)
    lit = np.clip(other * rng.uniform(*SPREAD) + rng.uniform(*SHIFT), 0, 255).astype(np.uint8)

    def errors(points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
        mapped = homogeneous(points0) @ matrix.T
        return np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - points1, axis=1)

    return Truth(name, (image, lit), errors)


def changed(image: np.ndarray, change: Change) -> np.ndarray:
    """The middle of an image (H, W) that a scale leaves, turned."""
    turn, scale = change
    x, y, width, height = _middle(image, scale)
    return turned(image[y : y + height, x : x + width], turn)


def unchanged(points: np.ndarray, image: np.ndarray, change: Change) -> np.ndarray:
    """(M, 2) pixels of the changed image → pixels of the image."""
    turn, scale = change
    x, y, width, height = _middle(image, scale)
    found: np.ndarray = unturned(points, turn, (height, width)) + np.array([x, y])
    return found


def _middle(image: np.ndarray, scale: float) -> tuple[int, int, int, int]:
    height, width = (round(side / scale) for side in image.shape)
    return (image.shape[1] - width) // 2, (image.shape[0] - height) // 2, width, height


def names(number: int) -> tuple[str, list[str]]:
    """The file of image 0 of a case, which is the first in the alphabet, and those of image 1."""
    return f"{number:03}-a.png", [f"{number:03}-b{k:02}.png" for k in range(len(CHANGES))]


def written(cases: list[Truth], folder: Path) -> pa.Table:
    """Write the images of all cases and all changes of image 1; PAIRS of them."""
    rows = []
    for number, case in enumerate(cases):
        first, others = names(number)
        Image.fromarray(case.images[0]).save(folder / first)
        for change, other in zip(CHANGES, others, strict=True):
            Image.fromarray(changed(case.images[1], change)).save(folder / other)
            rows.append({"image0": first, "image1": other})
    return pa.Table.from_pylist(rows, schema=PAIRS)


def judged(cases: list[Truth], run: str, inliers: bool) -> dict[Change, list[tuple[int, int]]]:
    """Matches and right ones of every case, by change. inliers: those of verified pairs alone."""
    found: dict[Change, list[tuple[int, int]]] = {change: [] for change in CHANGES}
    for _, table in settled_matches(Folder(run)):
        for row in table.to_pylist():
            number, k = (int(text) for text in row["image1"].removesuffix(".png").split("-b"))
            case, change = cases[number], CHANGES[k]
            kept = np.array(row["inliers"], bool) if inliers else slice(None)
            sides = (row[f"keypoints{side}"] for side in (0, 1))
            points0, points1 = (np.array(points, float).reshape(-1, 2)[kept] for points in sides)
            back = unchanged(points1, case.images[1], change)
            found[change].append((len(points0), case.right(points0, back)))
    return found


def with_sift(cases: list[Truth], folder: Path) -> dict[Change, list[tuple[int, int]]]:
    """Matches of SIFT and right ones of every case, by change. folder: as of `written`."""
    found: dict[Change, list[tuple[int, int]]] = {change: [] for change in CHANGES}
    for number, case in enumerate(cases):
        name, others = names(number)
        first = load_view(folder / name, LONG_SIDE)
        features = detect_sift(first.grey)
        for change, other in zip(CHANGES, others, strict=True):
            second = load_view(folder / other, LONG_SIDE)
            points = match_sift(features, detect_sift(second.grey))
            points0, points1 = first.to_original(points[0]), second.to_original(points[1])
            back = unchanged(points1, case.images[1], change)
            found[change].append((len(points0), case.right(points0, back)))
    return found


def summarised(found: dict[Change, list[tuple[int, int]]]) -> dict[str, Record]:
    """Shares and numbers by change, as JSON has them."""
    shares = {
        change: float(np.mean([right / max(matches, 1) for matches, right in rows]))
        for change, rows in found.items()
    }
    return {
        f"{turn}° {scale:g}×": {
            "pairs": len(rows),
            "matched": sum(matches > 0 for matches, _ in rows),
            "matches": float(np.mean([matches for matches, _ in rows])),
            "right": float(np.mean([right for _, right in rows])),
            "share": shares[turn, scale],
            "relative": shares[turn, scale] / max(shares[ONE], 1e-9),
        }
        for (turn, scale), rows in found.items()
    }


def measured(cases: list[Truth], weights: str) -> dict[str, Any]:
    """All methods on all cases: summaries by method and change, and seconds of the two runs."""
    with tempfile.TemporaryDirectory() as scratch:
        images, run = Path(scratch) / "images", str(Path(scratch) / "run")
        images.mkdir()
        options = {"pairs": written(cases, images), "weights": weights, "executor": "local"}
        started = time.monotonic()
        pipeline.match(str(images), run, turns="off", scales="off", **options)
        first = time.monotonic() - started
        found = {"network": judged(cases, run, False), "off": judged(cases, run, True)}
        started = time.monotonic()
        pipeline.match(str(images), run, **options)
        again = time.monotonic() - started
        found |= {"auto": judged(cases, run, True), "sift": with_sift(cases, images)}
    seconds = {"first_round": round(first, 1), "later_rounds": round(again, 1)}
    return {**{name: summarised(rows) for name, rows in found.items()}, "seconds": seconds}


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the sets, each with a folder images")
    add("--sets", nargs="+", choices=SETS, default=SETS, help="(default: all)")
    add("--pairs", type=int, default=2, help="of every set (default: %(default)s)")
    add("--weights", default="small", help="of the matcher (default: %(default)s)")
    options = parser.parse_args(arguments)
    cases = [case for name in options.sets for case in truths(options.data, name, options.pairs)]
    results = measured(cases, options.weights)
    print(f"{len(cases)} pairs   " + "".join(f"{name:>22}" for name in METHODS))
    for change in results["network"]:
        cells = [results[name][change] for name in METHODS]
        texts = [f"{cell['relative']:.2f} {cell['right']:6.0f} right" for cell in cells]
        print(f"{change:10}" + "".join(f"{text:>22}" for text in texts))
    print(" ".join(f"{name} {value} s" for name, value in results["seconds"].items()))
    if options.out:
        results |= {"sets": list(options.sets), "pairs": len(cases), "weights": options.weights}
        write_results(options.out, results, "torch", "opencv-python-headless", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
