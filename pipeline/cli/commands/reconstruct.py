"""`eloftr reconstruct`."""

from __future__ import annotations

from dataclasses import asdict

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import storage_option
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.mapping import MAPPERS
from pipeline.store.opening import storage_options

OWN_DEFAULTS = pipeline.reconstruct.__kwdefaults__ or {}


@click.command("reconstruct", cls=Command)
@click.argument("run", metavar="RUN")
@click.option("--output", help="Local folder for the results.  [default: RUN/sfm]")
@click.option(
    "--mapper",
    type=click.Choice(MAPPERS),
    default=OWN_DEFAULTS["mapper"],
    help="COLMAP's: one image after another, or all poses at once.",
)
@click.option(
    "--camera-model",
    default=CameraOptions.model,
    metavar="MODEL",
    help="COLMAP camera model. auto maps with SIMPLE_RADIAL, and makes a camera of many images "
    "OPENCV where they fit it clearly better.",
)
@click.option(
    "--camera-sharing",
    default=CameraOptions.sharing,
    metavar="auto|single|per-folder|per-image|list:FILE",
    help="Which images share a camera. auto: those that EXIF says are of one camera and setting. "
    "FILE: .csv or .parquet with columns image and camera. Images of two sizes never share.",
)
@click.option(
    "--intrinsics",
    metavar="FILE|MODEL:PARAMS",
    help="Known cameras, which are kept: a .json, .csv or COLMAP's .txt file for some or all "
    "images, or one for all. PARAMS are f,cx,cy,… in COLMAP's order.",
)
@click.option(
    "--radius",
    type=float,
    default=OWN_DEFAULTS["radius"],
    metavar="PIXELS",
    help="Merge keypoints within this distance, pixels of what the network saw.",
)
@click.option(
    "--threads",
    type=int,
    default=OWN_DEFAULTS["threads"],
    help="Of the mapper: 1 gives the same model every time, more a faster one; -1 for all cores.",
)
@click.option(
    "--images", help="The photographs, for the colours of the points.  [default: the run's]"
)
@storage_option
@click.pass_obj
def command(
    console: Console,
    /,
    run: str,
    output: str | None,
    mapper: str,
    camera_model: str,
    camera_sharing: str,
    intrinsics: str | None,
    radius: float,
    threads: int,
    images: str | None,
    storage: str,
) -> ExitCode:
    """Make a COLMAP database and a sparse model of a run's matches.

    RUN is the output of eloftr match, a path or an fsspec URL. The command ends with exit code 1
    where nothing could be mapped, and where no model has depth.
    """
    summary = pipeline.reconstruct(
        run,
        output,
        images=images,
        mapper=mapper,
        cameras=CameraOptions.parse(camera_model, camera_sharing, intrinsics),
        radius=radius,
        threads=threads,
        storage=storage_options(storage),
        progress=console,
    )
    console.finish(f"{summary.text()}results:  {summary.output}\n", asdict(summary))
    return ExitCode.DONE if summary.has_depth() else ExitCode.NOTHING
