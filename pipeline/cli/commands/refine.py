"""`eloftr refine`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import carried
from pipeline.cli.refining import chosen_options, refine_options


@click.command("refine", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option("--images", required=True, help="Folder of the photographs, a path or fsspec URL.")
@click.option(
    "--output", help="Folder for the result, a path or fsspec URL.  [default: MODEL-refined]"
)
@click.option(
    "--masks",
    metavar="DIR",
    help="Folder of masks, see eloftr match; nothing is observed where they are 0.",
)
@click.option(
    "--fixed-cameras", is_flag=True, help="Keep the focal lengths and all other intrinsics."
)
@click.option(
    "--threads",
    type=int,
    default=1,
    help="Of the adjustment: 1 gives the same model every time; -1 for all cores.",
)
@refine_options
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    images: str,
    output: str | None,
    masks: str | None,
    fixed_cameras: bool,
    threads: int,
    executor: str,
    actors: str | None,
    scratch: str | None,
    storage: str,
    **given: Any,
) -> ExitCode:
    """Make a COLMAP model exact: its tracks are measured again in the photographs.

    Tracks are completed by other images too. MODEL is a folder with a model of COLMAP, of any
    features; it stays as it is. The command ends
    with exit code 1 where no round made the model better.
    """
    options = chosen_options(given)
    with carried(executor, actors, storage) as carrying:
        summary = pipeline.refine(
            model,
            images,
            output,
            options=options,
            masks=masks,
            fixed_cameras=fixed_cameras,
            threads=threads,
            scratch=scratch,
            progress=console,
            **carrying,
        )
    console.finish(f"{summary.text()}results:  {summary.output}\n", asdict(summary))
    return ExitCode.DONE if summary.better else ExitCode.NOTHING
