"""The work that an executor does for one reference view: measure its points in all other views.

    ReferenceTask → MeasureReference → Measurements

A task depends on the model and the photographs alone, so it gives the same bytes wherever it runs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import ImageError
from pipeline.masks.folder import Masks
from pipeline.masks.stored import StoredMasks
from pipeline.match.match import limit_threads
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.photos.source import Folders
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.photographs import PhotographCache, scale
from pipeline.reconstruct.tracks.plan import ReferenceTask, track_rows
from pipeline.reconstruct.tracks.predict import BESIDE, Surfaces, predict
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.folder import Folder
from pipeline.tables import TRACKS

UNREAD = b"failures"  # in the metadata of TRACKS
MOST_ATTEMPTS = 3  # processes that may die at a reference before it keeps the tracks that it had


class Measurements(NamedTuple):
    """What a reference view led to.

    tracks: TRACKS rows, the observations of the reference included. The metadata of their schema
    hold, under UNREAD, a line for every photograph that could not be read.
    """

    name: str
    tracks: pa.Table

    @classmethod
    def of(cls, task: ReferenceTask, parts: list[pa.Table], failures: list[str]) -> Measurements:
        """The rows of all parts, with the failures."""
        tracks = pa.concat_tables([TRACKS.empty_table(), *parts]).combine_chunks()
        metadata = {**TRACKS.metadata, UNREAD: "\n".join(failures).encode()}
        return cls(task.name, tracks.replace_schema_metadata(metadata))


class MeasureReference:
    """Measure the points of a reference view in every view that may show them.

    folder: of the photographs. long_side: pixels at which they are measured. masks: of the
    photographs; nothing is observed in a masked place.
    """

    def __init__(
        self,
        views: ModelViews,
        folder: Folder | Folders | FaceFolder,
        options: RefineOptions,
        long_side: int,
        device: str = "cpu",
        masks: Masks | None = None,
    ) -> None:
        self.views, self.options, self.long_side, self.device = views, options, long_side, device
        self.photographs = PhotographCache(folder, long_side)
        self.masks = None if masks is None else StoredMasks(masks, folder)

    def __call__(self, task: ReferenceTask, attempt: int = 1) -> Measurements:
        """Measure one reference; after MOST_ATTEMPTS processes died at it, nothing is measured."""
        from pipeline.reconstruct.tracks.windows import Reference  # loads torch

        if attempt > MOST_ATTEMPTS:
            cause = f"{MOST_ATTEMPTS} processes died that measured its points"
            return Measurements.of(task, [], [f"{self._name(task)}: {cause}"])
        try:
            image = self._read(task.view)
        except ImageError as error:
            return Measurements.of(task, [], [f"{self._name(task)}: {error}"])
        options, own = self.options, self._scale(task.view)
        step = float(BESIDE / own.mean())
        surfaces = Surfaces.of(self.views, task.view, task.xy, task.xyz, task.normal, step)
        reference = Reference(image, task.xy * own, options.radius, self.device)
        parts, failures = [track_rows(task.points, task.view, task.xy)], []
        margin = 2.0 * options.radius
        for number, view in enumerate(task.others.tolist()):
            size = self._scale(view)
            rows, places, maps = predict(self.views, surfaces, view, size, margin)
            if task.wanted is not None:
                wanted = task.wanted[number][rows]
                rows, places, maps = rows[wanted], places[wanted], maps[wanted]
            if not len(rows):
                continue
            try:
                other = self._read(view)
            except ImageError as error:
                failures.append(f"{self.views.names[view]}: {error}")
                continue
            found = reference.find(other, rows, places, maps, options.steps)
            members = np.isin(rows, task.member_point[task.member_view == view])
            least = np.where(members, options.member_correlation, options.new_correlation)
            most = np.where(members, options.member_shift, options.new_shift)
            good = (found.correlation > least) & (found.moved < most)
            try:
                good &= self._kept(view, found.xy / size)
            except ImageError as error:
                failures.append(f"{self.views.names[view]}: {error}")
                continue
            xy = found.xy[good] / size
            parts.append(
                track_rows(
                    task.points[rows[good]], view, xy, found.correlation[good], ~members[good]
                )
            )
        return Measurements.of(task, parts, failures)

    def _name(self, task: ReferenceTask) -> str:
        return self.views.names[task.view]

    def _scale(self, view: int) -> np.ndarray:
        return scale(self.views.camera_of(view), self.long_side)

    def _kept(self, view: int, xy: np.ndarray) -> np.ndarray:
        """(m,) bool: whether places (m, 2), as TRACKS holds them, lie in no masked place."""
        if self.masks is None:
            return np.ones(len(xy), bool)
        camera = self.views.camera_of(view)
        size = camera.width, camera.height
        return self.masks.keeps(self.views.names[view], size, xy.astype(np.float32))

    def _read(self, view: int) -> np.ndarray:
        return self.photographs.read(self.views.names[view], self.views.camera_of(view))


def make_measurer(
    views: ModelViews,
    folder: Folder | Folders | FaceFolder,
    options: RefineOptions,
    long_side: int,
    masks: Masks | None = None,
) -> MeasureReference:
    """A MeasureReference for an executor's process that does nothing else.

    The process computes on one thread, or on its GPU.
    """
    import torch

    limit_threads()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return MeasureReference(views, folder, options, long_side, device, masks)
