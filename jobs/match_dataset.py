"""Match photographs: images in, verified matches as Parquet out. Run it again to go on where it stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import CheckpointError
from jobs.arguments import EPILOG, add_matching, run_options
from pipeline.errors import LeaseError, PairListError, RunError, StorageError
from pipeline.execute.executor import Actors
from pipeline.execute.on_ray import match_dataset
from pipeline.progress import Log
from pipeline.report.text.text import summary_text
from pipeline.store.retries import redacted


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("--images", required=True, help="folder of photographs, read recursively; a path or an fsspec URL")
    add("--output", required=True, help="run folder; a path or an fsspec URL")
    add("--pairs", help="pair list (.txt, .csv, .parquet); default all pairs")
    add_matching(parser)
    add("--dry-run", action="store_true", help="print the plan and its cost, write nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    log = Log(args.log == "json")
    try:
        options = run_options(args, args.images, args.pairs)
        actors = Actors.parse(args.actors, args.actor_gpus)
        summary = match_dataset(options, dry_run=args.dry_run, actors=actors, log=log)
    except (RunError, StorageError, PairListError, CheckpointError, ValueError) as error:
        return log.fail("match_dataset", error, 2)
    except LeaseError as error:
        return log.fail("match_dataset", error, 3)
    except KeyboardInterrupt:
        return log.fail("match_dataset", "stopped; run the same command again to go on", 130)
    if not args.dry_run:
        log.say("summary", summary_text(summary, redacted(args.output)), **summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
