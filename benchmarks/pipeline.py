"""The main job's shards through Ray and through a plain loop on the same cores: what Ray costs, and who is busy.

    python benchmarks/pipeline.py --images FOLDER [--rounds 3] [--out results.json]

loop  as many processes as there are cores, each with every n-th shard: read, match, verify, write, one after another
ray   `jobs/match_dataset.py`, as a user runs it

Both match all pairs of the folder into new run folders, by turns. Start-up, from the command until work on the first
shard to be done begins, is named by itself, and costs are compared beyond it. CPU seconds are those of the whole
machine meanwhile, which should do nothing else. The rows of both must be equal. Only on machines without a GPU, which
two loops would share.
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

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))  # a script sees its own folder only

from benchmarks.environment import commit, versions  # noqa: E402
from pipeline.match.finish import FinishShard  # noqa: E402
from pipeline.match.match import MatchShard  # noqa: E402
from pipeline.match.options import RunOptions  # noqa: E402
from pipeline.match.read import ReadShard  # noqa: E402
from pipeline.match.run import Run  # noqa: E402
from pipeline.store.folder import Folder  # noqa: E402
from pipeline.tables import unragged  # noqa: E402

PROCESSES = os.cpu_count() or 1  # of the loop; the job has an actor for each, too


def match_without_ray(run: Run, part: int = 0, parts: int = 1) -> None:
    """What `dataflow.execute` does, as a loop over every `parts`-th shard of those not done, from number `part` on."""
    pending = run.pending()
    if part == 0:
        run.begin()
    read = ReadShard(run.source, run.options.limits, run.options.matching.long_side)
    match = MatchShard(run.model, run.options.matching)
    finish = FinishShard(run.folder, run.options.verification)
    columns = (pending["shard"].to_pylist(), pending["images"].to_pylist(), unragged(pending["pairs"]))
    for shard, names, pairs in list(zip(*columns, strict=True))[part::parts]:
        finish(match(read(shard, names, pairs)))


def cpu_seconds() -> float:
    """Of all processes since the machine started."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def timed(run: Callable[[Path, Path], None], images: Path, output: Path) -> dict[str, float]:
    """Seconds and CPU seconds of a run, and how many of them it took to begin."""
    started, before = time.time(), cpu_seconds()
    run(images, output)
    seconds, spent = time.time() - started, cpu_seconds() - before
    markers = [(marker.stat().st_mtime, json.loads(marker.read_text())) for marker in (output / "done").iterdir()]
    begun = min(done - sum(marker["seconds"].values()) for done, marker in markers)
    return {"seconds": seconds, "cpu_seconds": spent, "start_seconds": begun - started}


def run_loop(images: Path, output: Path) -> None:
    command = [sys.executable, __file__, "--images", str(images), "--loop-into", str(output), "--part"]
    parts = [subprocess.Popen([*command, f"{k}/{PROCESSES}"]) for k in range(PROCESSES)]
    codes = [part.wait() for part in parts]
    if any(codes):
        raise SystemExit("pipeline: a loop failed; see its message above")


def run_ray(images: Path, output: Path) -> None:
    command = [sys.executable, str(PROJECT / "jobs" / "match_dataset.py"), "--images", str(images)]
    done = subprocess.run([*command, "--output", str(output)], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"pipeline: the job ended with exit code {done.returncode}; see its message above")


def stages(output: Path, turn: dict[str, float]) -> dict[str, float]:
    """What the job says of itself: Ray's own start, the stages' seconds, and the busy share of the actors."""
    summary = json.loads((output / "summary.json").read_text())
    seconds = summary["stage_seconds"]
    busy = (seconds["encode"] + seconds["match"]) / (PROCESSES * (turn["seconds"] - turn["start_seconds"]))
    of_ray = {"ray_start_seconds": summary["session"]["ray_start_seconds"], "busy": busy}
    return of_ray | {f"stage_{name}": value for name, value in seconds.items()}


def rows(output: Path) -> list[dict[str, Any]]:
    folder = Folder(str(output))
    return [row for name in folder.names("matches") for row in folder.read_table(name).to_pylist()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("--loop-into", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.loop_into:
        part, parts = map(int, options.part.split("/"))
        torch.set_num_threads(1)
        match_without_ray(Run(RunOptions(str(options.images), options.loop_into), "cpu"), part, parts)
        return 0
    images = options.images.resolve()
    found: dict[str, list[dict[str, float]]] = {"loop": [], "ray": []}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(1 if options.quick else options.rounds):
            outputs = {way: Path(scratch) / f"{way}{turn}" for way in found}
            found["loop"].append(timed(run_loop, images, outputs["loop"]))
            ray = timed(run_ray, images, outputs["ray"])
            found["ray"].append(ray | stages(outputs["ray"], ray))
            if rows(outputs["loop"]) != rows(outputs["ray"]):
                raise SystemExit("pipeline: Ray's rows differ from the loop's")
    pairs = list(zip(found["loop"], found["ray"], strict=True))
    costs = [
        (ray["seconds"] - ray["start_seconds"]) / (plain["seconds"] - plain["start_seconds"]) - 1
        for plain, ray in pairs
    ]
    work = [ray["cpu_seconds"] / plain["cpu_seconds"] - 1 for plain, ray in pairs]
    for way, turns in found.items():
        print(
            f"{way:5} "
            + "  ".join(
                f"{turn['seconds']:.1f} s, begun after {turn['start_seconds']:.1f}, CPUs {turn['cpu_seconds']:.0f}"
                for turn in turns
            )
        )
    last = found["ray"][-1]
    print(
        f"what Ray costs beyond the start: {statistics.median(costs):+.1%} (median); "
        f"CPU seconds with it: {statistics.median(work):+.1%}; ray.init alone {last['ray_start_seconds']:.1f} s"
    )
    print("stages      " + "  ".join(f"{k[6:]} {v:.1f} s" for k, v in last.items() if k.startswith("stage_")))
    print(f"actors busy {last['busy']:.0%} of the time")
    if options.out:
        results = {
            "cost": costs,
            "cpu_cost": work,
            "turns": found,
            "versions": versions("torch", "ray", "pycolmap", "pyarrow", "numpy", "pillow"),
            "cpus": PROCESSES,
            "commit": commit(),
        }
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
