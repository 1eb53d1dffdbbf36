"""What the scripts that measure whole sets share: their arguments, and how they report."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.environment import PROJECT, argument_parser
from eloftr.errors import EloftrError


def sets_parser(
    doc: str | None, sets: Iterable[str], out: str, listed: str = "comma-separated"
) -> argparse.ArgumentParser:
    """A parser with --data, --sets and --out, as `argument_parser`; listed: how sets are given."""
    parser = argument_parser(doc, out, allow_abbrev=False)
    add = parser.add_argument
    add("--data", type=Path, help="folder of the sets (default: $ELOFTR_DATA, then ../shared/data)")
    add("--sets", default=",".join(sets), help=f"{listed} (default: %(default)s)")
    return parser


def add_matching(parser: argparse.ArgumentParser) -> None:
    """Add the options --weights and --long-side of our own matching."""
    add = parser.add_argument
    add("--weights", default="small", help="checkpoint, by name or path (default: %(default)s)")
    add(
        "--long-side",
        type=int,
        default=640,
        help="longer side of what we match, pixels (default: %(default)s)",
    )


def chosen(options: argparse.Namespace) -> dict[str, Path]:
    """The folders of the sets that --data and --sets tell, by name."""
    data = options.data or Path(os.environ.get("ELOFTR_DATA") or PROJECT.parent / "shared" / "data")
    return {name: data / name for name in map(str.strip, options.sets.split(","))}


def aligned(rows: list[list[str]]) -> str:
    """A Markdown table with columns of even width; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = ("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head, rule, *lines])


def report(results: dict[str, Any], table: str, out: Path | None) -> None:
    """Print the table, and write the results as JSON where a file is given."""
    print(table)
    if out is not None:
        out.write_text(json.dumps(results, indent=1) + "\n")


def exit_code(
    name: str, run: Callable[[argparse.Namespace], object], options: argparse.Namespace
) -> int:
    """Run the script of a name: 0, or 2 after one line that tells why it cannot."""
    try:
        run(options)
    except EloftrError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0
