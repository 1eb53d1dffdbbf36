"""`eloftr rerank`."""

from __future__ import annotations

from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import VERIFICATION, dry_run_option, matching_options, prepared
from pipeline.cli.reporting import report_at_end, report_option
from pipeline.report.text import rerank_text
from pipeline.store.retries import redacted
from pipeline.vocabulary import GeometryModel, Score

OWN_DEFAULTS = pipeline.rerank.__kwdefaults__ or {}


@click.command("rerank", cls=Command)
@click.option("--queries", required=True, help="Folder of the queries; a path or an fsspec URL.")
@click.option(
    "--database", required=True, help="Folder of the candidates; may be that of the queries."
)
@click.option(
    "--candidates", required=True, help="Retrieval's list (.parquet, .csv, .txt, .trec, .run)."
)
@click.option("--output", required=True, help="Folder of the results; a path or an fsspec URL.")
@click.option(
    "--score",
    type=click.Choice([score.value for score in Score]),
    default=OWN_DEFAULTS["score"],
    help="What orders candidates: verified inliers, their share of matches, or summed scores.",
)
@click.option(
    "--geometry",
    type=click.Choice([model.value for model in GeometryModel]),
    default=VERIFICATION.model,
    help="What is estimated for a pair.",
)
@click.option(
    "--gate",
    type=int,
    help="Inliers by which another first place must lead, 0 for no gate.  [default: --min-inliers]",
)
@click.option(
    "--budget", type=int, metavar="N", help="Match the first N candidates of a query only."
)
@click.option(
    "--screen",
    is_flag=True,
    help="Glance at all candidates first; --budget then keeps the likeliest.",
)
@click.option(
    "--saturation", type=float, help="Score at which a pair is certain; more counts as equal."
)
@click.option(
    "--top",
    type=int,
    metavar="K",
    help="Stop a query when its first K places are final; needs --saturation.",
)
@click.option(
    "--truth", help="What belongs together (.parquet, .csv, .json, .qrels); evaluates the ranking."
)
@click.option(
    "--draw",
    type=int,
    default=OWN_DEFAULTS["draw"],
    metavar="N",
    help="Draw the N queries that moved most.",
)
@click.option(
    "--query-masks", metavar="DIR", help="Folder of the queries' masks, see eloftr match."
)
@click.option("--database-masks", metavar="DIR", help="Folder of the candidates' masks.")
@matching_options
@dry_run_option
@report_option
@click.pass_obj
def command(
    console: Console,
    /,
    queries: str,
    database: str,
    candidates: str,
    output: str,
    score: str,
    geometry: str,
    gate: int | None,
    budget: int | None,
    screen: bool,
    saturation: float | None,
    top: int | None,
    truth: str | None,
    draw: int,
    query_masks: str | None,
    database_masks: str | None,
    dry_run: bool,
    reported: bool,
    **given: Any,
) -> ExitCode:
    """Rerank retrieval's candidates by their verified matches.

    Run it again to go on where it stopped.
    """
    with prepared(given, geometry) as arguments:
        summary = pipeline.rerank(
            queries,
            database,
            candidates,
            output,
            truth=truth,
            score=score,
            budget=budget,
            screen=screen,
            saturation=saturation,
            top=top,
            gate=gate,
            draw=draw,
            query_masks=query_masks,
            database_masks=database_masks,
            dry_run=dry_run,
            progress=console,
            **arguments,
        )
        if summary is not None and reported:
            report_at_end(console, output, storage=arguments["storage"])
    if summary is not None:
        console.finish(rerank_text(summary, redacted(output)), summary)
    return ExitCode.DONE
