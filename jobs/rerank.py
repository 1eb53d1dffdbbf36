"""Rerank retrieval's candidates by their verified matches. Run it again to go on where it stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import CheckpointError
from jobs.arguments import EPILOG, add_matching, run_options
from pipeline.errors import LeaseError, PairListError, RunError, StorageError
from pipeline.execute.executor import Actors
from pipeline.execute.on_ray import rerank_candidates
from pipeline.progress import Log
from pipeline.report.text.text import rerank_text
from pipeline.rerank.options import RerankOptions
from pipeline.store.retries import redacted
from pipeline.vocabulary import MODELS, SCORES


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    add = parser.add_argument
    add("--queries", required=True, help="folder of the queries; a path or an fsspec URL")
    add("--database", required=True, help="folder of the candidates; may be that of the queries")
    add("--candidates", required=True, help="retrieval's list (.parquet, .csv, .txt, .trec, .run)")
    add("--output", required=True, help="folder of the results; a path or an fsspec URL")
    add("--score", choices=SCORES, default="inliers", help="verified inliers, their share or scores (%(default)s)")
    add("--geometry", choices=MODELS, default="any", help="what is estimated for a pair (%(default)s)")
    add("--gate", type=int, help="inliers by which another first place must lead; 0: none (default --min-inliers)")
    add("--budget", type=int, metavar="N", help="match the first N candidates of a query only")
    add("--saturation", type=float, help="score at which a pair is certain; more counts as equal")
    add("--top", type=int, metavar="K", help="stop a query when its first K places are final; needs --saturation")
    add("--truth", help="what belongs together (.parquet, .csv, .json, .qrels): evaluate")
    add("--draw", type=int, default=0, metavar="N", help="draw the N queries that moved most")
    add_matching(parser)
    add("--dry-run", action="store_true", help="print the plan and its cost, write nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    log = Log(args.log == "json")
    names = ("candidates", "truth", "score", "budget", "saturation", "top", "gate", "draw")
    try:
        images = {"query": args.queries, "database": args.database}
        options = RerankOptions(
            run_options(args, images, model=args.geometry), **{name: getattr(args, name) for name in names}
        )
        actors = Actors.parse(args.actors, args.actor_gpus)
        result = rerank_candidates(options, dry_run=args.dry_run, actors=actors, log=log)
    except (RunError, StorageError, PairListError, CheckpointError, ValueError) as error:
        return log.fail("rerank", error, 2)
    except LeaseError as error:
        return log.fail("rerank", error, 3)
    except KeyboardInterrupt:
        return log.fail("rerank", "stopped; run the same command again to go on", 130)
    if not args.dry_run:
        log.say("summary", rerank_text(result, redacted(args.output)), **result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
