"""A run that nothing disturbed, for runs that something did to be compared with."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from job_process import Job, rows, tables
from pictures import write_views

from pipeline.events import nobody
from pipeline.match.job import note_files, stages_of
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.run import Run, RunSummary
from pipeline.match.shards import planned_shards
from pipeline.vocabulary import Device

LONG_SIDE = 128
COUNT = 9  # photographs
SHARD_PAIRS = 2
PLAN = ("--long-side", LONG_SIDE, "--shard-pairs", SHARD_PAIRS)


def match_plainly(options: RunOptions) -> RunSummary:
    """The main job without an executor: all stages of one shard after another, in this process."""
    threads = torch.get_num_threads()
    run = Run(options, Device.CPU)
    note_files(run, nobody)
    run.begin()
    works = [stage.make() for stage in stages_of(run)]
    pairs = 0
    for shard in planned_shards(run.pending()):
        value = shard
        for work in works:
            value = work(value, 1)
        pairs += value["counts"]["pairs"]
    torch.set_num_threads(threads)
    return run.finish(
        {
            "pairs": pairs,
            "seconds": 1.0,
            "start_seconds": 0.0,
            "pairs_per_second": 1.0,
            "executor": "none",
        }
    )


def write_quiet_run(place: Path) -> None:
    """`photos`, and `quiet`: a run of all their pairs in one process, without an executor."""
    write_views(place / "photos", COUNT, (128, 96))
    options = RunOptions(
        *(str(place / "photos"), str(place / "quiet")),
        matching=MatchingOptions(LONG_SIDE),
        verification=VerificationOptions(long_side=LONG_SIDE),
        max_pairs=SHARD_PAIRS,
    )
    match_plainly(options)


def start(place: Path, output: str, *more: object, **how: Any) -> Job:
    """The job with the same photographs and options."""
    return Job("--images", "photos", "--output", output, *PLAN, *more, cwd=place, **how)


def check_whole(run: Path, quiet: Path) -> None:
    """Every planned pair has one row, and all tables are byte for byte those of the quiet run."""
    pairs = Counter((row["image0"], row["image1"]) for row in rows(run))
    planned = set(
        combinations(sorted(path.name for path in (quiet.parent / "photos").iterdir()), 2)
    )
    assert set(pairs) == planned
    assert set(pairs.values()) == {1}
    assert tables(run) == tables(quiet)
    left = {path.relative_to(run) for path in run.rglob("*")}
    left -= {Path("report.html")}  # of the command alone
    assert left == {
        path.relative_to(quiet) for path in quiet.rglob("*")
    }  # no lock and no temporary file, either
