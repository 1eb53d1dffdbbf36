"""`eloftr info`."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, requires
from typing import Any

import click

import eloftr
from eloftr.weights.locate import bundled_names
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import storage_option
from pipeline.errors import RunError
from pipeline.events import counted
from pipeline.execute.choose import make_executor
from pipeline.execute.executor import local_capacity
from pipeline.extras import versions
from pipeline.front.reporting import run_of
from pipeline.match.run import PACKAGES, PLAN_FILE, RUN_FILE, SUMMARY_FILE, finished_shards
from pipeline.match.turns.tries import of_later_round
from pipeline.report.text import aligned, summary_text
from pipeline.store.folder import Folder
from pipeline.store.opening import storage_options

DISTRIBUTION = "eloftr-pipeline"
SHOWN_OPTIONS = ("long_side", "dtype", "looks")  # of a run, the last one absent where it is 1


@click.command("info", cls=Command)
@click.argument("run", metavar="[RUN]", required=False)
@storage_option
@click.pass_obj
def command(console: Console, /, run: str | None, storage: str) -> ExitCode:
    """Show what is installed, what the work would run on, and what a run folder holds.

    RUN is the output of eloftr match, or of eloftr grow or localize, which hold a run. It is a path
    or an fsspec URL.
    """
    if run is None:
        found = installation()
        console.finish(installation_text(found), found)
    else:
        folder = run_of(Folder(run, storage_options(storage)))
        found = run_contents(folder)
        console.finish(run_text(found, folder.shown), found)
    return ExitCode.DONE


def installation() -> dict[str, Any]:
    """Versions, extras, bundled weights, and what this machine or cluster offers."""
    with make_executor(quiet=True) as executor:
        capacity = executor.capacity()
        name = executor.name
    return {
        "versions": {
            "eloftr": eloftr.__version__,
            "python": platform.python_version(),
            **versions(PACKAGES),
        },
        "extras": extras(),
        "executor": name,
        "cpus": capacity.cpus,
        "gpus": capacity.gpus,
        "devices": devices(),
        "weights": bundled_names(),
    }


def extras() -> dict[str, bool]:
    """Extras of the installed distribution, and whether all packages of each are there.

    Empty for a checkout that is not installed.
    """
    try:
        needed = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return {}
    found: dict[str, bool] = {}
    for requirement in needed:
        package = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if package and extra and package[0] != DISTRIBUTION:
            there = bool(versions((package[0],)))
            found[extra[1]] = found.get(extra[1], True) and there
    return found


def devices() -> list[str]:
    """Names of the GPUs that torch sees."""
    import torch

    return [torch.cuda.get_device_name(gpu) for gpu in range(local_capacity().gpus)]


def installation_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    there = [extra for extra, installed in found["extras"].items() if installed]
    lacking = [extra for extra, installed in found["extras"].items() if not installed]
    extras = ", ".join(there) or "none"
    if lacking:
        extras += f"; not installed: {', '.join(lacking)}"
    has = f"{found['cpus']} CPUs, {found['gpus']} GPUs"
    lines = [
        *found["versions"].items(),
        ("extras", extras),
        ("executor", f"auto is {found['executor']}, with {has}"),
        *(("device", name) for name in found["devices"]),
        ("weights", ", ".join(found["weights"]) or "none are bundled"),
    ]
    return aligned((name, value) for name, value in lines)


def run_contents(run: Folder) -> dict[str, Any]:
    """What a run folder holds: what was asked, how much of it is done, and the summary."""
    if not run.exists(RUN_FILE):
        raise RunError(f"{run.shown}: holds no {RUN_FILE}; give the output folder of eloftr match.")
    asked = run.read_json(RUN_FILE)
    shards = run.read_table(PLAN_FILE, ["shard", "pairs"])
    pairs = [len(of_shard) for of_shard in shards["pairs"]]
    done = {name for name in finished_shards(run) if not of_later_round(name)}
    counts = zip(shards["shard"].to_pylist(), pairs, strict=True)
    return {
        **{name: asked.get(name) for name in ("images", "weights", "options", "versions")},
        "shards": len(shards),
        "done_shards": len(done),
        "pairs": sum(pairs),
        "done_pairs": sum(count for shard, count in counts if shard in done),
        "summary": run.read_json(SUMMARY_FILE) if run.exists(SUMMARY_FILE) else None,
    }


def run_text(found: dict[str, Any], shown: str) -> str:
    """The same for a person."""
    options = {"looks": 1, **found["options"]}
    plan = _amount(found["pairs"], found["shards"])
    text = aligned(
        [
            ("photographs", str(found["images"])),
            ("plan", plan),
            ("done", _amount(found["done_pairs"], found["done_shards"])),
            ("options", ", ".join(f"{name} {options[name]}" for name in SHOWN_OPTIONS)),
            ("weights", str(found["weights"])),
            ("made with", ", ".join(f"{name} {of}" for name, of in found["versions"].items())),
        ]
    )
    if found["summary"]:
        text += summary_text(found["summary"], shown)
    return text


def _amount(pairs: int, shards: int) -> str:
    return f"{counted(pairs, 'pair')} in {counted(shards, 'shard')}"
