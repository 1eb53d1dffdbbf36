"""What growing a model came to, as numbers and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.events import counted
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.growing.photographs import ComparedPhotographs
from pipeline.reconstruct.summary import ReconstructionSummary

SHOWN = 10  # names of a note


@dataclass(frozen=True)
class GrowthSummary:
    """What growing came to.

    photographs: in the folder now. new, removed, changed: names, see `ComparedPhotographs`. pairs:
    that no run had matched, and so are. run: the run folder of these, None where there are none.
    reconstruction: of all runs; None of a dry run.
    """

    photographs: int
    new: list[str]
    removed: list[str]
    changed: list[str]
    pairs: int
    run: str | None
    reconstruction: ReconstructionSummary | None = None

    @property
    def registered(self) -> list[str]:
        """The new and changed photographs that are in the largest model."""
        models = self.reconstruction.models if self.reconstruction else []
        names = {*models[0].names} if models else set()
        return [name for name in sorted([*self.new, *self.changed]) if name in names]

    def text(self) -> str:
        """Format the report, a few lines for a person."""
        lines = [
            f"folder:   {counted(self.photographs, 'photograph')}, {len(self.new)} new, "
            f"{len(self.removed)} removed, {len(self.changed)} changed",
            f"to match: {counted(self.pairs, 'pair')} that no run has",
        ]
        if self.reconstruction is None:
            return "\n".join(lines) + "\n"
        fresh = len(self.new) + len(self.changed)
        if fresh:
            lines.append(f"grown:    {len(self.registered)} of {fresh} are in the model")
        return "\n".join(lines) + "\n" + self.reconstruction.text()


def photograph_notes(found: ComparedPhotographs, reasons: Sequence[str]) -> list[str]:
    """Notes for the report. reasons: of new photographs that cannot be used, a line each."""
    notes = []
    if found.removed:
        shown = listed(found.removed, SHOWN)
        notes.append(
            f"{counted(len(found.removed), 'photograph')} gone from the folder, and so left out of "
            f"pairs and model: {shown}."
        )
    if found.changed:
        shown = listed(found.changed, SHOWN)
        notes.append(
            f"{counted(len(found.changed), 'photograph')} changed, and so matched and registered "
            f"as new ones: {shown}."
        )
    notes += [f"not in the model: {reason}." for reason in reasons]
    notes += [
        f"{run} did not note what the files of its photographs were, so that changes of them are "
        "not seen."
        for run in found.unnoted
    ]
    return notes
