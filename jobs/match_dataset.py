"""Match photographs: images in, verified matches as Parquet out. Run it again to go on where it stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import CheckpointError
from pipeline.dataflow import match_dataset
from pipeline.images import ImageLimits
from pipeline.matching import MatchingOptions
from pipeline.pairs import PairListError
from pipeline.report import summary_text
from pipeline.run import RunError, RunOptions
from pipeline.storage import StorageError, redacted, storage_options
from pipeline.verification import VerificationOptions

EPILOG = "Exit codes: 0 done; 2 arguments, images or weights are unusable; 130 stopped, run it again to go on."


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("--images", required=True, help="folder of photographs, read recursively; a path or an fsspec URL")
    add("--output", required=True, help="run folder; a path or an fsspec URL")
    add("--pairs", help="pair list (.txt, .csv, .parquet); default all pairs")
    add("--weights", default="small", help="bundled name, checkpoint file or folder, URL or hub id (%(default)s)")
    add("--variant", choices=("full", "opt"), default="full", help="opt: the efficiency variant, without softmax")
    add("--threshold", type=float, help="lowest score of a match (default the variant's)")
    add("--long-side", type=int, default=640, help="longer side of what the network sees, pixels (%(default)s)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network (%(default)s)")
    add("--batch-size", type=int, help="pairs that go through the network at once (default by device)")
    add("--min-inliers", type=int, default=VerificationOptions.min_num_inliers, help="of a verified pair (%(default)s)")
    add(
        "--max-error",
        type=float,
        default=VerificationOptions.max_error,
        help="of inliers, network pixels (%(default)s)",
    )
    add("--limit", action="append", default=[], metavar="NAME=N", help="of photographs: max_side=30000, max_pixels=…")
    add("--follow-links", action="store_true", help="let symbolic links lead out of the folder of images")
    add("--shard-images", type=int, help="most images of a shard: bounds memory (default by device)")
    add("--shard-pairs", type=int, help="most pairs of a shard: the unit of restart (default by device)")
    add("--actors", type=int, help="processes that hold the model (default one a GPU, else one a CPU)")
    add("--storage-options", default="{}", help="JSON for the fsspec filesystems (endpoint, …)")
    add("--dry-run", action="store_true", help="print the plan and its cost, write nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        same = ("images", "output", "pairs", "weights", "variant", "threshold", "follow_links")
        options = RunOptions(
            **{name: getattr(args, name) for name in same},
            matching=MatchingOptions(args.long_side, args.dtype, args.batch_size),
            limits=ImageLimits.parse(args.limit),
            verification=VerificationOptions(args.max_error, args.long_side, args.min_inliers),
            max_images=args.shard_images,
            max_pairs=args.shard_pairs,
            storage=storage_options(args.storage_options),
        )
        summary = match_dataset(options, dry_run=args.dry_run, actors=args.actors)
    except (RunError, StorageError, PairListError, CheckpointError, ValueError) as error:
        print(f"match_dataset: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("match_dataset: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    print(summary_text(summary, redacted(args.output)) if summary else "", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
