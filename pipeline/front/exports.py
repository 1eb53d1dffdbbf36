"""Export models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Listener, nobody
from pipeline.extras import need_extra

if TYPE_CHECKING:
    from pipeline.reconstruct.exports.job import ExportSummary


def export_model(
    model: str | Path,
    output: str | Path,
    *,
    format: str,
    images: str | Path | None = None,
    run: str | Path | None = None,
    scratch: str | Path | None = None,
    storage: dict[str, Any] | None = None,
    progress: Listener = nobody,
) -> ExportSummary:
    """Write a COLMAP model in the format of another program.

    model: the local folder of one model, which stays as it is.
    output: a local path or fsspec URL, empty or with an older export of the same format. It is
        whole when `export.json` is there.
    format: `colmap-text`, `colmap-binary`, `ply`, `nvm`, `dense`, `nerf`, `openmvg`, `hloc` or
        `kapture`.
    images: the photographs, a local path or fsspec URL. `dense` undistorts them, `nerf` and
        `kapture` copy them, and `openmvg` names their folder. Images without one are left out.
    run: for `hloc`, the run folder that the model was made of, a local path or fsspec URL.
    scratch: as of `reconstruct`.
    storage: options of the fsspec filesystems of photographs, run and output.
    progress: called with an `Event` now and then.

    Returns the summary, which says what was left out. Raises ArgumentError, ReconstructionError,
    RunError or StorageError for what cannot be used, before anything is written.
    """
    need_extra()
    from pipeline.reconstruct.exports.job import export_colmap_model
    from pipeline.store.folder import Folder
    from pipeline.store.results import place_of

    return export_colmap_model(
        Path(model),
        place_of(output, storage),
        format,
        images=Folder(os.fspath(images), storage or {}) if images else None,
        run=Folder(os.fspath(run), storage or {}) if run else None,
        scratch=scratch,
        listen=progress,
    )
