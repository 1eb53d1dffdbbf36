"""Judge a matcher on pairs with ground truth, next to SIFT on the same images.

    pip install .[test]
    python benchmarks/quality/quality.py --weights NAME_OR_PATH --out results.json

Both methods see the same grey image: longer side 640 (`--long-side`), sides multiples of 32, never
enlarged. Matches are mapped back to the original images, with their exact scale in x and in y, and
judged there:

matches    mean number per pair
right %    mean over pairs of the share of right matches; a pair without matches counts 0. Right is
             homography   within 3 original pixels of where the homography sends them in image 1
             epipolar     within 3 original pixels of both epipolar lines, fitted to the marked
                          points
             pose         within 2 pixels of both epipolar lines of the true pose
AUC        area under recall over the pose error up to 5, 10 and 20 degrees (SuperGlue, section 5).
           The error is the larger of the angles of rotation and translation (its sign left open),
           from an essential matrix by RANSAC at 0.5 pixels over the mean focal length. A pair
           without an estimate is infinitely wrong. RANSAC's luck moves an AUC by 1 to 2 points on
           sets of this size: each pair is estimated five times, its matches in other orders, and
           all the errors count.

`--peers` adds other learned matchers; see peers.py. The JSON has 95 % intervals of all figures, by
bootstrap over the pairs.

The pixels of poses are those of the evaluated size, or of the original images with `--pixels
original`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import commit, versions
from benchmarks.quality.datasets import (
    KINDS,
    RANSAC_CONFIDENCE,
    RANSAC_SEED,
    SAMPLE_SEED,
    Pair,
    View,
    digest,
    load_pairs,
    load_view,
    thinned,
)
from benchmarks.quality.judging import (
    AUC_DEGREES,
    POINT_PIXELS,
    POSE_PIXELS,
    RANSAC_PIXELS,
    RANSAC_RUNS,
    Keypoints,
    Record,
    intervals,
    judge,
    summarise,
)
from benchmarks.quality.peers import PEER_PACKAGES, PEER_TITLES, Peer, load_peers, peer_methods
from benchmarks.quality.sets import aligned, chosen, exit_code, report, sets_parser
from benchmarks.quality.sift import RATIO, SiftFeatures, detect_sift, match_sift
from eloftr.errors import ArgumentError

PAIRS_AT_ONCE = 8
Method = tuple[Callable[[list[Pair]], list[Keypoints]], dict[str, View]]  # on views by name


def match_with_sift(features: dict[str, SiftFeatures], pairs: list[Pair]) -> list[Keypoints]:
    return [match_sift(features[pair.image0], features[pair.image1]) for pair in pairs]


def sift_methods(folder: Path, views: dict[str, View], full: bool) -> dict[str, Method]:
    """SIFT on the views and, where `full`, on the images at their size."""
    seen = {"sift": views}
    if full:
        seen["sift_full"] = {name: load_view(folder / "images" / name, None) for name in views}
    methods: dict[str, Method] = {}
    for method, images in seen.items():
        features = {name: detect_sift(view.grey) for name, view in images.items()}
        methods[method] = partial(match_with_sift, features), images
    return methods


def match_with(
    matcher: Any, looks: int, views: dict[str, View], pairs: list[Pair]
) -> list[Keypoints]:
    sides = (
        [views[name].grey for name in side] for side in zip(*(p.names for p in pairs), strict=True)
    )
    found = matcher.match(*sides, looks=looks)
    return [(matches.keypoints0, matches.keypoints1) for matches in found]


def evaluate_set(
    folder: Path,
    pairs: list[Pair],
    long_side: int,
    matcher: Any | None = None,
    pixels: str = "evaluated",
    sift_full: bool = False,
    known: dict[tuple[str, str], Record] | None = None,
    peers: dict[str, Peer] | None = None,
    looks: int = 1,
) -> list[Record]:
    """Every method on every pair: one record a pair, with a record for each method by its name.

    Args:
        matcher: None judges SIFT alone.
        pixels: "evaluated" or "original", what the thresholds of poses are in.
        sift_full: also SIFT on the full-size images, judged by the same thresholds.
        known: SIFT's records of an earlier run by image names; nothing of SIFT is computed then.
        peers: other matchers by their names, which see the same views in colours.
        looks: of our matcher at a pair, at most.
    """
    names = sorted({name for pair in pairs for name in pair.names})
    views = {name: load_view(folder / "images" / name, long_side) for name in names}
    methods: dict[str, Method] = {}
    if matcher is not None:
        methods["ours"] = partial(match_with, matcher, looks, views), views
    if known is None:
        methods |= sift_methods(folder, views, sift_full)
    for method, match in peer_methods(peers or {}, folder, views).items():
        methods[method] = match, views
    records: list[Record] = [{"image0": pair.image0, "image1": pair.image1} for pair in pairs]
    for method, (match, images) in methods.items():
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            chunk = pairs[start : start + PAIRS_AT_ONCE]
            for index, (pair, keypoints) in enumerate(zip(chunk, match(chunk), strict=True), start):
                both = images[pair.image0], images[pair.image1]
                tolerances = _tolerances(pair, (views[pair.image0], views[pair.image1]), pixels)
                records[index][method] = judge(pair, both, keypoints, *tolerances)
    if known is not None:
        for record in records:
            record |= known[record["image0"], record["image1"]]
    return records


def _tolerances(pair: Pair, views: tuple[View, View], pixels: str) -> tuple[float, float]:
    """Original pixels per pixel that poses are judged in, and the RANSAC threshold in focal
    lengths.
    """
    if pair.cameras is None:
        return 1.0, 0.0
    scales = [view.scale if pixels == "evaluated" else np.ones(2) for view in views]
    focals = [
        np.diag(k)[:2] / scale for k, scale in zip(pair.cameras.intrinsics, scales, strict=True)
    ]
    return float(np.mean(scales)), RANSAC_PIXELS / float(np.mean(focals))


def settings(long_side: int, pixels: str) -> dict[str, Any]:
    """Everything besides the images that a SIFT result depends on."""
    return {
        "long_side": long_side,
        "pixels": pixels,
        "sample_seed": SAMPLE_SEED,
        "sift_ratio": RATIO,
        "point_pixels": POINT_PIXELS,
        "pose_pixels": POSE_PIXELS,
        "ransac_pixels": RANSAC_PIXELS,
        "ransac_confidence": RANSAC_CONFIDENCE,
        "ransac_seed": RANSAC_SEED,
        "ransac_runs": RANSAC_RUNS,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }


def load_sift(
    path: Path, expected: dict[str, Any], digests: dict[str, str], methods: list[str]
) -> dict[str, Any]:
    """SIFT's records of an earlier run: set → (image0, image1) → method → record.

    Raises:
        ArgumentError: the file is of other settings or other images, or lacks a set or a method.
    """
    try:
        earlier = json.loads(path.read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise ArgumentError(f"--sift-from {path}: cannot be read ({error}).") from error
    if not isinstance(earlier, dict) or not {"settings", "sets"} <= earlier.keys():
        raise ArgumentError(f"--sift-from {path}: not a result of this script.")
    found, sets = earlier["settings"], earlier["sets"]
    for name, value in expected.items():
        if found.get(name) != value:
            raise ArgumentError(
                f"--sift-from {path}: {name} was {found.get(name)} there and is {value} here; "
                "leave --sift-from out to compute SIFT again."
            )
    known = {}
    for name, sha256 in digests.items():
        if name not in sets or sets[name]["sha256"] != sha256:
            reason = "holds other images" if name in sets else "is missing there"
            raise ArgumentError(
                f"--sift-from {path}: {name} {reason}; leave --sift-from out to compute SIFT again."
            )
        for method in methods:
            if method not in sets[name]["summary"]:
                raise ArgumentError(
                    f"--sift-from {path}: {name} has no {method} there; run that with --sift-full."
                )
        known[name] = {
            (record["image0"], record["image1"]): {method: record[method] for method in methods}
            for record in sets[name]["pairs"]
        }
    return known


def table(sets: dict[str, Any]) -> str:
    """An aligned Markdown table with a row a set; a cell holds the figure of each method."""
    methods = list(next(iter(sets.values()))["summary"])
    titles = {"ours": "ours", "sift": "SIFT", "sift_full": "SIFT at full size"} | PEER_TITLES
    columns = {"matches": ("matches", "{:.0f}", 1), "share": ("right %", "{:.1f}", 100)}
    columns |= {f"auc{degrees}": (f"AUC@{degrees}°", "{:.1f}", 100) for degrees in AUC_DEGREES}
    rows = [["set", "pairs", *(title for title, _, _ in columns.values())]]
    for name, result in sets.items():
        row = [name, str(len(result["pairs"]))]
        for key, (_, form, factor) in columns.items():
            values = [result["summary"][method].get(key) for method in methods]
            row.append(
                "–" if values[0] is None else " / ".join(form.format(v * factor) for v in values)
            )
        rows.append(row)
    cell = f"Each cell: {' / '.join(titles[method] for method in methods)}"
    return f"{cell}\n\n{aligned(rows)}"


def environment(weights: str | None, matcher: Any | None) -> dict[str, Any]:
    """What the numbers were measured with and on."""
    device = dtype = sha256 = None
    if weights is not None and matcher is not None:
        import torch

        from eloftr.weights.locate import resolve

        path = resolve(weights)
        file = path / "model.safetensors" if path.is_dir() else path
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        on_gpu = matcher.device.type == "cuda"
        device = torch.cuda.get_device_name(matcher.device) if on_gpu else str(matcher.device)
        dtype = str(matcher.dtype)
    return {
        "weights": weights,
        "weights_sha256": sha256,
        "versions": versions("numpy", "opencv-python-headless", "pillow", "torch", *PEER_PACKAGES),
        "device": device,
        "dtype": dtype,
        "commit": commit(),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = sets_parser(__doc__, KINDS, "write the table, every pair and the settings as JSON")
    parser.add_argument(
        "--weights", help="checkpoint, by name or path; without it SIFT is judged alone"
    )
    parser.add_argument(
        "--dtype", help="of our network: float32, bfloat16, float16 (default: the device's)"
    )
    parser.add_argument(
        "--looks", type=int, default=1, help="of ours at a pair, at most (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="about 8 pairs of each set")
    parser.add_argument(
        "--pairs", type=int, help="at most so many pairs of each set (default: all)"
    )
    parser.add_argument(
        "--long-side", type=int, default=640, help="evaluated size in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--pixels",
        choices=("evaluated", "original"),
        default="evaluated",
        help="of poses (default: %(default)s)",
    )
    parser.add_argument(
        "--sift-full", action="store_true", help="also SIFT on the full-size images"
    )
    parser.add_argument(
        "--sift-from", type=Path, help="take SIFT's records from an earlier --out file"
    )
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(PEER_TITLES)}"
    )
    return exit_code("quality", run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, print the table, write the JSON and return what it holds."""
    if options.long_side < 32:
        raise ArgumentError(f"--long-side {options.long_side}: at least 32 pixels are needed.")
    if options.pairs is not None and options.pairs < 1:
        raise ArgumentError(f"--pairs {options.pairs}: at least one pair is needed.")
    folders = chosen(options)
    pairs = {name: load_pairs(folder, options.quick) for name, folder in folders.items()}
    if options.pairs is not None:
        pairs = {name: thinned(listed, options.pairs) for name, listed in pairs.items()}
    digests = {name: digest(folder) for name, folder in folders.items()}
    known = None
    if options.sift_from is not None:
        wanted = ["sift", "sift_full"] if options.sift_full else ["sift"]
        known = load_sift(
            options.sift_from, settings(options.long_side, options.pixels), digests, wanted
        )
        for name in folders:
            if any(pair.names not in known[name] for pair in pairs[name]):
                raise ArgumentError(
                    f"--sift-from {options.sift_from}: lacks pairs of {name}; was it a run of some "
                    "pairs only?"
                )
    cv2.setNumThreads(1)  # the order of sums, and so the result, must not depend on the machine
    matcher = None
    if options.weights is not None:
        from eloftr import load_matcher

        matcher = load_matcher(options.weights, dtype=options.dtype)
    peers = load_peers(options.peers)
    measured_with = environment(
        options.weights, matcher
    )  # now: a training run may replace the file meanwhile
    sets = {}
    for name, folder in folders.items():
        start = time.perf_counter()
        earlier = None if known is None else known[name]
        records = evaluate_set(
            folder,
            pairs[name],
            options.long_side,
            matcher,
            options.pixels,
            options.sift_full,
            earlier,
            peers,
            options.looks,
        )
        methods = [key for key in records[0] if key not in ("image0", "image1")]
        summary = {method: summarise([record[method] for record in records]) for method in methods}
        sets[name] = {
            "kind": KINDS[name],
            "sha256": digests[name],
            "summary": summary,
            "intervals": {
                method: intervals([record[method] for record in records]) for method in methods
            },
            "pairs": records,
        }
        print(
            f"{name}: {len(records)} pairs in {time.perf_counter() - start:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    results = {
        "settings": settings(options.long_side, options.pixels),
        "quick": options.quick,
        "most_pairs": options.pairs,
        "looks": options.looks,
        "environment": measured_with,
        "sets": sets,
    }
    report(results, table(sets), options.out)
    return results


if __name__ == "__main__":
    sys.exit(main())
