"""`eloftr report`, and the report that other commands write at their end."""

from __future__ import annotations

from typing import Any

import click

import pipeline
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import storage_option
from pipeline.errors import EloftrError
from pipeline.events import Event, counted
from pipeline.front.reporting import REPORT_FORMATS
from pipeline.report.text import aligned
from pipeline.store.opening import storage_options

OWN_DEFAULTS = pipeline.report.__kwdefaults__ or {}
report_option = click.option(
    "--report/--no-report",
    "reported",
    default=True,
    help="Write report.html at the end, see eloftr report.",
)


@click.command("report", cls=Command)
@click.argument("run", metavar="RUN")
@click.argument("other", metavar="[RUN2]", required=False)
@click.option(
    "--output",
    metavar="FILE",
    help="File to write, a path or an fsspec URL.  [default: report.html in RUN, or "
    "comparison.html for two runs]",
)
@click.option(
    "--format",
    type=click.Choice(REPORT_FORMATS),
    default=OWN_DEFAULTS["format"],
    help="A page for a person, or its tables as JSON.",
)
@click.option("--images", help="Folder of the photographs.  [default: the run's]")
@click.option("--models", help="Output of eloftr reconstruct.  [default: RUN/sfm]")
@storage_option
@click.pass_obj
def command(
    console: Console,
    /,
    run: str,
    other: str | None,
    output: str | None,
    format: str,
    images: str | None,
    models: str | None,
    storage: str,
) -> ExitCode:
    """Write what a run came to as one page that opens without a server.

    RUN is the output of eloftr match, rerank, grow or localize, a path or an fsspec URL. It may
    still go on.
    With RUN2, the pairs of both are compared.
    """
    summary = pipeline.report(
        *(run, other, output),
        format=format,
        images=images,
        models=models,
        storage=storage_options(storage),
    )
    size = summary["bytes"]
    shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    of = counted(summary["images"], "image")
    lines = [
        ("pairs", f"{summary['pairs']:,} of {of}, {summary['state']}"),
        *(("note", note) for note in summary["notes"]),
        ("report", f"{summary['output']}, {shown}"),
    ]
    console.finish(aligned(lines), summary)
    return ExitCode.DONE


def report_at_end(
    console: Console,
    run: str,
    images: str | None = None,
    models: str | None = None,
    storage: dict[str, Any] | None = None,
) -> None:
    """Write the report of a run, into its folder or that of its models, where these are elsewhere.

    What goes wrong is a warning, because the work is done.
    """
    output = None if models is None else f"{models.rstrip('/')}/report.html"
    try:
        pipeline.report(run, output=output, images=images, models=models, storage=storage)
    except EloftrError as error:
        _warn(console, str(error))
    except Exception as error:  # a bug of the report must not take the results of hours with it
        _warn(console, f"{type(error).__name__}: {error}; eloftr report {run} shows where.")


def _warn(console: Console, why: str) -> None:
    message = f"no report was written: {why}"
    console(Event("warning", f"warning: {message}", {"message": message}))
