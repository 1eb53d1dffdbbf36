"""Choose which pairs of photographs to match, and write them as a pair list."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eloftr import CheckpointError
from pipeline.cli.pair_options import COMMANDS, OPTIONS
from pipeline.errors import DescriptorError, PairListError, RunError, StorageError
from pipeline.store.opening import storage_options

EPILOG = "Exit codes: 0 done; 2 arguments or inputs are unusable; 130 stopped."


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (what, options) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what)
        for option in options.split():
            plain = option.lstrip("!")
            command.add_argument(plain, **OPTIONS[plain] | ({"required": True} if plain != option else {}))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = vars(parse_arguments(arguments))
    try:
        args["storage"] = storage_options(args.pop("storage_options"))
        print(planning.plan(**args), end="")
    except (PairListError, DescriptorError, StorageError, RunError, CheckpointError) as error:
        print(f"plan_pairs: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("plan_pairs: stopped; nothing is written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
