"""The report page of a made-up run: seconds, memory, bytes, and how soon a browser shows it.

    python benchmarks/scale/report_page.py [--pairs 50000:300 1000000:20]
        [--photographs 1000] [--scratch FOLDER] [--out results.json]

A run has 50 pairs an image, each with as many matches as stand behind the colon. Its photographs
are JPEG files of 12 megapixels; a few are made, and the names are links to them. The page is made
in a process of its own, whose peak memory is given; `load` is the number of processes that wanted a
CPU meanwhile. The browser is Chromium without a GPU: `ready_seconds` are until its scripts have
run, `sort_seconds` those of sorting all pairs that stand in the page.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

import pipeline
from benchmarks.environment import PROJECT, argument_parser, peak_memory, write_results
from benchmarks.scale.importing import write_run
from pipeline.store.folder import Folder

SIZE, FILES = (4000, 3000), 4  # of photographs, and how many of them differ
DRIVER = "import sys; from benchmarks.scale.report_page import drive; drive(sys.argv[1])"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def write_photographs(run: Path, folder: Path, most: int) -> None:
    """Photographs for the first images of a run, and its run.json, which names their folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(FILES):
        noise = Image.fromarray(rng.integers(0, 256, (150, 200, 3), np.uint8))
        noise.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    tables = [Folder(str(run)).read_table(f"images/{path.name}") for path in run.glob("images/*")]
    names = sorted({name for table in tables for name in table["image"].to_pylist()})
    for number, name in enumerate(names[:most]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / f"{number % FILES}.jpg", path)
    (run / "run.json").write_text(json.dumps({"images": str(folder), "options": {}}))


def drive(run: str) -> None:
    """Make the page and print what it took."""
    started, worked = time.perf_counter(), time.process_time()
    summary = pipeline.report(run)
    took = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - worked,
        "load": os.getloadavg()[0],
    }
    print(json.dumps({**summary, **took, "memory_bytes": peak_memory()}))


def shown(page: Path) -> dict[str, float]:
    """Seconds until a browser shows the page, and of sorting its pairs; empty without a browser."""
    found = shutil.which("chromium")
    if found is None:
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        tab = browser.new_page()
        started = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        ready = time.perf_counter() - started
        sort = """() => { const started = performance.now();
            document.querySelector("#pair-table th:nth-child(3) button").click();
            return (performance.now() - started) / 1000; }"""
        seconds = tab.evaluate(sort)
        browser.close()
    return {"ready_seconds": ready, "sort_seconds": seconds}


def measure(pairs: int, matches: int, photographs: int, scratch: Path | None) -> dict[str, Any]:
    """One size of run."""
    with tempfile.TemporaryDirectory(dir=scratch) as made:
        run = Path(made) / "run"
        write_run(run, pairs, matches)
        write_photographs(run, Path(made) / "photographs", photographs)
        command = [sys.executable, "-c", DRIVER, str(run)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        row: dict[str, Any] = json.loads(done.stdout)
        for name in ("output", "state", "notes"):  # of this folder, and said by the page
            del row[name]
        return {**row, **shown(run / "report.html")}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--pairs", nargs="+", default=["50000:300", "1000000:20"])
    parser.add_argument("--photographs", type=int, default=1_000)
    parser.add_argument("--scratch", type=Path)
    parser.set_defaults(out=PROJECT / "benchmarks" / "results" / "report_page.json")
    given = parser.parse_args()
    rows = []
    for size in given.pairs:
        pairs, matches = map(int, size.split(":"))
        row = measure(pairs, matches, given.photographs, given.scratch)
        rows.append({"matches_a_pair": matches, **row})
        print(rows[-1], flush=True)
        packages = ("pyarrow", "pillow", "scipy", "jinja2")
        write_results(given.out, {"rows": rows}, *packages)


if __name__ == "__main__":
    main()
