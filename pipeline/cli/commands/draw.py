"""`eloftr draw`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from PIL import Image

from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import DEFAULTS, LONG_SIDES, storage_option
from pipeline.errors import ArgumentError, RunError, StorageError
from pipeline.execute.worker import call
from pipeline.match.options import MOST_LOOKS
from pipeline.report.matches import SEVERAL, draw_pairs
from pipeline.store.folder import Folder
from pipeline.store.opening import storage_options

if TYPE_CHECKING:
    from pipeline.report.page.plots import Plot

LINES = 200  # matches of two images that are drawn
USAGE = "Give two images, or --run."
BLOCKS_USAGE = "--blocks draws a folder of models; give neither images nor --run."
PLOT_USAGE = "--plot draws numbers of a run; give --run."
PLOTS = ("inliers", "matches", "ratio", "matrix")
TRACK_USAGE = "--track draws the model of a run; give --run."


@click.command("draw", cls=Command)
@click.argument("images", metavar="[IMAGE0 IMAGE1]", nargs=-1)
@click.option(
    "--run", metavar="RUN", help="Draw pairs of this run instead, the output of eloftr match."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Picture to write, whose ending chooses the format; with --run alone, a folder of them, "
    "and with --pair either.",
)
@click.option(
    "--weights",
    default=DEFAULTS["weights"],
    help="Bundled name, checkpoint file or folder, URL or hub id.",
)
@click.option(
    "--long-side",
    type=LONG_SIDES,
    default=DEFAULTS["long_side"],
    metavar="PIXELS",
    help="Longer side at which two images are matched.",
)
@click.option(
    "--threshold", type=float, help="Lowest score of a match.  [default: the weights' own]"
)
@click.option(
    "--looks",
    type=click.IntRange(1, MOST_LOOKS),
    default=DEFAULTS["looks"],
    metavar="N",
    help="How often two images are looked at, at most, see eloftr match.",
)
@click.option(
    "--lines",
    type=click.IntRange(min=0),
    default=LINES,
    help="Matches of two images that are drawn, at most.",
)
@click.option(
    "--pairs",
    type=int,
    default=SEVERAL,
    metavar="N",
    help="Draw N pairs of the run, from the strongest to the weakest.",
)
@click.option("--pair", nargs=2, metavar="A B", help="Draw this pair of the run.")
@click.option(
    "--track",
    is_flag=True,
    help="Draw the run's model over the EXIF positions of its photographs, seen from above.",
)
@click.option(
    "--blocks",
    metavar="FOLDER",
    help="Draw the model in this output folder of eloftr reconstruct from above, in the colours of "
    "its blocks.",
)
@click.option(
    "--plot",
    type=click.Choice(PLOTS),
    help="Draw a distribution of the run's pairs, or the matrix of their inliers; .svg or a "
    "picture.",
)
@click.option("--model", help="The COLMAP model of --track.  [default: RUN/sfm/sparse/0]")
@click.option(
    "--images", "photographs", help="The folder of the run's photographs.  [default: the run's]"
)
@storage_option
@click.pass_obj
def command(
    console: Console, /, images: tuple[str, ...], run: str | None, output: Path, **given: Any
) -> ExitCode:
    """Draw matches of two images or of a run, a model over its GPS track, or its blocks.

    Of a run, inliers are green and other matches red. --plot draws its numbers, for papers. The
    command ends with exit code 1 where there is no match to draw.
    """
    if given["blocks"] is not None:
        if images or run is not None:
            raise click.UsageError(BLOCKS_USAGE)
        return _draw_blocks(console, output, given["blocks"])
    if given["track"] and run is None:
        raise click.UsageError(TRACK_USAGE)
    if given["plot"] is not None and run is None:
        raise click.UsageError(PLOT_USAGE)
    if len(images) != (2 if run is None else 0):
        raise click.UsageError(USAGE)
    if run is None:
        return _draw_two(console, images[0], images[1], output, given)
    if given["plot"] is not None:
        return _draw_plot(console, run, output, given)
    if given["track"]:
        return _draw_track(console, run, output, given)
    return _draw_run(console, run, output, given)


def _draw_two(
    console: Console, image0: str, image1: str, output: Path, given: dict[str, Any]
) -> ExitCode:
    from eloftr import match  # loads torch, which pictures of a run do not need
    from pipeline.store.weights import weights_here

    _check_ending(output)
    how = {"size": given["long_side"], "threshold": given["threshold"], "looks": given["looks"]}
    with weights_here(given["weights"], storage_options(given["storage"])) as weights:
        found = match(image0, image1, weights, **how)
    _save(found.draw(most=given["lines"]), output)
    text = f"{len(found)} matches, drawn in {output}"
    console.finish(text, {"matches": len(found), "pictures": [output]})
    return ExitCode.DONE if len(found) else ExitCode.NOTHING


def _draw_run(console: Console, /, run: str, output: Path, given: dict[str, Any]) -> ExitCode:
    storage = storage_options(given["storage"])
    folder = Folder(run, storage)
    photographs = Folder(given["photographs"] or _photographs(folder), storage)
    lines, pictures = [], []
    alone = bool(given["pair"]) and output.suffix.lower() in Image.registered_extensions()
    for number, drawn in enumerate(draw_pairs(folder, photographs, given["pairs"], given["pair"])):
        path = output if alone else output / f"matches_{number}.png"
        _save(drawn.picture, path)
        pair = {"image0": drawn.image0, "image1": drawn.image1}
        counts = {"inliers": drawn.inliers, "matches": drawn.matches}
        pictures.append({"picture": path, **pair, **counts})
        found = f"{drawn.inliers:,} inliers of {drawn.matches:,} matches"
        lines.append(f"{path}: {drawn.image0} - {drawn.image1}, {found}\n")
    text = "".join(lines) or f"{folder.shown}: no pair is verified, there is nothing to draw\n"
    console.finish(text, {"pictures": pictures})
    matched = any(one["matches"] for one in pictures)
    return ExitCode.DONE if matched else ExitCode.NOTHING


def _draw_track(console: Console, /, run: str, output: Path, given: dict[str, Any]) -> ExitCode:
    from pipeline.report.track import read_track
    from pipeline.report.track_map import draw_track

    _check_ending(output)
    storage = storage_options(given["storage"])
    folder = Folder(run, storage)
    photographs = Folder(given["photographs"] or _photographs(folder), storage)
    model = given["model"]
    track = read_track(folder, photographs, Folder(model, storage) if model else None)
    _save(draw_track(track), output)
    text = (
        f"{output}: {track.images} of {len(track.names)} images registered, {track.positions} of "
        f"them with a position in EXIF, {track.rms_metres:.2f} m off (root mean square)"
    )
    numbers = {"images": track.images, "positions": track.positions}
    distance = {"rms_metres": track.rms_metres, "missing": track.missing}
    console.finish(text, {"pictures": [output], **numbers, **distance})
    return ExitCode.DONE


def _draw_plot(console: Console, /, run: str, output: Path, given: dict[str, Any]) -> ExitCode:
    from pipeline.report.page.plots import draw_plot

    _check_ending(output, ".svg", ".pdf")
    drawn = draw_plot(Folder(run, storage_options(given["storage"])), given["plot"])
    _save(drawn, output)
    console.finish(f"{output}: {given['plot']} of {run}\n", {"pictures": [output]})
    return ExitCode.DONE


def _draw_blocks(console: Console, output: Path, results: str) -> ExitCode:
    from pipeline.report.block_map import draw_block_map, read_block_map

    _check_ending(output)
    found = call(read_block_map, Path(results))  # COLMAP stays out of this process
    _save(draw_block_map(found), output)
    cameras, points = len(found.centres), len(found.points)
    text = f"{output}: {cameras:,} cameras of {found.blocks} blocks, {points:,} points\n"
    counts = {"cameras": cameras, "blocks": found.blocks, "points": points}
    console.finish(text, {"pictures": [output], **counts})
    return ExitCode.DONE


def _check_ending(output: Path, *more: str) -> None:
    """more: endings that are good as well, or that a person should know of."""
    if output.suffix.lower() not in (*more, *Image.registered_extensions()):
        *several, last = (*more, ".png", ".jpg")
        endings = f"{', '.join(several)} or {last}"
        raise ArgumentError(f"{output}: its ending is no picture format; use {endings}.")


def _photographs(run: Folder) -> str:
    """The folder of a run's photographs, as its run.json says."""
    try:
        return str(run.read_json("run.json")["images"])
    except FileNotFoundError as error:
        cure = "give the output folder of eloftr match"
        raise RunError(f"{run.shown}: holds no run.json; {cure}.") from error


def _save(picture: Image.Image | Plot, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        why = error.strerror or error
        raise StorageError(
            f"{path}: cannot be written ({why}); check folder and rights."
        ) from error
