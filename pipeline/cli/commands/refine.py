"""`eloftr refine`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import executor_option, opened, storage_option
from pipeline.cli.refining import chosen_options, refine_options
from pipeline.execute.executor import Actors
from pipeline.store.opening import storage_options


@click.command("refine", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option("--images", required=True, help="Folder of the photographs, a path or fsspec URL.")
@click.option("--output", help="Local folder for the result.  [default: MODEL-refined]")
@refine_options
@click.option(
    "--fixed-cameras", is_flag=True, help="Keep the focal lengths and all other intrinsics."
)
@click.option(
    "--threads",
    type=int,
    default=1,
    help="Of the adjustment: 1 gives the same model every time; -1 for all cores.",
)
@executor_option
@click.option(
    "--actors",
    metavar="N|N-M",
    help="Processes that measure.  [default: one a GPU, else one a CPU]",
)
@storage_option
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    images: str,
    output: str | None,
    fixed_cameras: bool,
    threads: int,
    executor: str,
    actors: str | None,
    storage: str,
    **given: Any,
) -> ExitCode:
    """Make a COLMAP model exact: its tracks are measured again in the photographs.

    Tracks are completed by other images too. MODEL is a folder with a model of COLMAP, of any
    features; it stays as it is. The command ends
    with exit code 1 where no round made the model better.
    """
    options = chosen_options(given)
    with opened(executor) as carrying:
        summary = pipeline.refine(
            model,
            images,
            output,
            options=options,
            fixed_cameras=fixed_cameras,
            threads=threads,
            storage=storage_options(storage),
            executor=carrying,
            actors=Actors.parse(actors),
            progress=console,
        )
    console.finish(f"{summary.text()}results:  {summary.output}\n", asdict(summary))
    return ExitCode.DONE if summary.better else ExitCode.NOTHING
