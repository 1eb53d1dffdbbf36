"""The group of all commands, and what a command does to its process.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

import eloftr
from pipeline.cli.command import STOPPED, LazyGroup, load_command
from pipeline.cli.console import EXIT_MEANINGS, Console, ExitCode
from pipeline.errors import EloftrError

NAME = "eloftr"
COMMANDS = {
    "match": "Match photographs: images in, verified matches as Parquet out.",
    "pairs": "Choose which pairs of photographs to match, and write them as a list.",
    "rerank": "Rerank retrieval's candidates by their verified matches.",
    "reconstruct": "Make a COLMAP database and a sparse model of a run's matches.",
    "grow": "Add new photographs to a finished model: only what is new is matched and measured.",
    "refine": "Make a COLMAP model exact: its tracks are measured again in the photographs.",
    "localize": "Find where photographs were taken, in a COLMAP model.",
    "model": "Look at COLMAP models and mend them: compare, move, align, crop, merge, export.",
    "report": "Write what a run came to as one page that opens without a server.",
    "draw": "Draw matches of two images or of a run, a model over its GPS track, or its blocks.",
    "demo": "Match and reconstruct a scene that is drawn for it, and compare with the truth.",
    "train": "Train a small matcher on synthetic views of photographs.",
    "info": "Show what is installed, what the work would run on, and what a run folder holds.",
}
MODULES = {  # of commands that are no file of cli/commands
    "grow": "pipeline.cli.photographs.grow",
    "localize": "pipeline.cli.photographs.localize",
    "model": "pipeline.cli.models.group",
    "report": "pipeline.cli.reporting",
}
COMPLETION = 'eval "$(_ELOFTR_COMPLETE=bash_source eloftr)"'
CODES = "\n".join(f"  {code.value}  {meaning}" for code, meaning in EXIT_MEANINGS.items())
EPILOG = f"""\b
Exit codes:
{CODES}

\b
Shell completion, a line for ~/.bashrc (or zsh_source, fish_source):
  {COMPLETION}
"""
SETTINGS = {"max_content_width": 100, "show_default": True}


def _load(name: str) -> click.Command:
    return load_command(MODULES.get(name, f"pipeline.cli.commands.{name}"))


def _show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"{NAME} {eloftr.__version__}")
        ctx.exit()


@click.group(
    NAME, cls=LazyGroup, lines=COMMANDS, load=_load, epilog=EPILOG, context_settings=SETTINGS
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def app() -> None:
    """Match photographs with EfficientLoFTR, rerank by matches, and reconstruct with COLMAP."""


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line. Returns the exit code; exceptions that are bugs pass."""
    _own_process()
    as_json = "--json" in arguments
    try:
        code: int = app.main(list(arguments), NAME, standalone_mode=False) or ExitCode.DONE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else NAME
        sentence = f"{error.format_message()} See {where} --help."
        code = Console(where, as_json).fail(sentence, ExitCode.UNUSABLE)
    except EloftrError as error:  # before the command began
        where = " ".join([NAME, *arguments[:1]])
        code = Console(where, as_json).fail(error, ExitCode.UNUSABLE)
    except click.Abort:
        code = Console(NAME, as_json).fail(STOPPED, ExitCode.STOPPED)
    return int(code)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _own_process() -> None:
    """Make SIGTERM end the work as Ctrl-C does, and libraries quiet.

    A command may do this to its process, a library may not. Warnings of decoders say nothing that
    a row with a reason does not say, and lines of JSON have to stay apart from them.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, _stop)
    environment = {
        "PYTHONWARNINGS": "ignore",  # of the processes that it starts
        "GLOG_minloglevel": "3",  # of COLMAP: what matters also comes as an exception
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # it warns of actors that carry their weights
        "RAY_idle_worker_killing_time_threshold_ms": "30000",  # the next shard may take as long
        "RAY_worker_niceness": "0",  # on top of this process's; Ray's own default is 15
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    # Processes of Ray find this package as this process did, from whatever folder it was started.
    paths = (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
