"""What every job that matches is asked: weights, sizes, limits, shards, actors, log."""

from __future__ import annotations

import argparse

from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.photos.limits import ImageLimits
from pipeline.store.opening import storage_options

EPILOG = "Exit codes: 0 done; 1 a bug; 2 unusable arguments or storage; 3 run folder in use; 130 stopped, run it again."


def add_matching(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run_options` reads, and those of actors and log."""
    add = parser.add_argument
    add("--weights", default="small", help="bundled name, checkpoint file or folder, URL or hub id (%(default)s)")
    add("--variant", choices=("full", "opt"), default="full", help="opt: the efficiency variant, without softmax")
    add("--threshold", type=float, help="lowest score of a match (default the variant's)")
    add("--least-squares", type=int, help="radius of patches that sharpen keypoints, 0: none (default the weights')")
    add("--long-side", type=int, default=640, help="longer side of what the network sees, pixels (%(default)s)")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="of the network (default float16 on a GPU, float32 on a CPU)")
    add("--batch-size", type=int, help="pairs that go through the network at once (default by device)")
    add("--min-inliers", type=int, default=VerificationOptions.min_num_inliers, help="of a verified pair (%(default)s)")
    add("--max-error", type=float, default=VerificationOptions.max_error, help="of inliers, pixels (%(default)s)")
    add("--limit", action="append", default=[], metavar="NAME=N", help="of photographs: max_side=30000, max_pixels=…")
    add("--follow-links", action="store_true", help="let symbolic links lead out of the folder of images")
    add("--shard-images", type=int, help="most images of a shard: bounds memory (default by device)")
    add("--shard-pairs", type=int, help="most pairs of a shard: the unit of restart (default by device)")
    add("--actors", help="processes that hold the model, a number or a range as 1-8 (default one a GPU, else a CPU)")
    add("--actor-gpus", type=float, help="GPUs of an actor, a part of one or whole ones (default by their number)")
    add("--storage-options", default="{}", help="JSON for the fsspec filesystems (endpoint, …)")
    add("--log", choices=("text", "json"), default="text", help="json: a line an event, all on standard error")


def run_options(
    args: argparse.Namespace, images: str | dict[str, str], pairs: str | None = None, model: str = "any"
) -> RunOptions:
    """The options of a run. Raises StorageError or ValueError, each one sentence, where they cannot be used."""
    return RunOptions(
        *(images, args.output, pairs, args.weights, args.variant, args.threshold, args.least_squares),
        matching=MatchingOptions(args.long_side, args.dtype, args.batch_size),
        limits=ImageLimits.parse(args.limit),
        verification=VerificationOptions(args.max_error, args.long_side, args.min_inliers, model=model),
        max_images=args.shard_images,
        max_pairs=args.shard_pairs,
        follow_links=args.follow_links,
        storage=storage_options(args.storage_options),
    )
