"""`eloftr model crop`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import output_option, place_options
from pipeline.store.opening import storage_options


@click.command("crop", cls=Command)
@click.argument("model")
@output_option
@click.option("--box", metavar='"X0 Y0 Z0 X1 Y1 Z1"', help="Keep the points inside.")
@click.option(
    "--percentile",
    type=float,
    help="Leave out so many per cent of the points at both ends of each axis.",
)
@click.option(
    "--images", metavar="LIST", help="Keep the images of a list, a name a line, and what they see."
)
@place_options
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    output: str,
    box: str | None,
    percentile: float | None,
    images: str | None,
    scratch: str | None,
    storage: str,
) -> ExitCode:
    """Keep the points in a box, or some images with what they see.

    One of --box, --percentile and --images is given. Images that see no point in the box are left
    out. Of a list, points stay that two of its images see.
    """
    summary = pipeline.crop_model(
        model,
        output,
        box=box,
        percentile=percentile,
        images=images,
        scratch=scratch,
        storage=storage_options(storage),
        progress=console,
    )
    console.finish(summary.text(), asdict(summary))
    return ExitCode.DONE
