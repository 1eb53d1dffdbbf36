"""Carry out what looks at models or mends them: in COLMAP's process, with files anywhere.

A given model is only read. What is written appears whole; see `replace_model`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.events import Listener, nobody
from pipeline.execute.worker import Died, call
from pipeline.reconstruct.models.files import (
    MadeModel,
    ModelFiles,
    Place,
    check_output,
    files_of_model,
    replace_model,
    write_made,
)
from pipeline.reconstruct.models.refining import ModelCounts
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store.folder import Folder
from pipeline.store.results import opened_results

T = TypeVar("T")

# From models and where they lie to a new one. It is pickled.
ModelChange = Callable[[list[Any], list[ModelFiles]], MadeModel]


@dataclass(frozen=True)
class WrittenModel:
    """What became of models.

    output: a local folder, or a URL without credentials. before: counts of the given models, in
    their order. after: of the written one. notes: sentences on what was done. world: what its
    `world.json` says, if it has one.
    """

    output: Path | str
    before: list[ModelCounts]
    after: ModelCounts
    notes: list[str]
    world: dict[str, Any] | None = None

    def text(self) -> str:
        """Format the report, a few lines for a person."""
        lines = [f"before:   {counts.text()}" for counts in self.before]
        lines += [f"note:     {note}" for note in self.notes]
        return "\n".join([*lines, f"after:    {self.after.text()}", f"results:  {self.output}\n"])


def ask_of_models(
    function: Callable[..., T], models: Sequence[Place], scratch: str | Path | None = None
) -> T:
    """What a function of `ModelFiles` returns or raises, in a process of its own.

    function: is given one argument for every model. scratch: see `files_of_model`.

    Raises ReconstructionError for a folder without a model, and where COLMAP's process ends.
    """
    _check_scratch(models, scratch)
    with _opened(models, scratch) as files:
        return _asked(files, function, *files)


def write_model(
    models: Sequence[Place],
    output: Place,
    change: ModelChange,
    *,
    beside: Sequence[Place] = (),
    scratch: str | Path | None = None,
    listen: Listener = nobody,
) -> WrittenModel:
    """Make a model of others. What the output holds of another model is replaced as a whole.

    change: is given the models, and the files of these and of those `beside`, which it may read.
    scratch: see `files_of_model` and `opened_results`.

    Raises ReconstructionError for a folder without a model, for an output that is a model or lies
    in one, for what `change` refuses, and where COLMAP's process ends. Raises StorageError for an
    output that cannot be written to.
    """
    _check_scratch([*models, *beside, output], scratch)
    check_output(output, [*models, *beside])
    with _opened([*models, *beside], scratch) as files:
        remote = scratch if _remote(output) else None
        with opened_results(output, remote) as results:
            work = results.work.absolute()
            before, after, notes, world = _asked(files, _changed, files, len(models), change, work)
            replace_model(results, listen)
            told = None if world is None else json.loads(world)
            return WrittenModel(results.shown, before, after, notes, told)


def _changed(
    files: list[ModelFiles], count: int, change: ModelChange, work: Path
) -> tuple[list[ModelCounts], ModelCounts, list[str], bytes | None]:
    """Read the first so many models, change them, and write what is made into the folder."""
    models = [one.read() for one in files[:count]]
    before = [ModelCounts.of(SparseModel.of(model)) for model in models]
    made = change(models, files)
    write_made(made, work)
    return before, ModelCounts.of(SparseModel.of(made.model)), made.notes, made.world


def _asked(files: Sequence[ModelFiles], function: Callable[..., T], *arguments: Any) -> T:
    try:
        answer: T = call(function, *arguments)
    except Died as death:
        raise ReconstructionError(
            f"{', '.join(one.shown for one in files)}: the process of COLMAP was {death}; free "
            "memory, or check the files of the model."
        ) from death
    return answer


@contextmanager
def _opened(models: Sequence[Place], scratch: str | Path | None) -> Iterator[list[ModelFiles]]:
    with ExitStack() as stack:
        yield [stack.enter_context(files_of_model(model, scratch)) for model in models]


def _remote(one: Place) -> bool:
    return isinstance(one, Folder) and not one.local


def _check_scratch(places: Sequence[Place], scratch: str | Path | None) -> None:
    if scratch is not None and not any(map(_remote, places)):
        raise ArgumentError(
            f"{scratch}: is no use as scratch, because all models are in local folders; leave it "
            "out."
        )
