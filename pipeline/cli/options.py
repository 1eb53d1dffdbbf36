"""Options that several commands have. Their defaults are those of the functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from pipeline.execute.choose import EXECUTORS, make_executor
from pipeline.execute.executor import Actors, Executor
from pipeline.front.matching import MATCH_DEFAULTS
from pipeline.match.options import (
    DTYPES,
    LEAST_LONG_SIDE,
    LEAST_MIN_INLIERS,
    MOST_LONG_SIDE,
    MOST_LOOKS,
    VerificationOptions,
)
from pipeline.photos.limits import ImageLimits
from pipeline.store.opening import storage_options

F = TypeVar("F", bound=Callable[..., Any])
DEFAULTS = MATCH_DEFAULTS
VERIFICATION = VerificationOptions()
LIMITS = ", ".join(vars(ImageLimits()))
LONG_SIDES = click.IntRange(LEAST_LONG_SIDE, MOST_LONG_SIDE)

storage_option = click.option(
    "--storage-options",
    "storage",
    default="{}",
    help="JSON for the fsspec filesystems, as an endpoint.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print the plan and its cost, write nothing."
)
executor_option = click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default=DEFAULTS["executor"],
    help="What carries out the work: processes of this machine, or Ray. auto is ray where "
    "RAY_ADDRESS names a cluster and where this machine has several GPUs, else local.",
)
MATCHING = (
    click.option(
        "--weights",
        default=DEFAULTS["weights"],
        help="Bundled name, checkpoint file or folder, URL or hub id.",
    ),
    click.option(
        "--variant",
        default=DEFAULTS["variant"],
        help="full, or opt: the efficiency variant, without softmax.",
    ),
    click.option(
        "--threshold", type=float, help="Lowest score of a match.  [default: the variant's]"
    ),
    click.option(
        "--least-squares",
        type=click.IntRange(min=0),
        metavar="PIXELS",
        help="Radius of patches that sharpen keypoints, 0 for none.  [default: the weights' own]",
    ),
    click.option(
        "--long-side",
        type=LONG_SIDES,
        default=DEFAULTS["long_side"],
        metavar="PIXELS",
        help="Longer side of what the network sees.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(DTYPES),
        help="Of the network.  [default: float16 on a GPU, float32 on a CPU]",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Pairs that go through the network at once.  [default: by device]",
    ),
    click.option(
        "--looks",
        type=click.IntRange(1, MOST_LOOKS),
        default=DEFAULTS["looks"],
        metavar="N",
        help="How often a pair is looked at, at most; looks after the first see its second "
        "photograph as the first one sees the place.",
    ),
    click.option(
        "--min-inliers",
        type=click.IntRange(min=LEAST_MIN_INLIERS),
        default=VERIFICATION.min_num_inliers,
        help="Least inliers of a verified pair.",
    ),
    click.option(
        "--max-error",
        type=click.FloatRange(min=0, min_open=True),
        default=VERIFICATION.max_error,
        metavar="PIXELS",
        help="Largest error of an inlier, pixels of what the network sees.",
    ),
    click.option(
        "--limit",
        "limits",
        multiple=True,
        metavar="NAME=N",
        help=f"A limit of photographs, as max_side=30000; of {LIMITS}.",
    ),
    click.option(
        "--follow-links",
        is_flag=True,
        help="Symbolic links may lead out of the folder of images.",
    ),
    click.option(
        "--ignore-case",
        is_flag=True,
        help="Names of lists may differ in upper and lower case from those of the photographs.",
    ),
    click.option(
        "--strip-prefix",
        metavar="PREFIX",
        help="What names of lists may begin with and photographs do not, as images/.",
    ),
    click.option(
        "--shard-images",
        "max_images",
        type=click.IntRange(min=2),
        help="Most images of a shard, which bounds memory.  [default: by device]",
    ),
    click.option(
        "--shard-pairs",
        "max_pairs",
        type=click.IntRange(min=1),
        help="Most pairs of a shard, the unit of restart.  [default: by device]",
    ),
    executor_option,
    click.option(
        "--actors",
        metavar="N|N-M",
        help="Processes that hold the model, a number or a range as 1-8.  "
        "[default: one a GPU, else one a CPU]",
    ),
    click.option(
        "--actor-gpus",
        type=float,
        help="GPUs of an actor, a part of one or whole ones.  [default: by their number]",
    ),
    storage_option,
)


def adding(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """A decorator that adds options to a command, in their order."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


# How pairs are matched; `prepared` makes arguments of the values.
matching_options = adding(MATCHING)


def opened(name: str) -> Executor:
    """The executor of that name, for a command. Raises as `make_executor` does."""
    executor = make_executor(name, quiet=True)
    # Ray Data sets the level of its log when it is imported, by then.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return executor


@contextmanager
def carried(
    executor: str, actors: str | None, storage: str, gpus: float | None = None
) -> Iterator[dict[str, Any]]:
    """The values of these options → arguments of `pipeline`'s functions, with an open executor.

    gpus: of one actor. Raises an EloftrError for what cannot be used.
    """
    given = {"actors": Actors.parse(actors, gpus), "storage": storage_options(storage)}
    with opened(executor) as made:
        yield {**given, "executor": made}


@contextmanager
def prepared(given: dict[str, Any], geometry: str = VERIFICATION.model) -> Iterator[dict[str, Any]]:
    """The values of `matching_options` → arguments of `pipeline.match`, with an open executor.

    geometry: what is estimated for a pair. Raises an EloftrError for what cannot be used.
    """
    given = dict(given)
    given["verification"] = VerificationOptions(
        max_error=given.pop("max_error"),
        long_side=given["long_side"],
        min_num_inliers=given.pop("min_inliers"),
        model=geometry,
    )
    given["limits"] = ImageLimits.parse(given["limits"])
    how = given.pop("executor"), given.pop("actors"), given.pop("storage")
    with carried(*how, given.pop("actor_gpus")) as carrying:
        yield {**given, **carrying}
