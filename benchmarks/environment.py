"""What all benchmarks share: their arguments, what a result was measured with, how it is written.
Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


def argument_parser(
    doc: str | None, out: str | None = "write the results as JSON", allow_abbrev: bool = True
) -> argparse.ArgumentParser:
    """A parser of the arguments of a script, with the option --out.

    doc: what the script says of itself, which --help prints as it stands. out: what --help says of
    --out; None: the script writes no results.
    """
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
    )
    if out is not None:
        parser.add_argument("--out", type=Path, help=out)
    return parser


def versions(*packages: str) -> dict[str, str]:
    """Python's version and those of the packages; "absent" where one is not installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def commit() -> str | None:
    """The commit of this checkout, marked where files differ from it; None outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    git = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return git.stdout.strip() or None


def peak_memory() -> int:
    """The most bytes this process has held in memory; unlike `getrusage`, not those of the process
    that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def write_results(path: Path, results: dict[str, Any], *packages: str) -> None:
    """Write results as JSON, with the versions of packages, the number of CPUs and the commit."""
    described = {"versions": versions(*packages), "cpus": os.cpu_count(), "commit": commit()}
    path.write_text(
        json.dumps({**described, **results}, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
