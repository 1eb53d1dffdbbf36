"""`eloftr train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from eloftr import EfficientLoFTRConfig
from eloftr.training.options import SMALL, TrainingOptions
from eloftr.training.recipe import entry_text, train
from pipeline.cli.command import Command
from pipeline.cli.console import Console, ExitCode
from pipeline.events import Event

HELP = {
    "steps": "Optimiser steps in all.",
    "minutes": "Minutes of training in all, in place of steps.  [default: no limit]",
    "batch": "Pairs a step.",
    "size": "Side of the views, pixels.",
    "learning_rate": "The highest one.",
    "warmup": "Steps over which the learning rate rises.",
    "decay": "Last steps, over which the learning rate falls to zero.",
    "weight_decay": "Of AdamW.",
    "clip": "Largest norm of a gradient.",
    "seed": "Of weights and views.",
    "autocast": "bfloat16 where the hardware has it.  [default: float32]",
    "evaluate_every": "Steps between two evaluations on held-out photographs.",
    "workers": "Processes that draw views.",
    "threads": "Of PyTorch.  [default: its own choice]",
    "device": "cpu, or cuda.",
    "start": "Weights of the same configuration that a new run starts from.  [default: random]",
    "easy": "Share of the pairs, 0 to 1, that are easier than all others.",
    "only": "coarse or fine: train this part alone.  [default: all parts]",
}


def training_options(function: Any) -> Any:
    """Add an option for every field of TrainingOptions, with its type and default."""
    types = get_type_hints(TrainingOptions)
    for field in reversed(fields(TrainingOptions)):
        kind, *_ = get_args(types[field.name]) or (types[field.name],)
        name, what = f"--{field.name.replace('_', '-')}", HELP[field.name]
        function = click.option(name, type=kind, default=field.default, help=what)(function)
    return function


@click.command("train", cls=Command)
@click.option(
    "--photographs",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of photographs, read with its subfolders.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Run folder; a run in it goes on.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="config.json of another size of model.  [default: the bundled one's]",
)
@training_options
@click.pass_obj
def command(
    console: Console, /, photographs: Path, output: Path, config: Path | None, **given: Any
) -> ExitCode:
    """Train a small matcher on synthetic views of photographs.

    This is the recipe of the bundled weights. Run it again to go on where it stopped.
    """
    size = EfficientLoFTRConfig.from_pretrained(config) if config else SMALL
    options = TrainingOptions(**given)

    step = 0

    def report(entry: Mapping[str, float]) -> None:
        nonlocal step
        step = int(entry["step"])
        console(Event("training", entry_text(entry), {**entry}))

    train(photographs, output, size, options, report)
    console.finish("", {"output": output, "steps": step})
    return ExitCode.DONE
