"""Choose which pairs of photographs to match, and write them as a pair list."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import CheckpointError
from pipeline import planning
from pipeline.descriptors import DescriptorError
from pipeline.lists import FORMATS, format_of, write_list
from pipeline.pairs import PairListError
from pipeline.run import RunError
from pipeline.storage import StorageError, redacted, storage_options

EPILOG = "Exit codes: 0 done; 2 arguments or inputs are unusable; 130 stopped."


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True)
    written, images, described = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    written.add_argument("--output", help="pair list to write: .parquet, .csv or .txt; a path or an fsspec URL")
    written.add_argument("--format", choices=FORMATS, help="of the list (default by its ending; .txt is hloc's)")
    written.add_argument("--dry-run", action="store_true", help="count the pairs, write nothing")
    written.add_argument("--storage-options", default="{}", help="JSON for the fsspec filesystems (endpoint, …)")
    images.add_argument("--images", required=True, help="folder of photographs; a path or an fsspec URL")
    described.add_argument("--descriptors", help=".parquet, .npz or .npy (default: made with the weights, a stopgap)")
    described.add_argument("--weights", default="small", help="as match_dataset's, without a file (%(default)s)")
    described.add_argument("--reduce", type=int, help="dimensions (default: of a file its own, else 256)")

    commands.add_parser("exhaustive", help="all pairs", parents=[images, written])
    sequential = commands.add_parser("sequential", help="images taken in turn", parents=[images, described, written])
    sequential.add_argument("--window", type=int, default=10, help="images that follow (%(default)s)")
    sequential.add_argument("--quadratic", action="store_true", help="and those 1, 2, 4, … images on")
    sequential.add_argument("--across-folders", action="store_true", help="one sequence (default: one a folder)")
    sequential.add_argument("--loop-closure", type=int, default=0, help="similar images far away (%(default)s)")
    sequential.add_argument("--loop-every", type=int, default=10, help="of every n-th image (%(default)s)")
    sequential.add_argument("--loop-gap", type=int, default=50, help="images that are not far away (%(default)s)")
    retrieval = commands.add_parser("retrieval", help="the most similar", parents=[images, described, written])
    retrieval.add_argument("--top-k", type=int, default=20, help="of each image (%(default)s)")
    retrieval.add_argument("--min-score", type=float, help="lowest cosine")
    retrieval.add_argument("--mutual", action="store_true", help="only pairs that are so in both directions")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = vars(parse_arguments(arguments))
    command, output, form, dry = (args.pop(name) for name in ("command", "output", "format", "dry_run"))
    try:
        storage = storage_options(args.pop("storage_options"))
        if not dry:
            format_of(output, form)
        names, found = getattr(planning, f"plan_{command}")(storage=storage, **args)
        print(f"{len(found.pairs):,} pairs of {len(names):,} images")
        if not dry:
            write_list(output, names, found, form, storage)
            print(f"results:  {redacted(output)}")
    except (PairListError, DescriptorError, StorageError, RunError, CheckpointError) as error:
        print(f"plan_pairs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
