"""What verifying a pair costs, and what it lets pass, where no photograph has EXIF: each with a
camera of its own, as the product has it, against one camera for both, of which COLMAP then looks
for the focal length.

    python benchmarks/quality/verification.py --data FOLDER [--quick] [--out results.json]

same    pairs of the sets with known poses; of those with matches enough:
        true     at least 25 matches and 30 % of them within 4 px of the truth, and how many of
                 these are verified
        wrong    verified pairs of whose inliers less than 70 % are within 4 px of the truth
apart   pairs of images of two sets, which show nothing in common; none should be verified
seconds of all pairs of a kind, the best of `--rounds`, each way by turns
"""

from __future__ import annotations

import random
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from benchmarks.quality.datasets import LISTED, Pair, View, load_pairs, load_view
from eloftr import Matcher, Matches, load_matcher
from pipeline.match.options import VerificationOptions
from pipeline.match.verify import _Camera, two_view_geometry
from pipeline.vocabulary import VERIFIED

LONG_SIDE = 640
APART = 400  # pairs
RIGHT = 4.0  # pixels of the images as the network saw them


class Matched(NamedTuple):
    """A pair with at least the least number of matches, in pixels of the network, and which are
    right; None: apart.
    """

    matches: Matches
    cameras: tuple[_Camera, _Camera]
    right: np.ndarray | None


def match(matcher: Matcher, views: tuple[View, View], pair: Pair | None) -> Matched | None:
    (found,) = matcher.match([views[0].grey], [views[1].grey])
    if len(found) < VerificationOptions.min_num_inliers:
        return None
    right = None
    if pair is not None:
        scale = np.mean([view.scale for view in views])
        points = (
            view.to_original(p)
            for view, p in zip(views, (found.keypoints0, found.keypoints1), strict=True)
        )
        right = pair.errors(*points) < RIGHT * scale
    cameras = (_Camera(view.grey.shape[1], view.grey.shape[0], None) for view in views)
    return Matched(found, tuple(cameras), right)  # type: ignore[arg-type]


def gather(data: Path, quick: bool) -> tuple[list[Matched], list[Matched]]:
    """Pairs of one set and pairs of two."""
    matcher = load_matcher("small", "cpu")
    names = [name for name, kind in LISTED.items() if kind == "pose"]
    views: dict[tuple[str, str], View] = {}
    same, apart = [], []
    for name in names:
        for path in sorted((data / name / "images").iterdir()):
            views[name, path.name] = load_view(path, LONG_SIDE)
        for pair in load_pairs(data / name, quick):
            both = views[name, pair.image0], views[name, pair.image1]
            same.append(match(matcher, both, pair))
    others = [pair for pair in combinations(views, 2) if pair[0][0] != pair[1][0]]
    for first, second in random.Random(0).sample(others, 8 if quick else APART):
        apart.append(match(matcher, (views[first], views[second]), None))
    return [pair for pair in same if pair], [pair for pair in apart if pair]


def verify(pairs: list[Matched]) -> tuple[list[np.ndarray | None], float]:
    """The inliers of every pair, None of those that are not verified; and seconds."""
    options = VerificationOptions(long_side=LONG_SIDE)
    started = time.perf_counter()
    geometries = [
        two_view_geometry(options, m.keypoints0, m.keypoints1, *cameras) for m, cameras, _ in pairs
    ]
    seconds = time.perf_counter() - started
    return [
        geometry.inliers if geometry.name in VERIFIED else None for geometry in geometries
    ], seconds


def one_camera(self: _Camera, number: int) -> object:
    return TWO_CAMERAS(self, 1)


TWO_CAMERAS = _Camera.pycolmap


def judge(same: list[Matched], apart: list[Matched], rounds: int) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for way, camera in (("two cameras", TWO_CAMERAS), ("one camera", one_camera)):
            with patch.object(_Camera, "pycolmap", camera):
                (inliers, seconds), (others, seconds_apart) = verify(same), verify(apart)
            pairs = [
                (pair.right, found)
                for pair, found in zip(same, inliers, strict=True)
                if pair.right is not None
            ]
            true = [found for right, found in pairs if right.sum() >= 25 and right.mean() > 0.3]
            before = results.get(way, {"seconds_same": np.inf, "seconds_apart": np.inf})
            results[way] = {
                "same": len(same),
                "true": len(true),
                "true_verified": sum(found is not None for found in true),
                "verified": sum(found is not None for _, found in pairs),
                "wrong": sum(
                    found is not None and bool(right[found].mean() < 0.7) for right, found in pairs
                ),
                "apart": len(apart),
                "apart_verified": sum(found is not None for found in others),
                "seconds_same": min(seconds, before["seconds_same"]),
                "seconds_apart": min(seconds_apart, before["seconds_apart"]),
            }
    return results


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the sets with ground truth"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of both ways (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="8 pairs a set, one round")
    options = parser.parse_args(arguments)
    results = judge(
        *gather(options.data, options.quick), rounds=1 if options.quick else options.rounds
    )
    for way, row in results.items():
        print(
            f"{way:12} same: {1000 * row['seconds_same'] / row['same']:6.1f} ms a pair, "
            f"{row['true_verified']} of {row['true']} true ones verified, "
            f"{row['wrong']} of {row['verified']} verified ones wrong; "
            f"apart: {1000 * row['seconds_apart'] / max(1, row['apart']):6.1f} ms a pair, "
            f"{row['apart_verified']} of {row['apart']} verified"
        )
    if options.out:
        write_results(options.out, {"ways": results}, "pycolmap", "numpy", "torch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
