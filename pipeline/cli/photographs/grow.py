"""`eloftr grow`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import carried, dry_run_option
from pipeline.cli.refining import chosen_options, refine_options
from pipeline.cli.reporting import report_at_end, report_option
from pipeline.reconstruct.growing.job import MEASURED

GROW_DEFAULTS = pipeline.grow.__kwdefaults__ or {}


@click.command("grow", cls=Command)
@click.argument("run", metavar="RUN...", nargs=-1, required=True)
@click.option("--model", required=True, help="Folder of the COLMAP model; it stays as it is.")
@click.option("--images", required=True, help="Folder of all photographs, old and new.")
@click.option("--output", required=True, help="Folder for the results, a path or fsspec URL.")
@click.option(
    "--pairs",
    metavar="FILE",
    help="Candidates (.txt, .csv, .parquet), without those that a run has matched.  "
    "[default: each new photograph with those that look most like it]",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=GROW_DEFAULTS["top_k"],
    help="Photographs that each is paired with where no list is given.",
)
@click.option(
    "--weights", default=GROW_DEFAULTS["weights"], help="Those that the runs were matched with."
)
@click.option("--masks", metavar="DIR", help="Folder of masks.  [default: the run's]")
@click.option(
    "--radius",
    type=float,
    default=GROW_DEFAULTS["radius"],
    metavar="PIXELS",
    help="Merge keypoints within this distance, pixels of what the network saw.",
)
@click.option(
    "--threads",
    type=int,
    default=GROW_DEFAULTS["threads"],
    help="Of the adjustment: 1 gives the same model every time; -1 for all cores.",
)
@click.option(
    "--refine",
    type=click.Choice(MEASURED),
    default=GROW_DEFAULTS["refine"],
    help="Which tracks are measured in the photographs: new ones and those of new images, all of "
    "them again, or none.",
)
@report_option
@dry_run_option
@refine_options
@click.pass_obj
def command(
    console: Console,
    /,
    run: tuple[str, ...],
    output: str,
    refine: str,
    executor: str,
    actors: str | None,
    storage: str,
    reported: bool,
    **given: Any,
) -> ExitCode:
    """Add new photographs to a finished model: only what is new is matched and measured.

    RUN is the output of eloftr match that the model was made of; several are one scene. Pairs that
    no RUN has are matched as those of the first one. Photographs that are gone from the folder
    leave the model, and those that changed are matched and placed again.
    """
    refining = {name: given.pop(name) for name in list(given) if name.startswith("refine_")}
    options = chosen_options(refining)
    with carried(executor, actors, storage) as carrying:
        summary = pipeline.grow(
            run,
            output,
            refine=refine,
            options=options,
            progress=console,
            **given,
            **carrying,
        )
    if summary.reconstruction is None:
        console.finish(summary.text(), asdict(summary))
        return ExitCode.DONE
    if reported:
        shown = summary.run or run[0]  # the latter, where no pair is new
        report_at_end(console, shown, given["images"], output, carrying["storage"])
    results = summary.reconstruction.output
    console.finish(f"{summary.text()}results:  {results}\n", asdict(summary))
    return ExitCode.DONE if summary.reconstruction.models else ExitCode.NOTHING
