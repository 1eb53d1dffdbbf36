"""`eloftr reconstruct`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import carried
from pipeline.cli.refining import chosen_options, refine_options
from pipeline.cli.reporting import report_at_end, report_option
from pipeline.events import Event
from pipeline.reconstruct.blocks.cut import plan_text
from pipeline.reconstruct.blocks.options import (
    FINAL,
    MOST_ADJUSTED,
    MOST_IN_ONE,
    SIZE,
    BlockOptions,
)
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.given import faces_given, runs_or_database
from pipeline.reconstruct.mapping import MAPPERS
from pipeline.reconstruct.poses.options import USES, PoseOptions
from pipeline.reconstruct.positions.trusted import PositionOptions
from pipeline.reconstruct.tracks.options import REFINE

OWN_DEFAULTS = pipeline.reconstruct.__kwdefaults__ or {}


@click.command("reconstruct", cls=Command)
@click.argument("run", metavar="[RUN]...", nargs=-1)
@click.option(
    "--database",
    metavar="FILE",
    help="A COLMAP database with verified pairs in place of RUN, as one of SIFT. "
    "It stays as it is, and cameras are as it says.",
)
@click.option("--output", help="Folder for the results, a path or fsspec URL.  [default: RUN/sfm]")
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
@click.option(
    "--blocks",
    default=OWN_DEFAULTS["blocks"],
    metavar="auto|off|N",
    help="Map the scene in blocks of N images, which are joined. "
    f"auto: {SIZE} images a block where there are more than {MOST_IN_ONE}.",
)
@click.option(
    "--final-adjustment",
    type=click.Choice(FINAL),
    default=BlockOptions.final,
    help="Of a model that was joined from blocks: as a whole in one process, or by blocks. "
    f"auto: global up to {MOST_ADJUSTED:,} images, and blocks above.",
)
@click.option(
    "--positions",
    metavar="FILE|exif",
    help="Trusted positions of photographs, as of RTK, by which blocks are joined and models come "
    "into metres: .csv or .parquet of image, latitude, longitude, altitude or image, x, y, z; exif "
    "takes those of the photographs.",
)
@click.option(
    "--position-error",
    type=float,
    metavar="METRES",
    help="By which they err, 1 sigma of a coordinate.",
)
@click.option(
    "--poses",
    metavar="FILE",
    help="Known poses: the folder of a COLMAP model, its images.txt, transforms.json, or a .csv or "
    ".parquet of image and quaternions, or positions with angles.",
)
@click.option(
    "--poses-are",
    type=click.Choice(USES),
    default=OWN_DEFAULTS["poses_are"],
    help="fixed: they stay exactly so, and matches are only triangulated. priors: their positions "
    "count as --positions, within --position-error.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Make the database, print the blocks and what each costs, and map nothing.",
)
@click.option("--images", help="Folder of the photographs.  [default: the run's]")
@click.option(
    "--masks",
    metavar="DIR",
    help="Folder of masks, see eloftr match; nothing is observed where they are 0.  "
    "[default: the run's]",
)
@click.option(
    "--write-faces",
    "faces",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the faces of panoramas there as the pictures of the model, for COLMAP's tools.",
)
@click.option(
    "--refine",
    type=click.Choice(REFINE),
    default=OWN_DEFAULTS["refine"],
    help="tracks: measure the tracks of every model again in the photographs, and complete them.",
)
@refine_options
@report_option
@click.pass_obj
def command(
    console: Console,
    /,
    run: tuple[str, ...],
    database: str | None,
    output: str | None,
    mapper: str,
    camera_model: str,
    camera_sharing: str,
    intrinsics: str | None,
    radius: float,
    threads: int,
    blocks: str,
    final_adjustment: str,
    positions: str | None,
    position_error: float | None,
    poses: str | None,
    poses_are: str,
    dry_run: bool,
    images: str | None,
    masks: str | None,
    faces: Path | None,
    refine: str,
    executor: str,
    actors: str | None,
    scratch: str | None,
    storage: str,
    reported: bool,
    **refining: Any,
) -> ExitCode:
    """Make a COLMAP database and a sparse model of a run's matches.

    RUN is the output of eloftr match, a path or an fsspec URL. Several runs whose photographs have
    the same names are one scene. The command ends with exit code 1 where nothing could be mapped,
    and where no model has depth.
    """
    options = chosen_options(refining)
    cameras = CameraOptions.parse(camera_model, camera_sharing, intrinsics)
    cut = BlockOptions.parse(blocks, final_adjustment)
    if PoseOptions.of(poses, poses_are, positions, position_error) is None:
        PositionOptions.of(positions, position_error)
    with carried(executor, actors, storage) as carrying:
        scene = {"cameras": cameras, "database": database, "blocks": cut, "radius": radius}
        files = {"images": images, "masks": masks, "scratch": scratch}
        if faces is not None:
            faces_given(runs_or_database(run, database, carrying["storage"]), None)
        how = {**scene, **files, "progress": console, **carrying}
        if dry_run:
            plan = pipeline.plan_blocks(run, output, **how)
            console.finish(plan_text(plan), plan.to_pydict())
            return ExitCode.DONE
        summary = pipeline.reconstruct(
            run,
            output,
            mapper=mapper,
            refine=options if refine == "tracks" else refine,
            positions=positions,
            position_error=position_error,
            poses=poses,
            poses_are=poses_are,
            threads=threads,
            **how,
        )
        if faces is not None:
            written = pipeline.write_faces(run, faces, images=images, storage=carrying["storage"])
            console(Event("faces", f"{written} faces in {faces}", {"faces": written}))
        if reported and len(run) == 1:
            report_at_end(console, run[0], images, output, carrying["storage"])
    console.finish(f"{summary.text()}results:  {summary.output}\n", asdict(summary))
    return ExitCode.DONE if summary.has_depth() else ExitCode.NOTHING
