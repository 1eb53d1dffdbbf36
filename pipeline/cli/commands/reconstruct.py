"""`eloftr reconstruct`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import executor_option, opened, storage_option
from pipeline.cli.refining import chosen_options, refine_options
from pipeline.execute.executor import Actors
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.mapping import MAPPERS
from pipeline.reconstruct.tracks.options import REFINE
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
    help="COLMAP camera model. auto maps with SIMPLE_RADIAL, and refining makes it RADIAL "
    "where many images share the camera and fit that clearly better.",
)
@click.option(
    "--camera-sharing",
    default=CameraOptions.sharing,
    metavar="auto|single|per-folder|per-image|list:FILE",
    help="Which images share a camera. auto: those that EXIF says are of one camera and setting, "
    "and others of one size and folder whose refined tracks fit one camera. "
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
    help="Of mapper and adjustment: 1 gives the same model every time, more a faster one; "
    "-1 for all cores.",
)
@click.option("--images", help="Folder of the photographs.  [default: the run's]")
@click.option(
    "--refine",
    type=click.Choice(REFINE),
    default=OWN_DEFAULTS["refine"],
    help="tracks: measure the tracks of every model again in the photographs, and complete them.",
)
@refine_options
@executor_option
@click.option(
    "--actors",
    metavar="N|N-M",
    help="Processes that measure tracks.  [default: one a GPU, else one a CPU]",
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
    refine: str,
    executor: str,
    actors: str | None,
    storage: str,
    **refining: Any,
) -> ExitCode:
    """Make a COLMAP database and a sparse model of a run's matches.

    RUN is the output of eloftr match, a path or an fsspec URL. The command ends with exit code 1
    where nothing could be mapped, and where no model has depth.
    """
    options = chosen_options(refining)
    cameras = CameraOptions.parse(camera_model, camera_sharing, intrinsics)
    with opened(executor) as carrying:
        summary = pipeline.reconstruct(
            run,
            output,
            images=images,
            mapper=mapper,
            cameras=cameras,
            refine=options if refine == "tracks" else refine,
            radius=radius,
            threads=threads,
            storage=storage_options(storage),
            executor=carrying,
            actors=Actors.parse(actors),
            progress=console,
        )
    console.finish(f"{summary.text()}results:  {summary.output}\n", asdict(summary))
    return ExitCode.DONE if summary.has_depth() else ExitCode.NOTHING
