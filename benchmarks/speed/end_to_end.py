"""The main job as a user runs it: photographs in, verified Parquet out; wall time, stages and
memory.

    python benchmarks/speed/end_to_end.py --images FOLDER [--out results.json]

Runs `jobs/match_dataset.py` on all pairs of the folder in a new run folder, and samples the memory
of the driver and of all its processes together (proportional set size: a page that several
processes share is counted once) every two seconds. Prints one table; the JSON holds the run's own
summary beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, write_results

INTERVAL = 2.0  # seconds; a look at every process costs about a tenth of one


def descendants(pid: int) -> list[int]:
    """A process and all that came from it, by session too: Ray's daemons leave the tree."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            found.append((int(entry.name), int(fields[1]), int(fields[3])))
    family = {pid}
    while True:
        more = {
            child for child, parent, session in found if parent in family or session == pid
        } - family
        if not more:
            return sorted(family)
        family |= more


def memory(pid: int) -> int:
    """Proportional set size of a process, bytes; 0 where it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def run(images: Path, output: Path, arguments: list[str]) -> dict[str, Any]:
    """Run the job and watch it; returns its summary, seconds and peak memory."""
    command = [sys.executable, str(PROJECT / "jobs" / "match_dataset.py"), "--images", str(images)]
    started = time.monotonic()
    job = subprocess.Popen([*command, "--output", str(output), *arguments], start_new_session=True)
    driver = total = 0
    while job.poll() is None:
        sizes = {pid: memory(pid) for pid in descendants(job.pid)}
        driver, total = max(driver, sizes.get(job.pid, 0)), max(total, sum(sizes.values()))
        time.sleep(INTERVAL)
    seconds = time.monotonic() - started
    if job.returncode:
        raise SystemExit(
            f"end_to_end: the job ended with exit code {job.returncode}; see its message above"
        )
    summary = json.loads((output / "summary.json").read_text())
    return {"seconds": seconds, "driver_bytes": driver, "total_bytes": total, "summary": summary}


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    options, job_arguments = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        result = run(options.images.resolve(), Path(scratch) / "run", job_arguments)
    summary = result["summary"]
    session = summary["session"]
    starting = f"the start of {session['executor']} {session['start_seconds']} s"
    stages = [f"{stage} {seconds:.1f} s" for stage, seconds in summary["stage_seconds"].items()]
    driver, total = result["driver_bytes"] / 1e6, result["total_bytes"] / 1e9
    rows = [
        ("images", f"{summary['images']}"),
        ("pairs", f"{summary['pairs']}, verified {summary['verified']}"),
        ("wall time", f"{result['seconds']:.1f} s, of which {starting}"),
        ("pairs/s", f"{summary['pairs'] / result['seconds']:.2f}"),
        ("stages", "  ".join(stages)),
        ("peak memory", f"driver {driver:.0f} MB, all {total:.2f} GB"),
    ]
    for name, value in rows:
        print(f"{name:12} {value}")
    if options.out:
        write_results(options.out, result, "torch", "ray", "pycolmap", "pyarrow", "numpy", "pillow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
