"""`eloftr model info`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import place_options
from pipeline.store.opening import storage_options


@click.command("info", cls=Command)
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@place_options
@click.pass_obj
def command(
    console: Console, /, models: tuple[str, ...], scratch: str | None, storage: str
) -> ExitCode:
    """Show the numbers of COLMAP models: cameras, images, points, errors, extent."""
    found = pipeline.model_info(models, scratch=scratch, storage=storage_options(storage))
    text = "\n".join(one.text() for one in found)
    console.finish(text, {"models": [asdict(one) for one in found]})
    return ExitCode.DONE
