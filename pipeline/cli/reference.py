"""The reference of the commands, docs/commands.md, made from the commands themselves.

python -m pipeline.cli.reference > docs/commands.md
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from pipeline.cli.app import NAME, app
from pipeline.cli.command import LazyGroup
from pipeline.cli.console import EXIT_MEANINGS

WIDTH = 100
HEAD = """# Commands

This page is made from the code by `python -m pipeline.cli.reference`. `eloftr COMMAND --help`
shows the same.

## Exit codes

| code | meaning |
|---|---|
{codes}

An expected error is one sentence on standard error, `eloftr match: …`. Wrong options are found
before any work. Every other error is a bug: it ends with Python's traceback and exit code 1.

## For machines

Every command has `--json`. Standard error then holds a line for every event, a JSON object with
`time` (UTC), `event` and fields of its own. An error is the event `error` with `message` and
`exit_code`. Standard output holds one JSON object, the summary.

## Shell completion

Put the line of your shell into its start file:

| shell | file | line |
|---|---|---|
| bash | `~/.bashrc` | `eval "$(_ELOFTR_COMPLETE=bash_source eloftr)"` |
| zsh | `~/.zshrc` | `eval "$(_ELOFTR_COMPLETE=zsh_source eloftr)"` |
| fish | `~/.config/fish/config.fish` | `_ELOFTR_COMPLETE=fish_source eloftr \\| source` |
"""


def reference() -> str:
    """The page, Markdown."""
    codes = "\n".join(f"| {code.value} | {meaning} |" for code, meaning in EXIT_MEANINGS.items())
    with click.Context(app, info_name=NAME, terminal_width=WIDTH, show_default=True) as top:
        sections = [f"\n## {path}\n\n```text\n{text}\n```\n" for path, text in _helps(top)]
    return HEAD.format(codes=codes) + "".join(sections)


def _helps(context: click.Context) -> Iterator[tuple[str, str]]:
    """Every command below a context, itself included: how it is called, and its help."""
    command = context.command
    yield context.command_path, command.get_help(context)
    if isinstance(command, LazyGroup):
        for name in command.list_commands(context):
            with click.Context(command.load(name), context, name) as inner:
                yield from _helps(inner)


if __name__ == "__main__":
    print(reference(), end="")
