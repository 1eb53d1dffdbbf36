"""`eloftr model compare`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import place_options
from pipeline.store.folder import Folder
from pipeline.store.opening import storage_options


@click.command("compare", cls=Command)
@click.argument("model")
@click.argument("reference")
@click.option(
    "--csv", "table", metavar="FILE", help="Write all images that both have, with errors."
)
@place_options
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    reference: str,
    table: str | None,
    scratch: str | None,
    storage: str,
) -> ExitCode:
    """Compare two models of one scene by the images that both have.

    Images are the same where their names are. MODEL is brought to REFERENCE by the similarity that
    most camera centres agree on, and the errors of its images are in units of REFERENCE.
    """
    options = storage_options(storage)
    found = pipeline.compare_models(model, reference, scratch=scratch, storage=options)
    if table is not None:
        folder, name = Folder.of_file(table, options)
        folder.publish(name, found.csv().encode())
    console.finish(found.text(), asdict(found))
    return ExitCode.DONE
