"""Write the report of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ArgumentError
from pipeline.extras import need_extra

if TYPE_CHECKING:
    from pipeline.report.page.page import ReportSummary
    from pipeline.store.folder import Folder

REPORT_FORMATS = ("html", "json")


def report(
    run: str | Path,
    other: str | Path | None = None,
    output: str | Path | None = None,
    *,
    format: str = "html",
    images: str | Path | None = None,
    models: str | Path | None = None,
    storage: dict[str, Any] | None = None,
) -> ReportSummary:
    """Write what a run came to as one page that opens without a server, or as JSON.

    The run may still go on, may have been stopped, and may have failed in part.

    run: the output of `match` or `rerank`, a local path or fsspec URL; of `reconstruct`, that of
        the run. The output of `grow` or `localize` stands for the run in it.
    other: the output of another `match`, which is compared with the first, pair by pair.
    output: the file, a local path or fsspec URL. None takes `report.html` in the run folder, and
        `comparison.html` where there are two; `.json` for JSON.
    format: `html`, or `json` for the tables of the page alone.
    images: the folder of the photographs. None takes that of the run. Where they are gone, the page
        says so and shows the rest.
    models: the output of `reconstruct`. None takes `sfm` in the run folder, or that of `grow`.
    storage: options of the fsspec filesystems.

    Returns the summary. Raises ArgumentError for another format, for one run twice, for an output
    that is a folder and for models that are none, RunError for a folder that holds no run,
    StorageError for a file that cannot be read or written.
    """
    need_extra()
    from pipeline.report.page.models import reconstructed
    from pipeline.report.page.page import write_report
    from pipeline.store.folder import Folder, place

    if format not in REPORT_FORMATS:
        raise ArgumentError(f"format {format!r}: give one of {', '.join(REPORT_FORMATS)}.")
    folders = [Folder(os.fspath(one), storage or {}) for one in (run, other) if one is not None]
    if len({*map(place, folders)}) < len(folders):
        raise ArgumentError(f"{folders[0].shown}: is given twice; give two runs to compare.")
    runs = [run_of(folder) for folder in folders]
    target, name = folders[0], f"{'report' if other is None else 'comparison'}.{format}"
    if output is not None:
        target, name = Folder.of_file(output, storage)
        if target.local and os.path.isdir(target.path(name)):
            cure = f"give the name of a file, as {name}.{format}"
            raise ArgumentError(f"{output}: is a folder; {cure}.")
    there = {"photographs": images, "results": models}
    given = {name: Folder(os.fspath(one), storage or {}) for name, one in there.items() if one}
    if models and not reconstructed(given["results"]):
        raise ArgumentError(
            f"{given['results'].shown}: holds no models; give the output of eloftr reconstruct."
        )
    if runs[0] != folders[0] and reconstructed(folders[0]):
        given.setdefault("results", folders[0])
    return write_report(
        runs[0],
        target,
        name,
        other=runs[1] if other is not None else None,
        as_json=format == "json",
        **given,
    )


def run_of(folder: Folder) -> Folder:
    """The folder, or the run in it where it is the output of `grow` or `localize`."""
    from pipeline.match.run import RUN_FILE

    if not folder.exists(RUN_FILE) and folder.exists(f"run/{RUN_FILE}"):
        return replace(folder, url=folder.url_of("run"))
    return folder
