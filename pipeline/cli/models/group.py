"""`eloftr model`, the group."""

from __future__ import annotations

import click

from pipeline.cli.command import LazyGroup, load_command

# A line for each module of this folder that is a subcommand.
SUBCOMMANDS = {
    "info": "Show the numbers of models: cameras, images, points, errors, extent.",
    "compare": "Compare two models of one scene by the images that both have.",
    "transform": "Scale, turn and shift a model, or bring it to another one.",
    "align": "Bring a model into the world: by GPS, control points, or which way is up.",
    "crop": "Keep the points in a box, or some images with what they see.",
    "merge": "Make one model of several that have images in common.",
    "export": "Write a model in the format of another program.",
}


def _load(name: str) -> click.Command:
    return load_command(f"pipeline.cli.models.{name}")


@click.group(cls=LazyGroup, lines=SUBCOMMANDS, load=_load)
def command() -> None:
    """Look at COLMAP models and mend them: compare, move, align, crop, merge, export.

    A MODEL is a folder with a model of COLMAP, binary or text, of any software: a path or an fsspec
    URL. It is only read.
    """
