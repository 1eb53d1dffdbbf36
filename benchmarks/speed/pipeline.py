"""The main job's shards through both executors and through a plain loop: what each executor costs,
and who is busy.

    python benchmarks/speed/pipeline.py --images FOLDER [--rounds 3] [--out results.json]

loop   as many processes as there are cores, each with every n-th shard: read, match, verify, write,
       one after another
local  `jobs/match_dataset.py --executor local`, as a user runs it
ray    `jobs/match_dataset.py --executor ray`, as a user runs it

All three match all pairs of the folder into new run folders, by turns. Start-up is the time from
the command until work begins on the first shard that is done. It is named by itself, and costs are
compared beyond it. CPU seconds are those of the whole machine meanwhile, which should do nothing
else. The rows of all three must be equal. The benchmark is for machines without a GPU: the
processes of the loop would share one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, write_results
from pipeline.match.finish import FinishShard
from pipeline.match.match import MatchShard
from pipeline.match.options import (
    TORCH_THREADS,
    MatchingOptions,
    RunOptions,
    VerificationOptions,
)
from pipeline.match.read import ReadShard
from pipeline.match.run import Run
from pipeline.match.shards import planned_shards
from pipeline.store.folder import Folder
from pipeline.vocabulary import DEFAULT_LONG_SIDE, Device

PROCESSES = os.cpu_count() or 1  # of the loop; the executors have an actor for each, too
EXECUTORS = ("local", "ray")

Turn = dict[str, float]


def match_without_ray(run: Run, part: int = 0, parts: int = 1) -> None:
    """What the executors carry out, as a loop over every `parts`-th shard of the plan, from number
    `part` on, that is not done.
    """
    pending = set(run.pending()["shard"].to_pylist())
    if part == 0:
        run.begin()
    read = ReadShard(run.source, run.options.limits, run.options.matching.long_side)
    match = MatchShard(run.model, run.options.matching)
    finish = FinishShard(run.folder, run.options.verification)
    for shard in planned_shards(run.plan.shards)[part::parts]:
        if shard.shard in pending:
            finish(match(read(shard)))


def cpu_seconds() -> float:
    """Of all processes since the machine started."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def timed(
    run: Callable[[str, list[str], Path], None], way: str, asked: list[str], output: Path
) -> Turn:
    """Seconds and CPU seconds of a run, and how many of them it took to begin.

    asked: the arguments that are the same for every way.
    """
    started, before = time.time(), cpu_seconds()
    run(way, asked, output)
    seconds, spent = time.time() - started, cpu_seconds() - before
    markers = [
        (marker.stat().st_mtime, json.loads(marker.read_text()))
        for marker in (output / "done").iterdir()
    ]
    begun = min(done - sum(marker["seconds"].values()) for done, marker in markers)
    return {"seconds": seconds, "cpu_seconds": spent, "start_seconds": begun - started}


def run_loop(way: str, asked: list[str], output: Path) -> None:
    """Match with the plain loop, in PROCESSES processes."""
    command = [sys.executable, __file__, *asked, "--loop-into", str(output), "--part"]
    parts = [subprocess.Popen([*command, f"{k}/{PROCESSES}"]) for k in range(PROCESSES)]
    codes = [part.wait() for part in parts]
    if any(codes):
        raise SystemExit(f"pipeline: a process of the {way} failed; see its message above")


def run_job(executor: str, asked: list[str], output: Path) -> None:
    """Match with the command, on one of EXECUTORS."""
    command = [sys.executable, str(PROJECT / "jobs" / "match_dataset.py"), *asked]
    command += ["--output", str(output), "--executor", executor]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"pipeline: the job on {executor} ended with code {done.returncode}")


def stages(output: Path, turn: Turn) -> Turn:
    """What the job says of itself: the executor's own start, the stages' seconds, and the busy
    share of the actors.
    """
    summary = json.loads((output / "summary.json").read_text())
    seconds = summary["stage_seconds"]
    busy = (seconds["encode"] + seconds["match"]) / (
        PROCESSES * (turn["seconds"] - turn["start_seconds"])
    )
    of_job = {"executor_start_seconds": summary["session"]["start_seconds"], "busy": busy}
    return of_job | {f"stage_{name}": value for name, value in seconds.items()}


def rows(output: Path) -> list[dict[str, Any]]:
    """All rows of a run's matches."""
    folder = Folder(str(output))
    return [row for name in folder.names("matches") for row in folder.read_table(name).to_pylist()]


def measure(asked: list[str], rounds: int) -> dict[str, list[Turn]]:
    """The turns of every way. Raises SystemExit where an executor's rows differ from the loop's."""
    found: dict[str, list[Turn]] = {way: [] for way in ("loop", *EXECUTORS)}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(rounds):
            outputs = {way: Path(scratch) / f"{way}{turn}" for way in found}
            found["loop"].append(timed(run_loop, "loop", asked, outputs["loop"]))
            for way in EXECUTORS:
                of_job = timed(run_job, way, asked, outputs[way])
                found[way].append(of_job | stages(outputs[way], of_job))
                if rows(outputs["loop"]) != rows(outputs[way]):
                    raise SystemExit(
                        f"pipeline: the rows of the executor {way} differ from the loop's"
                    )
    return found


def costs(turns: list[Turn], loop: list[Turn]) -> tuple[list[float], list[float]]:
    """What an executor's turns cost beyond those of the loop: in time after the start, and in CPU
    seconds, as shares.
    """
    seconds, cpu = [], []
    for one, plain in zip(turns, loop, strict=True):
        after = [turn["seconds"] - turn["start_seconds"] for turn in (one, plain)]
        seconds.append(after[0] / after[1] - 1)
        cpu.append(one["cpu_seconds"] / plain["cpu_seconds"] - 1)
    return seconds, cpu


def report(found: dict[str, list[Turn]]) -> dict[str, Any]:
    """Print what was measured, and return it as it is written."""
    for way, turns in found.items():
        texts = (
            f"{turn['seconds']:.1f} s, begun after {turn['start_seconds']:.1f}, "
            f"CPUs {turn['cpu_seconds']:.0f}"
            for turn in turns
        )
        print(f"{way:5} " + "  ".join(texts))
    results: dict[str, Any] = {"cost": {}, "cpu_cost": {}, "turns": found}
    for way in EXECUTORS:
        seconds, cpu = costs(found[way], found["loop"])
        results["cost"][way], results["cpu_cost"][way] = seconds, cpu
        last = found[way][-1]
        print(
            f"{way:5} costs {statistics.median(seconds):+.1%} beyond the start (median), "
            f"{statistics.median(cpu):+.1%} CPU seconds; "
            f"its own start {last['executor_start_seconds']:.1f} s; "
            f"actors busy {last['busy']:.0%} of the time"
        )
        print(
            "      stages: "
            + "  ".join(f"{k[6:]} {v:.1f} s" for k, v in last.items() if k.startswith("stage_"))
        )
    return results


def main(arguments: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of all three (default: %(default)s)"
    )
    parser.add_argument(
        "--long-side",
        type=int,
        default=DEFAULT_LONG_SIDE,
        help="of what the network sees, pixels (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--loop-into", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loop_into:
        part, parts = map(int, options.part.split("/"))
        torch.set_num_threads(TORCH_THREADS)
        run = RunOptions(
            str(options.images),
            options.loop_into,
            matching=MatchingOptions(options.long_side),
            verification=VerificationOptions(long_side=options.long_side),
        )
        match_without_ray(Run(run, Device.CPU), part, parts)
        return 0
    asked = ["--images", str(options.images.resolve()), "--long-side", str(options.long_side)]
    results = report(measure(asked, 1 if options.quick else options.rounds))
    if options.out:
        write_results(
            options.out, results, "torch", "ray", "pycolmap", "pyarrow", "numpy", "pillow"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
