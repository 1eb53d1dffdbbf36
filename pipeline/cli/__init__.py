"""The command `eloftr`: one file a command; arguments in, one call, the summary out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INSTALL = 'pip install "eloftr-pipeline[pipeline]"'
UNUSABLE = (
    2  # the exit code; see pipeline/cli/console.py, which cannot be imported before this is known
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line, that of this process by default. Returns the exit code."""
    try:
        import click  # noqa: F401
    except ImportError:
        print(f"eloftr: the command needs more than the matcher; {INSTALL}.", file=sys.stderr)
        return UNUSABLE
    from pipeline.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)
