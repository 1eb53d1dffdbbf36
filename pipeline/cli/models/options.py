"""Options of several subcommands."""

from __future__ import annotations

import click

from pipeline.cli.options import adding, storage_option

scratch_option = click.option(
    "--scratch", help="Local folder for copies of what is at a URL.  [default: temporary files]"
)
place_options = adding((scratch_option, storage_option))
output_option = click.option(
    "--output",
    required=True,
    help="Folder for the result, a path or fsspec URL; a model in it is replaced.",
)
