"""The options of refining, which `reconstruct` and `refine` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pipeline.errors import ArgumentError
from pipeline.reconstruct.tracks.options import RefineOptions

F = TypeVar("F", bound=Callable[..., Any])
REFINE_DEFAULTS = RefineOptions()
SIZES = ",".join(map(str, REFINE_DEFAULTS.sizes))

REFINING = (
    click.option(
        "--refine-rounds",
        type=int,
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
        type=int,
        default=REFINE_DEFAULTS.radius,
        metavar="PIXELS",
        help="From the centre of a window to its edge. Large ones bear low texture, small ones "
        "bear bent surfaces.",
    ),
    click.option(
        "--refine-views",
        type=int,
        default=REFINE_DEFAULTS.views,
        help="Most images that a point is looked for in.",
    ),
    click.option(
        "--refine-error",
        type=float,
        default=REFINE_DEFAULTS.errors[1],
        metavar="PIXELS",
        help="Largest reprojection error of an observation in the end.",
    ),
)


def refine_options(function: F) -> F:
    """Add the options of refining; `chosen_options` makes one value of them."""
    for option in reversed(REFINING):
        function = option(function)
    return function


def chosen_options(given: dict[str, Any]) -> RefineOptions:
    """The values of `refine_options` as RefineOptions. Raises an EloftrError for bad ones."""
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
