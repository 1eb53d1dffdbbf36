"""What a result was measured with: versions, commit, memory. Needs nothing but Python."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


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
