"""A small run of the command, for tests of what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from job_process import eloftr
from pictures import write_views

SMALL = ("--long-side", 192, "--executor", "local")


class Done(NamedTuple):
    """A folder that holds `photos` and `run`, and what `eloftr match --json` printed."""

    place: Path
    out: str
    err: str


def make_done(place: Path) -> Done:
    """Four photographs, one of them cut off, and a run of all their pairs."""
    write_views(place / "photos", 3, (192, 144))
    whole = (place / "photos" / "view 0.jpg").read_bytes()
    (place / "photos" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    made = eloftr("match", "--images", "photos", "--output", "run", *SMALL, "--json", cwd=place)
    assert made.returncode == 0, made.stderr
    return Done(place, made.stdout, made.stderr)
