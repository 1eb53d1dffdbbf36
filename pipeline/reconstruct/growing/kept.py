"""Runs without the images whose matches do not count any more."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.turns.tries import SIDES, settled_matches
from pipeline.photos.cameras.intrinsics import INTRINSICS_FILE
from pipeline.store.belonging import remove_all
from pipeline.store.folder import Folder


def without_images(run: Folder, left_out: frozenset[str], target: Folder) -> Folder:
    """A copy of what a reconstruction reads of a run, without the rows of some images.

    target: is emptied first, and gets `run.json` last.
    """
    remove_all(target)
    for name, table in settled_matches(run):
        target.publish_table(f"matches/{name.rpartition('/')[2]}", _kept(table, SIDES, left_out))
    for name in run.names("images"):
        target.publish_table(name, _kept(run.read_table(name), ("image",), left_out))
    for name in (INTRINSICS_FILE, "run.json"):
        if run.exists(name):
            target.publish(name, run.read_bytes(name))
    return target


def _kept(table: pa.Table, sides: Sequence[str], left_out: frozenset[str]) -> pa.Table:
    names = pa.array(sorted(left_out), pa.string())
    for side in sides:
        table = table.filter(pc.invert(pc.is_in(table[side], value_set=names)))
    return table
