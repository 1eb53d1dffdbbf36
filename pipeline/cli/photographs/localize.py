"""`eloftr localize`."""

from __future__ import annotations

from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import scratch_option
from pipeline.cli.options import matching_options, prepared
from pipeline.report.text import localize_text

OWN_DEFAULTS = pipeline.localize.__kwdefaults__ or {}
CARRIED = ("executor", "actors")  # which `prepared` makes


@click.command("localize", cls=Command)
@click.option(
    "--model", required=True, help="Folder of one COLMAP model, a path or fsspec URL; only read."
)
@click.option(
    "--images",
    required=True,
    help="Folder of its photographs, to which the names in the model are relative.",
)
@click.option(
    "--queries",
    required=True,
    help="Folder of the photographs to localize. In the folder of --images: those that the model "
    "does not have.",
)
@click.option("--output", required=True, help="Folder of the results; a path or an fsspec URL.")
@click.option(
    "--candidates",
    type=click.IntRange(min=1),
    default=OWN_DEFAULTS["candidates"],
    metavar="N",
    help="Match each query with the N images of the model that look most like it.",
)
@click.option(
    "--pairs",
    metavar="LIST",
    help="Candidates in place of retrieval (.parquet, .csv, .txt, .trec, .run).",
)
@click.option(
    "--descriptors",
    metavar="FILE",
    help="Global descriptors of the images.  [default: by the matcher's weights]",
)
@click.option(
    "--query-descriptors",
    metavar="FILE",
    help="Global descriptors of the queries.  [default: those of --descriptors]",
)
@click.option(
    "--intrinsics",
    metavar="CAMERA",
    help="Known cameras of queries: MODEL:f,cx,cy,… or a file (.json, .csv, .txt).",
)
@click.option(
    "--measure/--no-measure",
    default=OWN_DEFAULTS["measure"],
    help="Find points of the model in each query by least squares at last, which is more exact.",
)
@click.option(
    "--min-pose-inliers",
    type=int,
    default=OWN_DEFAULTS["min_pose_inliers"],
    help="Least points of the model that must agree on a pose.",
)
@click.option(
    "--min-pose-ratio",
    type=click.FloatRange(0, 1),
    default=OWN_DEFAULTS["min_pose_ratio"],
    help="Least share of the compared points that must agree on a pose.",
)
@scratch_option
@matching_options
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    images: str,
    queries: str,
    output: str,
    **given: Any,
) -> ExitCode:
    """Find where photographs were taken, in a COLMAP model.

    Each query is matched with images of the model. A query of another place is refused, and the
    table of poses says why. Run it again to go on where it stopped. The command ends with exit code
    1 where no query was localized.
    """
    own = {name: given.pop(name) for name in OWN_DEFAULTS if name in given and name not in CARRIED}
    with prepared(given) as arguments:
        summary = pipeline.localize(
            model, images, queries, output, progress=console, **own, **arguments
        )
    console.finish(localize_text(summary), summary)
    return ExitCode.DONE if summary["localized"] else ExitCode.NOTHING
