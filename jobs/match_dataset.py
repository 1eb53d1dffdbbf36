"""Match photographs: images in, verified matches as Parquet out. Run it again to go on where it stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import CheckpointError
from pipeline.dataflow import Actors, match_dataset
from pipeline.images import ImageLimits
from pipeline.lease import LeaseError
from pipeline.matching import MatchingOptions
from pipeline.pairs import PairListError
from pipeline.progress import Log
from pipeline.report import summary_text
from pipeline.run import RunError, RunOptions
from pipeline.storage import StorageError, redacted, storage_options
from pipeline.verification import VerificationOptions

EPILOG = "Exit codes: 0 done; 1 a bug; 2 unusable arguments or storage; 3 run folder in use; 130 stopped, run it again."


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
    add("--max-error", type=float, default=VerificationOptions.max_error, help="of inliers, pixels (%(default)s)")
    add("--limit", action="append", default=[], metavar="NAME=N", help="of photographs: max_side=30000, max_pixels=…")
    add("--follow-links", action="store_true", help="let symbolic links lead out of the folder of images")
    add("--shard-images", type=int, help="most images of a shard: bounds memory (default by device)")
    add("--shard-pairs", type=int, help="most pairs of a shard: the unit of restart (default by device)")
    add("--actors", help="processes that hold the model, a number or a range as 1-8 (default one a GPU, else a CPU)")
    add("--actor-gpus", type=float, help="GPUs of an actor, a part of one or whole ones (default by their number)")
    add("--storage-options", default="{}", help="JSON for the fsspec filesystems (endpoint, …)")
    add("--log", choices=("text", "json"), default="text", help="json: a line an event, all on standard error")
    add("--dry-run", action="store_true", help="print the plan and its cost, write nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    log = Log(args.log == "json")
    try:
        options = RunOptions(
            *(args.images, args.output, args.pairs, args.weights, args.variant, args.threshold),
            matching=MatchingOptions(args.long_side, args.dtype, args.batch_size),
            limits=ImageLimits.parse(args.limit),
            verification=VerificationOptions(args.max_error, args.long_side, args.min_inliers),
            max_images=args.shard_images,
            max_pairs=args.shard_pairs,
            follow_links=args.follow_links,
            storage=storage_options(args.storage_options),
        )
        actors = Actors.parse(args.actors, args.actor_gpus)
        summary = match_dataset(options, dry_run=args.dry_run, actors=actors, log=log)
    except (RunError, StorageError, PairListError, CheckpointError, ValueError) as error:
        return log.fail("match_dataset", error, 2)
    except LeaseError as error:
        return log.fail("match_dataset", error, 3)
    except KeyboardInterrupt:
        return log.fail("match_dataset", "stopped; run the same command again to go on", 130)
    if summary:
        log.say("summary", summary_text(summary, redacted(args.output)), **summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
