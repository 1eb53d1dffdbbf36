"""What reduced precision does to the matches, and what it costs: each type against float32 on the
same pairs.

    python benchmarks/speed/precision.py [--weights small] [--images FOLDER] [--device cuda] [--out
    results.json]

equal   share of float32's matches, pairs of 8×8 cells, that are found too, and of those found that
        float32 has
shift   pixels between the keypoints of image 1 of equal matches whose keypoints in image 0 are the
        same; `moved` is the share of equal matches whose keypoint in image 0 is another pixel of
        the cell seconds one pair, encoded and matched, the median of the pairs

Pairs are neighbours in the folder's order; without a folder, windows of a generated texture.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser
from benchmarks.speed.images import PairsToMatch, near_pairs, windows
from benchmarks.speed.matcher import environment, published, shape_of
from eloftr import load_model
from eloftr.matching.matcher import DTYPES, Matcher
from eloftr.model import PairMatches


def photographs(folder: Path | None, height: int, width: int, count: int) -> np.ndarray:
    """(count, H, W) uint8: photographs, or overlapping windows of a texture."""
    what = (
        near_pairs(count, 1)
        if folder is None
        else PairsToMatch(pictures=count, each=1, step=0, pairs=[])
    )
    return windows(folder, height, width, what)


@torch.inference_mode()
def run(matcher: Matcher, images: np.ndarray) -> tuple[list[PairMatches], float]:
    """Matches of neighbours, and the median seconds of a pair; the first pair warms up."""
    found, seconds = [], []
    for pair in [(0, 1), *zip(range(len(images) - 1), range(1, len(images)), strict=True)]:
        start = time.perf_counter()
        features = matcher.encode(images[list(pair)])
        found.append(matcher.model.match(features[:1], features[1:]))
        if matcher.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return found[1:], statistics.median(seconds[1:])


def compare(expected: list[PairMatches], found: list[PairMatches]) -> dict[str, float]:
    both = least = most = moved = 0
    shifts = []
    for one, other in zip(expected, found, strict=True):
        rows = {tuple(cell): n for n, cell in enumerate(one.cells.tolist())}
        common = [
            (rows[key], n)
            for n, cell in enumerate(other.cells.tolist())
            if (key := tuple(cell)) in rows
        ]
        both, least, most = both + len(common), least + len(one.scores), most + len(other.scores)
        if common:
            a, b = (
                torch.tensor(index, device=one.cells.device) for index in zip(*common, strict=True)
            )
            same = (one.keypoints0[a] == other.keypoints0[b]).all(1)
            moved += int((~same).sum())
            shifts.append((one.keypoints1[a] - other.keypoints1[b])[same].norm(dim=1).float().cpu())
    shift = torch.cat(shifts) if shifts else torch.zeros(1)
    return {
        "matches": least,
        "found": both / max(1, least),
        "right": both / max(1, most),
        "moved": moved / max(1, both),
        "shift_median": float(shift.median()),
        "shift_99": float(shift.quantile(0.99)),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--weights", help="checkpoint (default: of the published size)")
    add("--images", type=Path, help="folder of photographs")
    add("--count", type=int, default=8, help="images (default: %(default)s)")
    add("--size", type=shape_of, default=(640, 480), help="WIDTHxHEIGHT (default: 640x480)")
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="(default: %(default)s)",
    )
    add("--quick", action="store_true", help="three images")
    options = parser.parse_args(arguments)
    width, height = options.size
    images = photographs(options.images, height, width, 3 if options.quick else options.count)
    device = torch.device(options.device)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        weights = options.weights or published(Path(scratch))
        expected: list[PairMatches] = []
        for name, dtype in DTYPES.items():
            found, seconds = run(Matcher(load_model(weights), device, dtype), images)
            expected = expected or found
            rows[name] = row = {"seconds": seconds, **compare(expected, found)}
            print(
                f"{name:9} {seconds:7.3f} s a pair  equal {row['found']:.1%} and {row['right']:.1%}"
                f"  moved {row['moved']:.1%}  shift median {row['shift_median']:.4f} px, "
                f"99 % {row['shift_99']:.3f} px",
                flush=True,
            )
        options.dtype = "each"
        results = {
            "environment": environment(options),
            "size": [width, height],
            "images": len(images),
            "types": rows,
        }
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
