"""What the score of a match says about its being right, and the calibration that makes it say so.

    python benchmarks/quality/calibration.py --data FOLDER [--quick] [--out results.json]
        [--plot reliability.svg] [--save FOLDER]

Pairs of the sets with ground truth are matched, at most 12 of a set, and for every seven of them
one pair of photographs of two sets, of whose matches all are wrong. A match is right within 3
pixels of the original images: of where the homography sends it, or of both epipolar lines of the
marked points or the pose. A line takes wrong matches that lie along it for right ones.

raw         the score, taken for a probability
pooled      of the logistic regression of eloftr/matching/probability.py, fitted to all pairs; every
            pair counts alike, whatever its number of matches
left out    the same, fitted without the pairs that have a photograph of the judged set; those of
            two sets are judged without any of their kind
size N      pooled, of matches at another longer side, with --others pairs a set
looks N     pooled, of matches with up to so many looks at a pair, as `eloftr match` has them

ECE         mean distance between what is told and the share of right matches, over 15 bins of as
            many matches each: of all matches, and with every pair counting alike
Brier       mean square of what is told less 1 for right matches and 0 for wrong ones; "of share" is
            that of telling the share of right matches of every match
"""

from __future__ import annotations

import random
import sys
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from benchmarks.quality.datasets import LISTED, Pair, load_pairs, load_view
from benchmarks.quality.judging import POINT_PIXELS
from benchmarks.quality.regression import PRIOR, logistic
from eloftr import Matcher, load_matcher
from eloftr.matching.probability import Calibration, file_sha256, regressors
from eloftr.weights.locate import find_weights
from pipeline.report.page.plots import BAR, GRID, INK, Plot
from pipeline.vocabulary import DEFAULT_LOOKS

LONG_SIDE = 640
PAIRS, QUICK_PAIRS = 12, 2  # of a set, at most
A_PAIR_APART = 7  # of so many pairs of one set
OTHER_SIDES = (320, 896)
BINS = 15
DECIMALS = 4  # of the numbers of the regression
APART = "apart"


class Judged(NamedTuple):
    """The matches of one pair: the sets of its photographs, scores (M,), and which are right."""

    sets: tuple[str, str]
    images: tuple[str, str]
    scores: np.ndarray
    right: np.ndarray

    @property
    def group(self) -> str:
        return self.sets[0] if self.sets[0] == self.sets[1] else APART


def spread(pairs: list[Pair], most: int) -> list[Pair]:
    """At most so many pairs, spread evenly over the list."""
    rows = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)
    return [pairs[row] for row in rows]


def gather(
    matcher: Matcher, data: Path, names: list[str], long_side: int, most: int, looks: int = 1
) -> list[Judged]:
    """Match pairs of the sets, and pairs of photographs of two sets."""
    chosen = [(name, pair) for name in names for pair in spread(load_pairs(data / name), most)]
    images = sorted({(name, one) for name, p in chosen for one in (p.image0, p.image1)})
    views = {at: load_view(data / at[0] / "images" / at[1], long_side) for at in images}
    apart = [couple for couple in combinations(images, 2) if couple[0][0] != couple[1][0]]
    apart = random.Random(0).sample(apart, min(len(apart), round(len(chosen) / A_PAIR_APART)))
    couples: list[tuple[tuple[str, str], tuple[str, str], Pair | None]] = [
        *(((name, pair.image0), (name, pair.image1), pair) for name, pair in chosen),
        *((*couple, None) for couple in apart),
    ]
    judged = []
    for at0, at1, pair in couples:
        (found,) = matcher.match([views[at0].grey], [views[at1].grey], looks=looks)
        right = np.zeros(len(found), bool)
        if pair is not None:
            points0 = views[at0].to_original(found.keypoints0)
            right = pair.errors(points0, views[at1].to_original(found.keypoints1)) <= POINT_PIXELS
        judged.append(Judged((at0[0], at1[0]), (at0[1], at1[1]), found.scores, right))
    return judged


def fit(pairs: list[Judged], sha256: str) -> Calibration:
    """The regression of greatest likelihood, every pair with matches counting alike."""
    pairs = [pair for pair in pairs if len(pair.scores)]
    x = np.concatenate([regressors(pair.scores) for pair in pairs])
    y = np.concatenate([pair.right for pair in pairs])
    numbers = logistic(x, y, _alike(pairs), np.full(x.shape[1], PRIOR))
    intercept, score, matches = numbers.round(DECIMALS).tolist()
    return Calibration(intercept, score, matches, sha256)


def _alike(pairs: list[Judged]) -> np.ndarray:
    """(M,) weights of all matches, of which those of each pair add up to the same; sum 1."""
    counts = np.array([len(pair.scores) for pair in pairs])
    return np.repeat(1 / np.maximum(counts, 1), counts) / max(np.count_nonzero(counts), 1)


def bins(told: np.ndarray, right: np.ndarray, weight: np.ndarray) -> list[dict[str, float]]:
    """Matches by what is told of them, in bins of the same weight."""
    order = np.argsort(told, kind="stable")
    told, right, weight = told[order], right[order], weight[order]
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    edges = np.searchsorted(middle, np.arange(1, BINS) / BINS)
    parts = (np.split(column, edges) for column in (told, right, weight))
    return [
        {
            "matches": len(t),
            "weight": float(w.sum() / weight.sum()),
            "told": float(np.average(t, weights=w)),
            "right": float(np.average(r, weights=w)),
        }
        for t, r, w in zip(*parts, strict=True)
        if len(t)
    ]


def judge(pairs: list[Judged], told: list[np.ndarray]) -> dict[str, Any]:
    """How well what is told of the matches of each pair fits."""
    p, right = np.concatenate(told).astype(float), np.concatenate([pair.right for pair in pairs])
    rows, alike = bins(p, right, np.ones(len(p))), bins(p, right, _alike(pairs))
    return {
        "matches": len(p),
        "right": float(right.mean()),
        "told": float(p.mean()),
        "ece": _ece(rows),
        "ece_of_pairs": _ece(alike),
        "brier": float(((p - right) ** 2).mean()),
        "brier_of_share": float(right.var()),
        "bins": rows,
        "bins_of_pairs": alike,
    }


def _ece(rows: list[dict[str, float]]) -> float:
    return sum(row["weight"] * abs(row["told"] - row["right"]) for row in rows)


def without(pairs: list[Judged], group: str) -> list[Judged]:
    """The pairs that have nothing of a set, or those of one set each."""
    return [pair for pair in pairs if group not in (pair.group, *pair.sets)]


def compare(pairs: list[Judged], sha256: str) -> tuple[Calibration, dict[str, Any]]:
    """The calibration of all pairs, and how well it and those of left out sets do."""
    found = fit(pairs, sha256)
    told = {
        "raw": [pair.scores for pair in pairs],
        "pooled": [found.probabilities(pair.scores) for pair in pairs],
    }
    groups = list(dict.fromkeys(pair.group for pair in pairs))
    others = {group: fit(without(pairs, group), sha256) for group in groups}
    told["left_out"] = [others[pair.group].probabilities(pair.scores) for pair in pairs]
    sets = {}
    for group in groups:
        of_it = [n for n, pair in enumerate(pairs) if pair.group == group]
        rows = {
            way: judge([pairs[n] for n in of_it], [p[n] for n in of_it]) for way, p in told.items()
        }
        sets[group] = {"pairs": len(of_it), **rows}
    return found, {"all": {way: judge(pairs, p) for way, p in told.items()}, "sets": sets}


def draw(rows: dict[str, Any]) -> Plot:
    """Share of right matches over what is told, of the score and of the probability."""
    side, left, top = 320, 64, 20
    plot = Plot(left + side + 150, top + side + 56)
    for tick in np.linspace(0, 1, 6):
        plot.box(left, top + side * (1 - tick), side, 0.8, GRID)
        plot.text(left - 8, top + side * (1 - tick), f"{tick:.1f}", "rm")
        plot.text(left + side * tick, top + side + 8, f"{tick:.1f}", "mt")
    for step in np.linspace(0, 1, 81):
        plot.box(left + side * step - 0.7, top + side * (1 - step) - 0.7, 1.4, 1.4, INK)
    kinds = (("raw", "score", (200, 120, 60)), ("pooled", "probability", BAR))
    for line, (way, title, colour) in enumerate(kinds):
        for row in rows[way]["bins_of_pairs"]:
            x, y = left + side * row["told"], top + side * (1 - row["right"])
            plot.box(x - 3.5, y - 3.5, 7, 7, colour)
        plot.box(left + side + 20, top + 20 * line, 7, 7, colour)
        plot.text(left + side + 34, top + 4 + 20 * line, title, "lm")
    plot.text(left + side / 2, top + side + 50, "told; upwards: share of right matches", "mb")
    return plot


def table(results: dict[str, Any]) -> str:
    """A line for what was judged, then the reliability of the pooled probabilities."""
    lines = [f"{'':14} {'':9} matches  right   told    ECE  of pairs   Brier  of share"]
    rows = {"all": results["all"], **results["sets"]}
    found = [(name, way, row[way]) for name, row in rows.items() for way in results["all"]]
    found += [(name, "pooled", row) for name, row in results["others"].items()]
    for name, way, row in found:
        lines.append(
            f"{name:14} {way:9} {row['matches']:7,}  {row['right']:.3f}  {row['told']:.3f}  "
            f"{row['ece']:.4f}    {row['ece_of_pairs']:.4f}  {row['brier']:.4f}    "
            f"{row['brier_of_share']:.4f}"
        )
    lines += ["", "told   right  (raw: told right), every pair counting alike"]
    both = (results["all"][way]["bins_of_pairs"] for way in ("pooled", "raw"))
    for row, raw in zip(*both, strict=True):
        lines.append(
            f"{row['told']:.3f}  {row['right']:.3f}  ({raw['told']:.3f} {raw['right']:.3f})"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the sets with ground truth")
    add("--sets", nargs="+", default=list(LISTED), help="default: all")
    add("--weights", default="small", help="by name or path (default: %(default)s)")
    add("--others", type=int, default=6, help="pairs a set at other sizes (default: %(default)s)")
    add("--quick", action="store_true", help="2 pairs a set, at one size")
    add("--plot", type=Path, help="draw the reliability, as SVG or a picture")
    add("--save", type=Path, help="write the calibration into this folder, that of the weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    matcher = load_matcher(options.weights, "cpu")
    sha256 = file_sha256(find_weights(options.weights))
    most = QUICK_PAIRS if options.quick else PAIRS
    calibration, results = compare(
        gather(matcher, options.data, options.sets, LONG_SIDE, most), sha256
    )
    others = {f"size {side}": (side, options.others, 1) for side in OTHER_SIDES}
    others[f"looks {DEFAULT_LOOKS}"] = LONG_SIDE, most, DEFAULT_LOOKS
    results["others"] = {}
    for name, how in () if options.quick else others.items():
        pairs = gather(matcher, options.data, options.sets, *how)
        told = [calibration.probabilities(pair.scores) for pair in pairs]
        results["others"][name] = {"pairs": len(pairs), **judge(pairs, told)}
    print(table(results))
    print(calibration)
    if options.save:
        calibration.save(options.save)
    if options.plot:
        draw(results["all"]).save(options.plot)
    if options.out:
        settings = {"weights": options.weights, "long_side": LONG_SIDE, "pixels": POINT_PIXELS}
        numbers = {"settings": settings, "calibration": asdict(calibration), **results}
        write_results(options.out, numbers, "numpy", "torch", "opencv-python-headless")
    return 0


if __name__ == "__main__":
    sys.exit(main())
