"""What poses are given, and whether they are kept or only begun with."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.errors import ArgumentError, PairListError
from pipeline.events import counted
from pipeline.names.resolve import Resolver
from pipeline.pairs.poses.known import KnownPoses
from pipeline.pairs.poses.read import read_poses
from pipeline.photos.cameras.intrinsics import Intrinsics
from pipeline.reconstruct.depth import listed

USES = ("fixed", "priors")


@dataclass(frozen=True)
class PoseOptions:
    """What poses are, and how they are used.

    file: as of `read_poses`. use: one of USES. error: metres, 1 sigma of a coordinate, None where
    the file tells it or poses are fixed.

    Raises ArgumentError for another use, and an error that is not above zero.
    """

    file: str
    use: str = "fixed"
    error: float | None = None

    def __post_init__(self) -> None:
        if self.use not in USES:
            raise ArgumentError(f"--poses-are {self.use!r}: give {' or '.join(USES)}.")
        if self.error is not None and not (self.error > 0 and math.isfinite(self.error)):
            raise ArgumentError(
                f"--position-error {self.error:g}: give the metres by which positions err, above 0."
            )

    @classmethod
    def of(
        cls,
        file: str | os.PathLike[str] | None,
        use: str,
        positions: str | os.PathLike[str] | None,
        error: float | None,
    ) -> PoseOptions | None:
        """The options, or None without a file. Raises ArgumentError for what contradicts."""
        if file is None:
            return None
        if positions is not None:
            raise ArgumentError(
                f"--positions {os.fspath(positions)}: --poses has positions as well; give one."
            )
        if use == "fixed" and error is not None:
            raise ArgumentError(
                f"--position-error {error:g}: fixed poses do not err; give --poses-are priors."
            )
        return cls(os.fspath(file), use, error)

    @property
    def fixed(self) -> bool:
        """Whether poses stay exactly as they are."""
        return self.use == "fixed"

    def read(self, images: Sequence[str], storage: dict[str, Any] | None) -> KnownPoses:
        """The poses of images of the run, with notes about others.

        Raises PairListError as `read_poses`, and where the file has poses of none of the images, or
        where poses are fixed and it has fewer than two with a rotation.
        """
        found = read_poses(self.file, storage, Resolver(images))
        inside = {*images}
        rows = np.flatnonzero([name in inside for name in found.names])
        others = [name for name in found.names if name not in inside]
        if not len(rows):
            raise PairListError(
                f"{found.file}: has poses of no image of the run, but of {others[0]}; give the "
                f"names of the run, as {min(inside, default='none')}."
            )
        notes = [*found.notes]
        if others:
            poses = counted(len(others), "pose")
            notes.append(
                f"{poses} of {found.file} left out, of no image of the run: {listed(others)}"
            )
        chosen = replace(
            found,
            names=[found.names[row] for row in rows],
            centres=found.centres[rows],
            poses=None if found.poses is None else found.poses.of(rows),
            others={text: poses.of(rows) for text, poses in found.others.items()},
            error=None if found.error is None else found.error[rows],
            intrinsics=_of_images(found.intrinsics, inside),
            notes=notes,
        )
        if self.fixed:
            _check_fixed(chosen)
        return chosen


def _of_images(intrinsics: Sequence[Intrinsics], images: set[str]) -> tuple[Intrinsics, ...]:
    """The cameras of images of the run."""
    named = [
        replace(entry, images=tuple(name for name in entry.images if name in images))
        for entry in intrinsics
    ]
    return tuple(entry for entry in named if entry.images)


def _check_fixed(known: KnownPoses) -> None:
    if known.poses is None:
        raise PairListError(
            f"{known.file}: has positions and no rotations, and fixed poses need both; give "
            "--poses-are priors, or rotations."
        )
    count = int(known.poses.known().sum())
    if count < 2:
        raise PairListError(
            f"{known.file}: has poses of {counted(count, 'image')} of the run, and a point needs "
            "two; give more, or --poses-are priors."
        )
