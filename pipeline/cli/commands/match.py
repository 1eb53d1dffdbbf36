"""`eloftr match`."""

from __future__ import annotations

from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import DEFAULTS, dry_run_option, matching_options, prepared
from pipeline.cli.reporting import report_at_end, report_option
from pipeline.match.options import DEFAULT_SCALES, DEFAULT_TURNS, MOST_DETAIL
from pipeline.report.text import summary_text
from pipeline.store.retries import redacted
from pipeline.vocabulary import PanoramaMode


@click.command("match", cls=Command)
@click.option(
    "--images",
    required=True,
    help="Folder of photographs, read with its subfolders; a path or an fsspec URL.",
)
@click.option("--output", required=True, help="Run folder; a path or an fsspec URL.")
@click.option("--pairs", help="Pair list (.txt, .csv, .parquet).  [default: all pairs]")
@matching_options
@click.option(
    "--turns",
    default=DEFAULTS["turns"],
    metavar="auto|off|N",
    help="Turns that are probed where photographs may be turned against each other; auto is "
    f"{DEFAULT_TURNS}.",
)
@click.option(
    "--scales",
    default=DEFAULTS["scales"],
    metavar="auto|off|N",
    help="Ratios that are probed where one photograph may show the scene larger: so many of 2, "
    f"1/2, 3, 1/3, 4 and 1/4; auto is {DEFAULT_SCALES}.",
)
@click.option(
    "--yaw",
    metavar="FILE",
    help="Headings of photographs that look down (.csv, .parquet): columns image and yaw, degrees "
    "clockwise from north.  [default: those of their files]",
)
@click.option(
    "--masks",
    metavar="DIR",
    help="Folder of masks, a path or an fsspec URL: no match begins or ends where the mask of a "
    "photograph is 0. That of a/b.jpg is a/b.jpg.png, or else a/b.png.",
)
@click.option(
    "--detail",
    type=click.IntRange(0, MOST_DETAIL),
    default=DEFAULTS["detail"],
    help="For large photographs: finer passes over what verified pairs share, each at twice the "
    "resolution of the last.",
)
@click.option(
    "--intrinsics",
    metavar="FILE|MODEL:PARAMS",
    help="Known cameras of any lens: a .json, .csv or COLMAP's .txt file for some or all images, "
    "or one for all. Pairs of such images are verified by their rays.",
)
@click.option(
    "--panoramas",
    type=click.Choice([*map(str, PanoramaMode)]),
    default=DEFAULTS["panoramas"],
    help="Which photographs are panoramas of 360 degrees, matched by their faces: those whose XMP "
    "says so, all that are twice as wide as high, or none.",
)
@dry_run_option
@report_option
@click.pass_obj
def command(
    console: Console,
    /,
    images: str,
    output: str,
    pairs: str | None,
    dry_run: bool,
    reported: bool,
    **given: Any,
) -> ExitCode:
    """Match photographs: images in, verified matches as Parquet out.

    Run it again to go on where it stopped. It ends with exit code 1 where no pair matched.
    """
    with prepared(given) as arguments:
        if dry_run:
            counts = pipeline.estimate(images, output, pairs=pairs, progress=console, **arguments)
            console.finish("", counts)
            return ExitCode.DONE
        summary = pipeline.match(images, output, pairs=pairs, progress=console, **arguments)
        if reported:
            report_at_end(console, output, storage=arguments["storage"])
    console.finish(summary_text(summary, redacted(output)), summary)
    return ExitCode.DONE if summary["matched"] else ExitCode.NOTHING
