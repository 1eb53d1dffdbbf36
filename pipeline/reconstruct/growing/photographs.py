"""Which photographs of a folder are new to finished runs, and which are gone or have changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.events import Listener
from pipeline.photos.identity.files import identities, recorded
from pipeline.photos.source import list_images
from pipeline.reconstruct.merging.masked import images_of_run
from pipeline.store.folder import Folder


@dataclass(frozen=True)
class ComparedPhotographs:
    """The photographs of a folder beside those of runs. All names are sorted.

    names: of the folder now. new: those that no run has. removed: those of the runs that the folder
    does not have. changed: those whose file is another one now than every run saw.
    stale: of each run, its images that are gone or were another file, whose matches do not count.
    unnoted: the runs that did not note their files, in which no change can be seen.
    """

    names: list[str]
    new: list[str]
    removed: list[str]
    changed: list[str]
    stale: list[frozenset[str]]
    unnoted: list[str]

    @property
    def fresh(self) -> list[str]:
        """The photographs that are matched as if no run had them."""
        return sorted([*self.new, *self.changed])


def compared_with_runs(
    runs: Sequence[Folder], folder: Folder, listen: Listener
) -> ComparedPhotographs:
    """Compare a folder of photographs with what runs had.

    Raises StorageError where the folder cannot be read.
    """
    names = list_images(folder)
    there = {*names}
    notes = [recorded(run) for run in runs]
    noted = {name for note in notes for name in note or ()}
    now = identities(folder, sorted(noted & there), listen)
    stale, current, seen = list[frozenset[str]](), set[str](), set[str]()
    for run, note in zip(runs, notes, strict=True):
        mine = images_of_run(run)
        gone = mine - there
        other = {name for name in mine & there if note and name in note and note[name] != now[name]}
        stale.append(frozenset(gone | other))
        current |= mine - stale[-1]
        seen |= mine
    return ComparedPhotographs(
        names,
        new=sorted(there - seen),
        removed=sorted(seen - there),
        changed=sorted(seen & there - current),
        stale=stale,
        unnoted=[run.shown for run, note in zip(runs, notes, strict=True) if note is None],
    )
