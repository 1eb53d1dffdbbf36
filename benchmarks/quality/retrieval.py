"""What the matcher's own descriptors are worth: labelled photographs ranked, verified pairs of an
exhaustive run found.

    python benchmarks/quality/retrieval.py --data FOLDER [--sets sacre_coeur17 …] [--long-side 480]
    [--out results.json]

FOLDER holds retrieval.json: queries, database and, for each query, the images of its scene
(positives). Every query is ranked against the database without itself.

    Recall@k     queries with an image of their scene among the first k
    same@k       images of the scene among the first k, of those there are, mean over queries
    mAP          mean over queries of the average precision

covariance is what `plan_pairs describe` writes, reduced what `plan_pairs retrieval` compares
without a file. The others are what was tried: statistics of the same features, and thumbnails
without a network. random is the expectation of a shuffled list, over 20 of them.

Of the --sets together all pairs are matched and verified; lists of the k most similar of each image
are then as good as the share of the verified pairs that they hold. A random list of as many pairs
holds the same share as of all pairs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from benchmarks.speed.pipeline import match_without_ray
from eloftr import EfficientLoFTRForKeypointMatching, load_model
from eloftr.matching.resizing import resize
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.run import Run
from pipeline.pairs.descriptors import LONG_SIDE, describe_images, nearest, reduced, unit
from pipeline.pairs.retrieval import OWN_DIMENSIONS, similar
from pipeline.photos.source import read_image
from pipeline.store.folder import Folder
from pipeline.vocabulary import VERIFIED, Device

CUTS = (1, 5, 10, 20)
TOP_K = (1, 2, 3, 5, 10)
SHUFFLES = 20
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {  # (C, L) → (D,)
    "mean": lambda features: features.mean(dim=1),
    "GeM, p = 3": lambda features: features.clamp(min=1e-6).pow(3).mean(dim=1).pow(1 / 3),
    "deviation": lambda features: features.std(dim=1),
    "maximum": lambda features: features.amax(dim=1),
}


@torch.inference_mode()
def alternatives(
    folder: Folder, names: list[str], model: EfficientLoFTRForKeypointMatching
) -> dict[str, np.ndarray]:
    """(N, D) of every image by each of POOLINGS, and thumbnails."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*POOLINGS, "thumbnail")}
    for name in names:
        pixels, _ = read_image(folder, name, long_side=LONG_SIDE)
        coarse = model.efficientloftr.backbone(torch.tensor(pixels)[None, None].float() / 255)[2][
            0
        ].flatten(1)
        for pooling, pool in POOLINGS.items():
            rows[pooling].append(pool(coarse).numpy())
        small = resize(pixels, (16, 16)).astype(np.float32).ravel()
        rows["thumbnail"].append(small - small.mean())
    return {name: np.stack(vectors) for name, vectors in rows.items()}


def ranked(order: np.ndarray, truth: list[np.ndarray]) -> dict[str, float]:
    """order (Q, N): the database, best first. truth: of each query, which images are of its scene.
    The measures.
    """
    found = [np.flatnonzero(np.isin(row, true)) for row, true in zip(order, truth, strict=True)]
    measures = {f"recall@{k}": np.mean([(places < k).any() for places in found]) for k in CUTS}
    measures |= {f"same@{k}": np.mean([(places < k).mean() for places in found]) for k in CUTS[1:]}
    measures["mAP"] = np.mean(
        [((np.arange(len(places)) + 1) / (places + 1)).mean() for places in found]
    )
    return {name: float(value) for name, value in measures.items()}


def against_labels(data: Path, model: EfficientLoFTRForKeypointMatching) -> list[dict[str, Any]]:
    labels = json.loads((data / "retrieval.json").read_text())
    names = sorted(labels["database"])
    place = {name: number for number, name in enumerate(names)}
    queries = np.array([place[name] for name in labels["queries"]])
    truth = [
        np.array([place[name] for name in labels["positives"][query]])
        for query in labels["queries"]
    ]
    started = time.process_time()
    described = describe_images(Folder(str(data)), model, names)
    seconds = (time.process_time() - started) / len(names)
    assert described.names == names, "not every photograph can be read"

    rng, shuffled = np.random.default_rng(0), []
    for _ in range(SHUFFLES):
        order = np.stack(
            [rng.permutation(np.delete(np.arange(len(names)), query)) for query in queries]
        )
        shuffled.append(ranked(order, truth))
    rows: list[dict[str, Any]] = [
        {"descriptor": "random", "dimensions": 0}
        | {measure: float(np.mean([row[measure] for row in shuffled])) for measure in shuffled[0]}
    ]
    vectors = alternatives(Folder(str(data)), names, model)
    vectors |= {
        "covariance": described.vectors,
        "reduced": reduced(described.vectors, OWN_DIMENSIONS),
    }
    for name, values in vectors.items():
        order = nearest(values, None, len(names))[0][queries]
        rows.append({"descriptor": name, "dimensions": values.shape[1], **ranked(order, truth)})
    rows[-2]["cpu_seconds_per_image"] = seconds
    return rows


def against_matches(
    data: Path, sets: list[str], long_side: int, model: EfficientLoFTRForKeypointMatching
) -> dict[str, Any]:
    """Match all pairs of the sets; of each k, the pairs of the list and the share of the verified
    ones among them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        for name in sets:
            for path in sorted((data / name / "images").iterdir()):
                (images / name).mkdir(parents=True, exist_ok=True)
                (images / name / path.name).write_bytes(path.read_bytes())
        verification = VerificationOptions(long_side=long_side)
        options = RunOptions(
            str(images),
            f"{scratch}/run",
            matching=MatchingOptions(long_side),
            verification=verification,
        )
        started = time.process_time()
        match_without_ray(Run(options, Device.CPU))
        seconds = time.process_time() - started
        run = Folder(f"{scratch}/run")
        verified = set()
        for name in run.names("matches"):
            table = run.read_table(name, ["image0", "image1", "geometry"])
            for image0, image1, geometry in zip(
                *(column.to_pylist() for column in table), strict=True
            ):
                if geometry in VERIFIED:
                    verified.add((image0, image1))
        described = describe_images(Folder(str(images)), model)
    names, total = described.names, len(described.names) * (len(described.names) - 1) // 2
    rows = []
    for kind, vectors in (
        ("covariance", described.vectors),
        ("reduced", reduced(described.vectors, OWN_DIMENSIONS)),
    ):
        for k in TOP_K:
            pairs = similar(type(described)(names, unit(vectors)), k).pairs
            hits = sum((names[i], names[j]) in verified for i, j in pairs.tolist())
            row = {
                "descriptor": kind,
                "k": k,
                "pairs": len(pairs),
                "share_of_pairs": len(pairs) / total,
            }
            rows.append({**row, "share_of_verified": hits / len(verified)})
    return {
        "sets": sets,
        "images": len(names),
        "pairs": total,
        "verified": len(verified),
        "long_side": long_side,
        "cpu_seconds": seconds,
        "lists": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with retrieval.json and its photographs"
    )
    parser.add_argument(
        "--sets", nargs="*", default=[], help="folders of it whose pairs are all matched"
    )
    parser.add_argument(
        "--long-side", type=int, default=480, help="of the matched photographs (%(default)s)"
    )
    parser.add_argument("--weights", default="small")
    options = parser.parse_args(arguments)
    model = load_model(options.weights).fuse()
    labels = against_labels(options.data, model)
    measures = [name for name in labels[0] if name not in ("descriptor", "dimensions")]
    print("descriptor    numbers " + "".join(f"{name:>11}" for name in measures))
    for row in labels:
        print(
            f"{row['descriptor']:12}{row['dimensions']:9,} "
            + "".join(f"{row[name]:11.3f}" for name in measures)
        )
    milliseconds = labels[-2]["cpu_seconds_per_image"] * 1000
    print(f"{milliseconds:.0f} ms of one core an image, reading included", flush=True)
    results: dict[str, Any] = {"weights": options.weights, "labels": labels}
    if options.sets:
        found = against_matches(options.data, options.sets, options.long_side, model)
        cost = f"{found['cpu_seconds']:.0f} s of one core at {found['long_side']} px"
        print(
            f"{', '.join(found['sets'])}: {found['images']} images, "
            f"all {found['pairs']} pairs matched in {cost}"
        )
        print(f"{found['verified']} verified; the lists of the k most similar of each image hold:")
        print("descriptor     k  pairs  of all pairs  of the verified")
        for row in found["lists"]:
            shares = f"{row['share_of_pairs']:14.0%}{row['share_of_verified']:17.0%}"
            print(f"{row['descriptor']:12}{row['k']:4}{row['pairs']:7}{shares}")
        results["matches"] = found
    if options.out:
        write_results(options.out, results, "torch", "numpy", "pillow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
