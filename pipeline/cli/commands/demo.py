"""`eloftr demo`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.cli.options import executor_option
from pipeline.demo.job import run_demo
from pipeline.execute.executor import make_executor

NOTHING = "nothing was reconstructed; see the report above"


@click.command("demo", cls=Command)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="demo",
    help="Folder of the scene and the results.",
)
@executor_option
@click.pass_obj
def command(console: Console, /, output: Path, executor: str) -> ExitCode:
    """Match and reconstruct a scene that is drawn for it, and compare with the truth.

    Nothing is downloaded. Run it again to go on where it stopped.
    """
    with make_executor(executor, quiet=True) as carrying:
        summary = run_demo(output, carrying, console)
    console.finish(summary.text(), summary.fields())
    if not summary.reconstruction.models:
        return console.fail(NOTHING, ExitCode.NOTHING)
    return ExitCode.DONE
