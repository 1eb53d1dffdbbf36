"""What mapping a survey in blocks costs beside one mapper, and how exact both are.

    python benchmarks/scale/mapping.py [--sides 32 64] [--one-up-to 32] [--blocks 200]
    [--final-adjustment auto] [--processes 2] [--scratch FOLDER] [--out results.json]

A survey of side × side cameras is made with its truth; see `scenes`. It is mapped in blocks by a
few processes, and by one incremental mapper up to some size, each in a process of its own, one
after the other.

error      median angle between true and found relative rotations in degrees, and median distance
           of the cameras in % of the distance between neighbours, after alignment
megabytes  the largest resident set of any process
cpu        seconds of CPU of each stage, by who spent them: the process that drives, that of COLMAP,
           and those that map blocks together
memory     megabytes that each of them held at most until the end of the stage; of those that map
           blocks, the largest
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser, write_results
from benchmarks.scale.scenes import Scene, survey
from pipeline.events import Event
from pipeline.reconstruct.similarity import umeyama

BASE = 10.0  # metres between neighbours of a survey
SOME = 20_000  # couples of images whose rotations are compared
STAGES = {  # an event, and the stage that it ends
    "imported": "import",
    "joining": "blocks",
    "joined": "joins",
    "adjusted": "adjustment",
}


def judged(scene: Scene, folder: Path) -> dict[str, Any]:
    """Registered images and errors of a model."""
    model = pycolmap.Reconstruction(str(folder))
    numbers = sorted(model.reg_image_ids())
    rows = np.array(numbers) - 1
    images = [model.images[number] for number in numbers]
    rotation = np.array([image.cam_from_world().rotation.matrix() for image in images])
    centres = np.array([image.projection_center() for image in images])
    scale, R, t = umeyama(centres, scene.centre[rows])
    off = np.linalg.norm(scale * centres @ R.T + t - scene.centre[rows], axis=1)
    a, b = np.random.default_rng(0).integers(0, len(rows), (2, SOME))
    found = rotation[a] @ rotation[b].transpose(0, 2, 1)
    truth = scene.rotation[rows[a]] @ scene.rotation[rows[b]].transpose(0, 2, 1)
    cosine = (np.einsum("vij,vij->v", found, truth) - 1) / 2
    return {
        "registered": len(rows),
        "observations": model.compute_num_observations(),
        "rotation": round(float(np.median(np.degrees(np.arccos(cosine.clip(-1, 1))))), 4),
        "position": round(float(np.median(off)) / BASE * 100, 3),
        "error": round(model.compute_mean_reprojection_error(), 4),
        "track": round(model.compute_mean_track_length(), 3),
    }


class Watch:
    """Seconds, CPU seconds and memory of every stage; a listener."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, dict[str, float]] = {}
        self.memory: dict[str, dict[str, float]] = {}
        self.colmap = 0  # its process, which is the first that is started
        self.before, self.spent = time.perf_counter(), self._spent()

    def __call__(self, event: Event) -> None:
        if event.name in STAGES:
            self.ended(STAGES[event.name])

    def ended(self, stage: str) -> None:
        """Count what was spent since the stage before it."""
        now, spent = time.perf_counter(), self._spent()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self.before, 2)
        cpu = self.cpu.setdefault(stage, dict.fromkeys(spent, 0.0))
        for who, value in spent.items():
            cpu[who] = round(cpu[who] + value - self.spent[who], 2)
        self.memory[stage] = self._memory()
        self.before, self.spent = now, spent

    def _children(self) -> list[int]:
        tasks = Path("/proc/self/task").glob("*/children")
        found = sorted(int(pid) for task in tasks for pid in task.read_text().split())
        self.colmap = self.colmap or min(found, default=0)
        return found

    def _spent(self) -> dict[str, float]:
        """CPU seconds until now. What has ended is COLMAP's process."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {
            "driver": time.process_time(),
            "colmap": ended.ru_utime + ended.ru_stime,
            "workers": 0.0,
        }
        for pid in self._children():
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            who = "colmap" if pid == self.colmap else "workers"
            found[who] += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        return found

    def _memory(self) -> dict[str, float]:
        """Megabytes at most until now."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        found = {"driver": held("self"), "colmap": ended, "workers": 0.0}
        for pid in self._children():
            who = "colmap" if pid == self.colmap else "workers"
            found[who] = max(found[who], held(str(pid)))
        return {who: round(value) for who, value in found.items()}


def held(process: str) -> float:
    """Megabytes that a process held at most."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def mapped(database: Path, output: Path, blocks: str, final: str, processes: int) -> dict[str, Any]:
    """Reconstruct once in this process and its children; what each stage took."""
    import pipeline
    from pipeline.execute.executor import Actors
    from pipeline.execute.local import LocalExecutor
    from pipeline.reconstruct.blocks.options import BlockOptions

    started, watch = time.perf_counter(), Watch()
    with LocalExecutor() as executor:
        pipeline.reconstruct(
            database=database,
            output=output,
            blocks=BlockOptions.parse(blocks, final),
            refine="none",
            executor=executor,
            actors=Actors(processes, processes),
            progress=watch,
        )
        watch.ended("report")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "stages": watch.seconds,
        "cpu": watch.cpu,
        "memory": watch.memory,
        "megabytes": max(max(found.values()) for found in watch.memory.values()),
    }


def measured(scene: Scene, folder: Path, blocks: str, final: str, processes: int) -> dict[str, Any]:
    """Reconstruct in a process of its own, and judge the model."""
    output = folder / f"blocks-{blocks}"
    arguments = [str(folder / "database.db"), str(output), blocks, final, str(processes)]
    done = subprocess.run(
        [sys.executable, __file__, "--child", *arguments], check=True, capture_output=True
    )
    return {**json.loads(done.stdout), **judged(scene, output / "sparse" / "0")}


def main() -> None:
    """Make surveys, map them, and print and write the table."""
    command = argument_parser(__doc__)
    command.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    command.add_argument("--sides", type=int, nargs="+", default=[32, 64])
    command.add_argument("--one-up-to", type=int, default=32, help="side of the largest survey")
    command.add_argument("--blocks", default="200")
    command.add_argument("--final-adjustment", default="auto")
    command.add_argument("--processes", type=int, default=2)
    command.add_argument("--scratch", type=Path)
    options = command.parse_args()
    if options.child:
        database, output, blocks, final, processes = options.child
        print(json.dumps(mapped(Path(database), Path(output), blocks, final, int(processes))))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for side in options.sides:
            folder = Path(scratch) / str(side)
            folder.mkdir()
            scene = survey(side).write(folder / "database.db")
            for blocks in [options.blocks, *(["off"] if side <= options.one_up_to else [])]:
                final = options.final_adjustment
                found = measured(scene, folder, blocks, final, options.processes)
                rows.append({"images": len(scene), "blocks": blocks, **found})
                print(json.dumps(rows[-1]), flush=True)
    if options.out:
        write_results(options.out, {"processes": options.processes, "rows": rows})


if __name__ == "__main__":
    main()
