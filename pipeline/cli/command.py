"""Commands whose expected errors are one sentence, and groups that load what is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import click

from pipeline.cli.console import Console, ExitCode
from pipeline.errors import EloftrError, LeaseError
from pipeline.extras import missing

STOPPED = "stopped; run the same command again to go on."
OWN = ("eloftr", "pipeline")  # packages; every other one that is missing is an extra's


class Command(click.Command):
    """A command with `--json`.

    Its function is given a `Console` by `click.pass_obj` and returns the exit code.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        what = (
            "JSON for machines: a line an event on standard error, the summary on standard output."
        )
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help=what))

    def invoke(self, ctx: click.Context) -> ExitCode:
        """Call the function. Exceptions that are not expected are bugs, and keep their traces.

        What libraries print, as Ray does where a cluster has no CPU yet, goes to standard error.
        """
        console = ctx.obj = Console(ctx.command_path, ctx.params.pop("as_json"))
        try:
            with redirect_stdout(sys.stderr):
                return ExitCode(super().invoke(ctx))
        except LeaseError as error:
            return console.fail(error, ExitCode.OCCUPIED)
        except EloftrError as error:
            return console.fail(error, ExitCode.UNUSABLE)
        except KeyboardInterrupt:
            return console.fail(STOPPED, ExitCode.STOPPED)
        finally:
            console.close()


class LazyGroup(click.Group):
    """A group that knows a line of help for every command, and loads the one that is called.

    lines: a line of help for every command. load: from its name to the command.
    """

    def __init__(
        self,
        *arguments: Any,
        lines: Mapping[str, str],
        load: Callable[[str], click.Command],
        **settings: Any,
    ) -> None:
        placeholders = {name: click.Command(name, short_help=line) for name, line in lines.items()}
        super().__init__(*arguments, **{**settings, "commands": placeholders})
        self.load = load

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were given."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, loaded."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, placeholder and self.load(placeholder.name or ""), rest


def load_command(module: str) -> click.Command:
    """The `command` of a module. Raises MissingExtraError where a package is not installed."""
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OWN:
            raise
        raise missing(package, error) from error
    command: click.Command = loaded.command
    return command
