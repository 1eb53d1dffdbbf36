"""`eloftr pairs METHOD`: one command for every way to choose pairs.

Options, types and defaults are those of the functions in `pipeline.pairs.plan`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import click

from pipeline.cli.command import Command, LazyGroup
from pipeline.cli.console import Console, ExitCode

METHODS = {
    "exhaustive": "All pairs.",
    "sequential": "Images taken one after another, and places seen again.",
    "retrieval": "Images that look most alike, or the candidates of queries for eloftr rerank.",
    "spatial": "Images taken near each other.",
    "poses": "Images with known poses that are near each other and look the same way.",
    "covisibility": "Images that see the same points of a model.",
    "transitive": "Images that verified pairs of a run connect.",
    "union": "The pairs of any of several lists.",
    "minus": "The pairs of the first list that no other has.",
    "sample": "Some pairs of a list.",
    "describe": "No pairs: global descriptors, a stopgap.",
}
HELP = {
    "images": "Folder of photographs; a path or an fsspec URL.",
    "descriptors": ".parquet, .npz or .npy.  [default: made with the weights, a stopgap]",
    "weights": "Of the matcher, where descriptors are made.",
    "reduce": "Dimensions of the descriptors.  [default: a file's own, else 256]",
    "queries": "Folder: list for each of its images those of --images that look most like it.",
    "query_descriptors": "Of the queries.  [default: the file of --descriptors]",
    "window": "Images that follow each.",
    "quadratic": "Also those 1, 2, 4, … 2^(window - 1) images on.",
    "across_folders": "One sequence, not one a folder.",
    "loop_closure": "Similar images from elsewhere, for some of the images.",
    "loop_every": "Which have them: every n-th.",
    "loop_gap": "Images before and after that are not elsewhere.",
    "top_k": "Images paired with each.",
    "min_score": "Lowest cosine.",
    "mutual": "Only where each is among the most similar of the other.",
    "positions": ".csv or .parquet: image, x, y[, z] or image, latitude, longitude[, altitude].  "
    "[default: EXIF]",
    "poses": "A COLMAP model, images.txt, transforms.json, or a table .csv or .parquet.",
    "angle": "Degrees between two directions of view, at most.",
    "nearest": "Images paired with each.",
    "radius": "Metres between two images, at most.",
    "height": "Use z or the altitude, too.",
    "model": "Folder of a COLMAP model.",
    "min_shared": "Points that two images see.",
    "run": "Output folder of eloftr match.",
    "steps": "Verified pairs from one image to the other, 0 for any number.",
    "count": "Pairs.",
    "seed": "Of the random choice.",
    "best": "The best scored, not random ones.",
    "output": "File to write; a path or an fsspec URL.",
    "format": "Of the list.  [default: by its ending; .txt is hloc's, trec for --queries]",
    "failures": "Write what cannot be used, and why, as .parquet.",
    "dry_run": "Count the pairs, write nothing.",
}
ARGUMENTS = ("lists", "list")  # given without a name: pair lists (.parquet, .csv, .txt)
NOT_ASKED = ("method", "chosen", "storage", "listen")  # parameters that are no options


def _load(method: str) -> click.Command:
    """The command of a method."""
    from pipeline.cli.options import storage_option
    from pipeline.pairs.plan import MAKERS, describe_folder, plan

    taken = (describe_folder,) if method == "describe" else (MAKERS[method], plan)
    made = Command(
        method,
        params=[option for function in taken for option in parameters(function)],
        callback=click.pass_obj(partial(_carry_out, method)),
        help=METHODS[method],
    )
    return storage_option(made)


def _carry_out(method: str, console: Console, storage: str, **given: Any) -> ExitCode:
    from pipeline.pairs.plan import describe_folder, plan
    from pipeline.report.text import descriptors_text, list_text
    from pipeline.store.opening import storage_options

    options = storage_options(storage)
    if method == "describe":
        described = describe_folder(storage=options, listen=console, **given)
        console.finish(descriptors_text(described), described)
        return ExitCode.DONE
    summary = plan(method, options, listen=console, **given)
    console.finish(list_text(summary), summary)
    return ExitCode.DONE if summary["count"] or given["dry_run"] else ExitCode.NOTHING


def parameters(function: Callable[..., Any]) -> list[click.Parameter]:
    """What a function of `pipeline.pairs.plan` takes, as options with its types and defaults."""
    types = get_type_hints(function)
    return [
        _parameter(name, types[name], given.default)
        for name, given in signature(function).parameters.items()
        if name not in NOT_ASKED
    ]


def _parameter(name: str, kind: Any, default: Any) -> click.Parameter:
    """An argument for lists, else an option: required where it has no default and is never None."""
    from pipeline.pairs.formats import FORMATS

    if name in ARGUMENTS:
        many = get_origin(kind) is list
        return click.Argument([name], nargs=-1 if many else 1, required=True)
    names = [f"--{name.replace('_', '-')}", name]
    if kind is bool:
        return click.Option(names, is_flag=True, default=default, help=HELP[name])
    (plain,) = (one for one in get_args(kind) or (kind,) if one is not NoneType)
    return click.Option(
        names,
        type=click.Choice(FORMATS) if name == "format" else plain,
        default=None if default is Parameter.empty else default,
        required=default is Parameter.empty and NoneType not in get_args(kind),
        help=HELP[name],
    )


@click.group(cls=LazyGroup, lines=METHODS, load=_load, subcommand_metavar="METHOD [OPTIONS]")
def command() -> None:
    """Choose which pairs of photographs to match, and write them as a list.

    The list is for eloftr match --pairs. A command ends with exit code 1 where the list that it
    wrote is empty.
    """
