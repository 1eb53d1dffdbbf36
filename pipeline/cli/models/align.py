"""`eloftr model align`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.models.options import output_option, place_options
from pipeline.store.opening import storage_options


@click.command("align", cls=Command)
@click.argument("model")
@output_option
@click.option(
    "--gps",
    metavar="FOLDER|TABLE",
    help="By where its photographs were taken: their folder, for their EXIF data, or a .csv or "
    ".parquet of image, latitude, longitude, altitude or image, x, y, z.",
)
@click.option(
    "--gps-error",
    type=float,
    metavar="METRES",
    help="By which these err, 1 sigma of a coordinate.  [default: as they fit, 1 m at least]",
)
@click.option(
    "--gcp",
    metavar="FILE",
    help="By ground control points: a .csv of point, x, y, z or easting, northing, height or "
    "latitude, longitude, altitude, image, column, row; or OpenDroneMap's gcp_list.txt.",
)
@click.option(
    "--gcp-error",
    type=float,
    metavar="METRES",
    help="By which these err, 1 sigma of a coordinate.  [default: as they fit]",
)
@click.option(
    "--up",
    type=click.Choice(["gravity", "manhattan"]),
    help="Turn z up and keep the scale: by pitch and roll of the photographs, or by surfaces at "
    "right angles.",
)
@click.option(
    "--images",
    metavar="FOLDER",
    help="Photographs, whose pitch, roll and headings tell what is up and check the model.  "
    "[default: that of --gps]",
)
@click.option(
    "--frame",
    type=click.Choice(["enu", "ecef", "utm"]),
    default="enu",
    help="Metres to the east, the north and up of a place, from the centre of the earth, or UTM.",
)
@click.option(
    "--crs",
    metavar="SYSTEM",
    help="The system of x, y, z of a table, as 'WGS84 UTM 11N' or EPSG:32611.",
)
@place_options
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    output: str,
    gps: str | None,
    gps_error: float | None,
    gcp: str | None,
    gcp_error: float | None,
    up: str | None,
    images: str | None,
    frame: str,
    crs: str | None,
    scratch: str | None,
    storage: str,
) -> ExitCode:
    """Bring a model into the world: by GPS, control points, or which way is up.

    One of --gps, --gcp and --up is given. The output gets the model and world.json, which says in
    which frame it lies, how it was moved, and what every position or control point is off.
    """
    summary = pipeline.align_model(
        model,
        output,
        gps=gps,
        gps_error=gps_error,
        gcp=gcp,
        gcp_error=gcp_error,
        up=up,
        images=images,
        frame=frame,
        crs=crs,
        scratch=scratch,
        storage=storage_options(storage),
        progress=console,
    )
    console.finish(summary.text(), asdict(summary))
    return ExitCode.DONE
