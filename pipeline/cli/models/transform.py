"""`eloftr model transform`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import output_option, place_options
from pipeline.store.opening import storage_options


@click.command("transform", cls=Command)
@click.argument("model")
@output_option
@click.option("--scale", type=float, help="Make the model so many times as large.")
@click.option(
    "--similarity",
    metavar='"S QW QX QY QZ TX TY TZ"',
    help="Scale, turn (a quaternion) and shift it, as model compare prints them.",
)
@click.option("--matrix", metavar="FILE", help="As a text of three or four rows of four numbers.")
@click.option("--to", metavar="MODEL", help="Bring it to a model by the images that both have.")
@place_options
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    output: str,
    scale: float | None,
    similarity: str | None,
    matrix: str | None,
    to: str | None,
    scratch: str | None,
    storage: str,
) -> ExitCode:
    """Scale, turn and shift a model, or bring it to another one.

    One of --scale, --similarity, --matrix and --to is given. Rigs, numbers and keypoints stay.
    """
    summary = pipeline.transform_model(
        model,
        output,
        scale=scale,
        similarity=similarity,
        matrix=matrix,
        to=to,
        scratch=scratch,
        storage=storage_options(storage),
        progress=console,
    )
    console.finish(summary.text(), asdict(summary))
    return ExitCode.DONE
