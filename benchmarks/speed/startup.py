"""What a command costs before it works, and a small job as a whole, beside an older checkout.

    python benchmarks/speed/startup.py --images FOLDER [--before CHECKOUT] [--rounds 5] [--out FILE]

The job matches all 21 pairs of the first seven photographs of the folder, in a new run folder each
time: with the local executor, with Ray, and with `jobs/match_dataset.py` of the older checkout. All
sides take turns: a round runs each of them once. A first round is not counted. The tables of
matches must be equal byte for byte on all sides.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, write_results

PHOTOGRAPHS = 7
# The same as the installed script, but of this checkout.
ELOFTR = ["-c", "import sys; from pipeline.cli import main; sys.exit(main())"]
STARTS = {
    "python": ["-c", "pass"],
    "import eloftr": ["-c", "import eloftr"],
    "import pipeline": ["-c", "import pipeline"],
    "eloftr --help": [*ELOFTR, "--help"],
    # A process that loads the bundled model and matches two photographs.
    "first match": [
        "-c",
        "from pathlib import Path; import eloftr; "
        "eloftr.match(*sorted(Path('photographs').iterdir())[:2])",
    ],
}
HELP_TARGET, MATCH_TARGET = 0.5, 1.5  # seconds
JOB_TARGET = 0.6  # of what the older checkout's job takes


def seconds(arguments: list[str], checkout: Path, folder: Path) -> float:
    """Wall time of one Python process that imports the packages of a checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(checkout)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    elapsed = time.monotonic() - started
    if done.returncode:
        raise SystemExit(
            f"startup: {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        )
    return elapsed


def job_seconds(
    program: list[str], checkout: Path, images: Path, folder: Path, digests: set[str]
) -> float:
    """Wall time of one job in a new run folder; adds the digest of its matches to `digests`."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    elapsed = seconds([*program, "--images", str(images), "--output", str(run)], checkout, folder)
    tables = sorted((run / "matches").glob("*.parquet"))
    digests.add(hashlib.sha256(b"".join(path.read_bytes() for path in tables)).hexdigest())
    if not tables or len(digests) > 1:
        raise SystemExit(
            f"startup: {' '.join(program)}: its matches differ from those of another side"
        )
    return elapsed


def measure(images: Path, before: Path | None, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of every start and every job, round by round."""
    chosen = folder / "photographs"
    chosen.mkdir()
    for path in itertools.islice(sorted(images.iterdir()), PHOTOGRAPHS):
        shutil.copy(path, chosen)
    if len(list(chosen.iterdir())) < PHOTOGRAPHS:
        raise SystemExit(
            f"startup: {images}: fewer than {PHOTOGRAPHS} files; give a folder with more."
        )
    sides: dict[str, Callable[[], float]] = {
        name: partial(seconds, arguments, PROJECT, folder) for name, arguments in STARTS.items()
    }
    programs = {
        f"job, {executor}": ([*ELOFTR, "match", "--executor", executor], PROJECT)
        for executor in ("local", "ray")
    }
    if before:
        for name in ("import eloftr", "import pipeline"):
            sides[f"{name}, before"] = partial(seconds, STARTS[name], before, folder)
        programs["job, before"] = ([str(before / "jobs" / "match_dataset.py")], before)
    digests: set[str] = set()
    for name, (program, checkout) in programs.items():
        sides[name] = partial(job_seconds, program, checkout, chosen, folder, digests)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for counted in [False] + [True] * rounds:
        for name, side in sides.items():
            elapsed = side()
            if counted:
                found[name].append(elapsed)
    return found


def table(found: dict[str, list[float]]) -> str:
    """What was measured, as Markdown."""
    targets = {"eloftr --help": HELP_TARGET, "first match": MATCH_TARGET}
    if "job, before" in found:
        targets["job, local"] = JOB_TARGET * statistics.median(found["job, before"])
    lines = ["| what | median | least | most | target |", "|---|---|---|---|---|"]
    for name, values in found.items():
        measured = (statistics.median(values), min(values), max(values))
        cells = [f"{value:.2f} s" for value in measured]
        cells.append(f"{targets[name]:.2f} s" if name in targets else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--images", type=Path, required=True, help="folder of at least seven photographs"
    )
    parser.add_argument("--before", type=Path, help="an older checkout to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every side (%(default)s)")
    options = parser.parse_args(arguments)
    before = options.before and options.before.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.images.resolve(), before, Path(scratch), options.rounds)
    print(table(found), end="")
    if options.out:
        results = {"rounds": options.rounds, "photographs": PHOTOGRAPHS, "seconds": found}
        write_results(options.out, results, "torch", "ray", "click", "numpy", "pyarrow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
