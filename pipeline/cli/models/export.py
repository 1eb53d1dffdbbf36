"""`eloftr model export`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import storage_option
from pipeline.reconstruct.exports.forms import EXPORT_FORMS
from pipeline.store.opening import storage_options


@click.command("export", cls=Command)
@click.argument("model", metavar="MODEL")
@click.option("--format", "form", type=click.Choice(list(EXPORT_FORMS)), required=True)
@click.option("--output", required=True, help="Folder for the result, empty; a path or fsspec URL.")
@click.option(
    "--images",
    metavar="DIR",
    help="Folder of the photographs, a path or fsspec URL: dense undistorts them, nerf and kapture "
    "copy them, openmvg names the folder.",
)
@click.option(
    "--run", metavar="RUN", help="For hloc: the run folder whose matches the model is made of."
)
@click.option(
    "--scratch", metavar="DIR", help="Where a working folder is made if --output is a URL."
)
@storage_option
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    form: str,
    output: str,
    images: str | None,
    run: str | None,
    scratch: str | None,
    storage: str,
) -> ExitCode:
    """Write a COLMAP model in the format of another program.

    MODEL is the folder of one COLMAP model, as run/sfm/sparse/0; it stays as it is.
    """
    summary = pipeline.export_model(
        model,
        output,
        format=form,
        images=images,
        run=run,
        scratch=scratch,
        storage=storage_options(storage),
        progress=console,
    )
    console.finish(summary.text(), asdict(summary))
    return ExitCode.DONE
