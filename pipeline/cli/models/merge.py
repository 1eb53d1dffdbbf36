"""`eloftr model merge`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import output_option, place_options
from pipeline.store.opening import storage_options


@click.command("merge", cls=Command)
@click.argument("models", metavar="MODEL MODEL…", nargs=-1, required=True)
@output_option
@place_options
@click.pass_obj
def command(
    console: Console,
    /,
    models: tuple[str, ...],
    output: str,
    scratch: str | None,
    storage: str,
) -> ExitCode:
    """Make one model of several that have images in common.

    The world, cameras and images of the first stay. Every other MODEL needs three images in common
    with what is merged before it, in whatever order they are given. Images are the same where their
    names are.
    """
    summary = pipeline.merge_models(
        models, output, scratch=scratch, storage=storage_options(storage), progress=console
    )
    console.finish(summary.text(), asdict(summary))
    return ExitCode.DONE
