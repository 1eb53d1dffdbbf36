"""The options of refining, which `reconstruct` and `refine` have."""

from __future__ import annotations

from typing import Any

import click

from pipeline.cli.options import adding, executor_option, storage_option
from pipeline.errors import ArgumentError
from pipeline.reconstruct.tracks.options import RANGES, RefineOptions

REFINE_DEFAULTS = RefineOptions()
SIZES = ",".join(map(str, REFINE_DEFAULTS.sizes))

REFINING = (
    click.option(
        "--refine-rounds",
        type=click.IntRange(*RANGES["rounds"]),
        default=REFINE_DEFAULTS.rounds,
        help="How often tracks are measured. The first rounds gain most, and each costs as much.",
    ),
    click.option(
        "--refine-sizes",
        default=SIZES,
        metavar="PIXELS,…",
        help="Longer side of the photographs in the last rounds. Small ones forgive a model that "
        "is far off, large ones are exact.",
    ),
    click.option(
        "--refine-radius",
        type=click.IntRange(*RANGES["radius"]),
        default=REFINE_DEFAULTS.radius,
        metavar="PIXELS",
        help="From the centre of a window to its edge. Large ones bear low texture, small ones "
        "bear bent surfaces.",
    ),
    click.option(
        "--refine-views",
        type=click.IntRange(*RANGES["views"]),
        default=REFINE_DEFAULTS.views,
        help="Most images that a point is looked for in.",
    ),
    click.option(
        "--refine-error",
        type=click.FloatRange(min=0, min_open=True),
        default=REFINE_DEFAULTS.errors[1],
        metavar="PIXELS",
        help="Largest reprojection error of an observation in the end.",
    ),
    executor_option,
    click.option(
        "--actors",
        metavar="N|N-M",
        help="Processes that map blocks or measure tracks.  [default: one a GPU, else one a CPU]",
    ),
    click.option(
        "--scratch",
        metavar="DIR",
        help="Where the work is done if the results go to a URL, in a folder that is removed at "
        "the end.  [default: the system's folder for temporary files]",
    ),
    storage_option,
)


# How tracks are measured, and by what; `chosen_options` and `carried` make arguments of the values.
refine_options = adding(REFINING)


def chosen_options(given: dict[str, Any]) -> RefineOptions:
    """The values of `--refine-…` as RefineOptions. Raises an EloftrError for bad ones."""
    text = given["refine_sizes"]
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ArgumentError(
            f"--refine-sizes {text!r}: give numbers of pixels with commas, as {SIZES}."
        ) from None
    last = given["refine_error"]
    return RefineOptions(
        rounds=given["refine_rounds"],
        sizes=sizes,
        radius=given["refine_radius"],
        views=given["refine_views"],
        errors=(max(REFINE_DEFAULTS.errors[0], last), last),
    )
