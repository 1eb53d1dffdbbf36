"""Reranking of long lists by screening, beside reranking of short ones and SIFT with RANSAC.

    python benchmarks/quality/screening.py --data FOLDER [--queries N] [--out results.json]
    python benchmarks/quality/screening.py --table results.json

FOLDER and retrieval are those of reranking.py, and each query has DEPTH candidates.

    retrieval  the list as it is
    short      the first BUDGET candidates of retrieval are matched
    sift       the same pairs, by SIFT at twice the pixels and the same verification
    screened   a glance at all candidates, and none is matched
    long       the BUDGET likeliest of these are matched
    learned    the same pairs, by the probability that a pair is true, which logistic regression
               has learned of inliers, matches, scores, coverage and the glance, each set left out
               of what its own pairs are judged by

A difference is of the same queries, with an interval of its own.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import write_results
from benchmarks.quality.regression import PRIOR, logistic
from benchmarks.quality.reranking import (
    ALL,
    Measured,
    by_set,
    rankings_parser,
    retrieved,
    set_of,
    timed,
)
from benchmarks.quality.sift import detect_sift, match_sift
from eloftr import Matches
from eloftr.matching.resizing import to_original
from pipeline.match.match import matches_table
from pipeline.match.options import VerificationOptions
from pipeline.match.read import ReadShard
from pipeline.match.shards import PlannedShard
from pipeline.match.verify import VerifyShard
from pipeline.photos.limits import ImageLimits
from pipeline.rerank.evaluation import measured, table_text
from pipeline.rerank.screen import coarse_counts, screened_order
from pipeline.store.folder import Folder
from pipeline.tables import unragged

IMAGES = ("image0", "image1")  # columns of PROBES and of MATCHES
DEPTH, BUDGET = 100, 20
ROWS = ("retrieval", "short", "sift", "screened", "long", "learned")
GRID = 4  # cells of a side of a photograph, of which inliers cover some
WEIGHT_DECAY = 0.02
CHANGES = (
    *(("short", "retrieval"), ("screened", "retrieval")),
    *(("long", "short"), ("long", "sift"), ("learned", "long")),
)


def sift_inliers(data: Path, pairs: list[tuple[str, str]], long_side: int) -> np.ndarray:
    """Verified inliers (P,) of SIFT on P pairs of photographs."""
    names = sorted({name for pair in pairs for name in pair})
    row = {name: k for k, name in enumerate(names)}
    plan = PlannedShard("sift", names, np.array([[row[name] for name in pair] for pair in pairs]))
    shard = ReadShard(Folder(str(data)), ImageLimits(), long_side)(plan)
    found = {}
    for k, pixels, image in zip(shard.read, shard.pixels, shard.images.to_pylist(), strict=True):
        features = detect_sift(pixels)
        moved = to_original(features.keypoints, pixels.shape, (image["height"], image["width"]))
        found[k] = features._replace(keypoints=moved)
    matches = {}
    for number, (i, j) in enumerate(plan.pairs.tolist()):
        if i in found and j in found:
            both = match_sift(found[i], found[j])
            matches[number] = Matches(*both, np.ones(len(both[0]), np.float32))
    sides = [[name for name, _ in pairs], [name for _, name in pairs]]
    table = matches_table(sides, [None] * len(pairs), matches)
    verified = VerifyShard(VerificationOptions(long_side=long_side))(table, shard.images)
    inliers: np.ndarray = verified["num_inliers"].to_numpy()
    return inliers


def by_retrieval(ranking: pa.Table) -> pa.Table:
    """A ranking by query and retrieval's places."""
    keys = [("query", "ascending"), ("retrieval_rank", "ascending")]
    return ranking.take(pc.sort_indices(ranking, keys))


def ranked(listed: pa.Table, order: np.ndarray, places: pa.ChunkedArray | None = None) -> pa.Table:
    """A list with its rows (N,) in another order, those of a query together, as its ranking.

    places: their numbers, because every query keeps its rows; None: retrieval's.
    """
    places = listed["retrieval_rank"] if places is None else places
    return listed.take(pa.array(order)).set_column(
        listed.column_names.index("rank"), "rank", places
    )


def names_of(
    table: pa.Table, sides: tuple[str, str] = ("query", "candidate")
) -> list[tuple[str, str]]:
    """The images of every row in two columns, in the order of their names."""
    both = (table[side].to_pylist() for side in sides)
    return [(min(pair), max(pair)) for pair in zip(*both, strict=True)]


def sift_order(run: Measured, listed: pa.Table, long_side: int) -> tuple[np.ndarray, int]:
    """The rows (N,) by SIFT's inliers of the first BUDGET candidates, and the number of pairs."""
    place = listed["retrieval_rank"].to_numpy()
    names = names_of(listed)
    pairs = sorted({pair for pair, near in zip(names, place <= BUDGET, strict=True) if near})
    found = dict(zip(pairs, sift_inliers(run.data, pairs, long_side).tolist(), strict=True))
    inliers = np.array([found.get(pair, 0) for pair in names]) * (place <= BUDGET)
    return np.lexsort((place, -inliers, np.cumsum(place == 1))), len(pairs)


def glance_order(run: Measured, listed: pa.Table) -> tuple[np.ndarray, int]:
    """The rows (N,) by the glances that a screening has made, and the number of glances."""
    files = sorted((run.folder / "long" / "screen" / "probes").iterdir())
    probes = pa.concat_tables([pq.read_table(path) for path in files])
    number: dict[tuple[str, str], int] = {}
    keys = [
        np.array([number.setdefault(pair, len(number)) for pair in pairs])
        for pairs in (names_of(probes, IMAGES), names_of(listed))
    ]
    place = listed["retrieval_rank"].to_numpy()
    return screened_order(place, coarse_counts(probes, *keys)), probes.num_rows


def pair_features(run: Measured) -> dict[tuple[str, str], list[float]]:
    """What a probability may be learned from, of every matched pair of `long`."""
    features = {}
    for path in sorted((run.folder / "long/rounds/00/matches").iterdir()):
        table = pq.read_table(path)
        images = pq.read_table(path.parents[1] / "images" / path.name).to_pylist()
        size = {image["image"]: (image["width"], image["height"]) for image in images}
        points = [unragged(table[f"keypoints{side}"]) for side in (0, 1)]
        inside, scores = unragged(table["inliers"]), unragged(table["scores"])
        pairs = names_of(table, IMAGES)
        for row, (one, other) in enumerate(
            zip(table["image0"].to_pylist(), table["image1"].to_pylist(), strict=True)
        ):
            good = inside[row].astype(bool)
            covered = min(
                coverage(side[row][good], size[name]) if good.any() else 0.0
                for side, name in zip(points, (one, other), strict=True)
            )
            matches, inliers = len(good), int(good.sum())
            mean = float(scores[row].mean()) if matches else 0.0
            counted = [np.log1p(inliers), np.log1p(matches), inliers / max(matches, 1)]
            features[pairs[row]] = [*counted, mean, covered]
    return features


def coverage(points: np.ndarray, size: tuple[int, int]) -> float:
    """The share of the cells of a photograph's grid that have a point (M, 2) in them."""
    cells = np.clip((points / size * GRID).astype(int), 0, GRID - 1)
    return len(np.unique(cells @ [GRID, 1])) / GRID**2


def learned_order(run: Measured, glanced: pa.Table) -> np.ndarray:
    """The rows (N,) of a screened list by probability, the matched candidates first.

    Candidates that are not matched stay behind, in the order of the screening.
    """
    features = pair_features(run)
    names, place = names_of(glanced), glanced["rank"].to_numpy()
    rows = np.array([k for k, pair in enumerate(names) if place[k] <= BUDGET and pair in features])
    x = np.array([[*features[names[k]], np.log(place[k])] for k in rows])
    x = np.column_stack([(x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9), np.ones(len(x))])
    decay = np.append(np.full(x.shape[1] - 1, WEIGHT_DECAY), PRIOR)  # of the constant last
    listed = zip(glanced["query"].to_pylist(), glanced["candidate"].to_pylist(), strict=True)
    true = np.array([candidate in run.positives[query] for query, candidate in listed])[rows]
    sets = np.array([set_of(query) for query in glanced["query"].to_pylist()])[rows]
    logit = np.full(len(names), -np.inf)
    for name in np.unique(sets):
        mine = sets == name
        logit[rows[mine]] = x[mine] @ logistic(x[~mine], true[~mine], 1 / (~mine).sum(), decay)
    return np.lexsort((place, -logit, np.cumsum(place == 1)))


def measure(run: Measured) -> dict[str, Any]:
    """All rankings of one deep list, their changes, and what each took."""
    summaries = {
        "short": run.rerank("short", ALL, budget=BUDGET),
        "long": run.rerank("long", ALL, budget=BUDGET, screen=True),
    }
    seconds = {name: timed(summary)["seconds"] for name, summary in summaries.items()}
    listed = by_retrieval(pq.read_table(run.ranking("short")))
    started = time.monotonic()
    by_sift, sift_pairs = sift_order(run, listed, 2 * run.long_side)
    seconds["sift"] = round(time.monotonic() - started, 1)
    by_glances, glances = glance_order(run, listed)
    glanced = ranked(listed, by_glances)
    by_learned = learned_order(run, glanced)
    for name, ranking in (
        ("sift", ranked(listed, by_sift)),
        ("screened", glanced),
        ("learned", ranked(glanced, by_learned, listed["retrieval_rank"])),
    ):
        (run.folder / name).mkdir()
        pq.write_table(ranking, run.ranking(name))
    values = {"retrieval": by_set(run.ranking("short"), run.positives, before=True)}
    values |= {name: by_set(run.ranking(name), run.positives) for name in ROWS[1:]}
    return {
        "depth": DEPTH,
        "budget": BUDGET,
        "candidates": len(listed),
        "pairs": {name: summary["pairs"] for name, summary in summaries.items()}
        | {"sift": sift_pairs, "glances": glances},
        "seconds": seconds,
        "sets": {
            name: {
                "queries": len(values["short"][name]),
                "measures": {row: measured(found[name]) for row, found in values.items()},
                "changes": {
                    f"{one} − {other}": measured(values[one][name] - values[other][name])
                    for one, other in CHANGES
                },
            }
            for name in values["short"]
        },
    }


def markdown(results: dict[str, Any]) -> str:
    """The table of results/reranking.md: mAP of every set in per cent, and the change."""
    lines = [f"| set | {' | '.join(ROWS)} | long − short | long − sift |", "|---" * 9 + "|"]
    for name, found in results["sets"].items():
        means = [f"{100 * found['measures'][row]['mAP']['mean']:.1f}" for row in ROWS]
        changes = [
            "{:+.1f} [{:.1f}, {:.1f}]".format(
                *(100 * found["changes"][change]["mAP"][part] for part in ("mean", "low", "high"))
            )
            for change in ("long − short", "long − sift")
        ]
        lines.append(f"| {' | '.join([name, *means, *changes])} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    options = rankings_parser(__doc__).parse_args(arguments)
    if options.table:
        print(markdown(json.loads(options.table.read_text())), end="")
        return 0
    with retrieved(options, DEPTH) as (run, _):
        results = measure(run)
    for name, found in results["sets"].items():
        print(f"\n{name}: {found['queries']} queries")
        print(table_text({**found["measures"], **found["changes"]}), end="")
    for what_took in ("pairs", "seconds"):
        print(f"{what_took}: {', '.join(f'{k} {v:,}' for k, v in results[what_took].items())}")
    print("\n" + markdown(results), end="")
    if options.out:
        results["options"] = {
            name: getattr(options, name) for name in ("queries", "long_side", "executor")
        }
        write_results(
            options.out,
            results,
            "torch",
            "pycolmap",
            "pyarrow",
            "numpy",
            "pillow",
            "opencv-python-headless",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
