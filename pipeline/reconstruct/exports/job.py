"""Export a COLMAP model: a model in, files of another program out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.errors import (
    ArgumentError,
    FolderAbsentError,
    ReconstructionError,
    RunError,
    StorageError,
)
from pipeline.events import Listener, nobody
from pipeline.execute.worker import Died, Worker
from pipeline.reconstruct.exports.dense import write_dense
from pipeline.reconstruct.exports.forms import EXPORT_FORMS, check_writable_names
from pipeline.reconstruct.exports.hloc import RUN_DATABASE, RUN_KEYPOINTS, import_h5py, write_hloc
from pipeline.reconstruct.exports.kapture import write_kapture
from pipeline.reconstruct.exports.nerf import write_nerf
from pipeline.reconstruct.exports.nvm import write_nvm
from pipeline.reconstruct.exports.openmvg import write_openmvg
from pipeline.reconstruct.exports.photographs import gathered, unusable, without
from pipeline.reconstruct.models.files import ModelFiles, check_output
from pipeline.reconstruct.tracks.scene import SparseModel
from pipeline.store import disk
from pipeline.store.folder import Folder
from pipeline.store.lease import LOCK
from pipeline.store.results import Results, opened_results

MARKER = "export.json"  # the summary, which is written last
UNFINISHED = ".export"  # where files are written before they get their places
COPIES = {"nerf": "images", "kapture": "sensors/records_data"}  # where photographs are copied to
SHOWN = 5  # names in the text of a summary


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    output: a local folder, or a URL without credentials. images, points, observations: written.
    left_out: why, by the names of images. counts: of the format alone. notes: sentences.
    """

    output: Path | str
    format: str
    images: int
    points: int
    observations: int
    left_out: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for a person."""
        counted = {"images": self.images, "points": self.points}
        counted |= {"observations": self.observations, **self.counts}
        what = ", ".join(f"{number:,} {name}" for name, number in counted.items())
        lines = [f"{self.format + ':':<9} {what}"]
        if self.left_out:
            shown = [f"{name}: {why}" for name, why in list(self.left_out.items())[:SHOWN]]
            more = "; …" if len(self.left_out) > SHOWN else ""
            lines.append(f"left out: {len(self.left_out)} of the images; {'; '.join(shown)}{more}")
        lines += [f"note:     {note}" for note in self.notes]
        return "\n".join([*lines, f"results:  {self.output}", ""])


@dataclass(frozen=True)
class _Task:
    """What COLMAP's process is given: paths are of this machine."""

    model: Path
    form: str
    folder: Path
    shown: str
    photographs: Path | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    root: str = ""
    run: Folder | None = None
    database: Path | None = None


def export_colmap_model(
    model: Path,
    output: Folder | Path,
    form: str,
    *,
    images: Folder | None = None,
    run: Folder | None = None,
    scratch: str | Path | None = None,
    listen: Listener = nobody,
) -> ExportSummary:
    """Export the COLMAP model of a folder, which stays as it is.

    output: a local folder or one at a URL, empty or with an older export of the same format. What
        is there is whole when `export.json` is there.
    form: one of EXPORT_FORMS. images: the photographs. run: a run folder with its `sfm/`, for hloc.
    scratch: see `opened_results`.

    Raises ArgumentError, ReconstructionError, StorageError or RunError for what cannot be used.
    """
    _check_options(form, images, run)
    _check_inputs(model, output, images, run)
    with opened_results(output, scratch) as results:
        _check_place(results, form)
        beside = results.work / UNFINISHED
        shutil.rmtree(beside, ignore_errors=True)
        try:
            with Worker() as worker:
                summary = _made(worker, results, model, form, images, run)
        except Died as death:
            raise ReconstructionError(
                f"{results.shown}: the process of COLMAP was {death}; free memory, or give a "
                "smaller model."
            ) from death
        else:
            _put_in_place(results, beside / "made", summary)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        results.deliver([*EXPORT_FORMS[form].files, MARKER], listen)
        return summary


def _check_options(form: str, images: Folder | None, run: Folder | None) -> None:
    if form not in EXPORT_FORMS:
        raise ArgumentError(f"format {form!r}: unknown; give one of {', '.join(EXPORT_FORMS)}.")
    wanted = EXPORT_FORMS[form]
    if images is None and wanted.images == "needed":
        raise ArgumentError(f"format {form}: needs the photographs; give --images.")
    if images is not None and wanted.images == "unused":
        raise ArgumentError(f"format {form}: uses no photographs; leave --images out.")
    if wanted.run != (run is not None):
        cure = "needs a run folder; give --run" if wanted.run else "uses no run; leave --run out"
        raise ArgumentError(f"format {form}: {cure}.")
    if wanted.run:
        import_h5py()


def _check_inputs(
    model: Path, output: Folder | Path, images: Folder | None, run: Folder | None
) -> None:
    if not any((model / name).is_file() for name in ("images.bin", "images.txt")):
        raise ReconstructionError(
            f"{model}: holds no images.bin or images.txt; give the folder of one COLMAP model."
        )
    local = output if isinstance(output, Path) else Path(output.path()) if output.local else None
    if local is not None and model.resolve() in (local.resolve(), *local.resolve().parents):
        raise ReconstructionError(f"{local}: lies in the model itself; give another --output.")
    if images is not None:
        images.list(recursive=False)  # raises where there is no such folder
        check_output(output, [], [images])
    for name in (RUN_DATABASE, RUN_KEYPOINTS):
        if run is not None and not run.exists(name):
            raise RunError(f"{run.shown}: has no {name}; run eloftr reconstruct on it first.")


def _check_place(results: Results, form: str) -> None:
    """Raise StorageError where the folder holds something else."""
    try:
        tops = {name.partition("/")[0] for name in results.folder.list()} - {LOCK}
    except FolderAbsentError:
        return
    others = sorted(tops - {*EXPORT_FORMS[form].files, MARKER})
    if MARKER in tops:
        other = results.folder.read_json(MARKER).get("format")
        others += [MARKER] if other != form else []
    if others:
        raise StorageError(
            f"{results.shown}: holds {others[0]}, which is no export as {form}; give an empty "
            "folder as --output."
        )


def _made(
    worker: Worker,
    results: Results,
    model: Path,
    form: str,
    images: Folder | None,
    run: Folder | None,
) -> ExportSummary:
    """Write all files beside their places."""
    beside = results.work / UNFINISHED
    made = beside / "made"
    made.mkdir(parents=True)
    names = worker.ask(_names, model, form)
    task = _Task(model, form, made, str(results.shown))
    if run is not None:
        database = beside / "database.db"  # COLMAP writes to a database that it opens
        if run.local:
            shutil.copyfile(run.path(RUN_DATABASE), database)
        else:
            run.copy_file(RUN_DATABASE, database)
        task = replace(task, run=run, database=database)
    if images is not None:
        root = Path(images.path()).resolve() if images.local else None
        task = replace(task, root=images.shown if root is None else str(root), photographs=root)
    if images is not None and form in COPIES:
        copies = made / COPIES[form]
        task = replace(task, left_out=gathered(images, names, copies), photographs=copies)
    elif images is not None and not images.local:
        gathered(images, names, beside / "photographs")  # who lacks is found with those of no use
        task = replace(task, photographs=beside / "photographs")
    summary: ExportSummary = worker.ask(_written, task)
    return replace(summary, output=results.shown)


def _names(model: Path, form: str) -> list[str]:
    """Names of the registered images. Raises ReconstructionError for what cannot be exported."""
    opened = _opened(model)
    names = sorted(opened.images[number].name for number in opened.reg_image_ids())
    check_writable_names(names, form)
    return names


def _opened(model: Path) -> Any:
    opened = ModelFiles(model, str(model)).read()
    if not opened.num_reg_images():
        raise ReconstructionError(f"{model}: has no registered image; give another model.")
    return opened


def _written(task: _Task) -> ExportSummary:
    """Write the files of a format. It runs in the process of COLMAP."""
    opened = _opened(task.model)
    whole = SparseModel.of(opened)
    left_out = _left_out(task, whole)
    scene = without(whole, left_out)
    notes: list[str] = []
    counts: dict[str, int] = {}
    if task.form == "colmap-text":
        opened.write_text(task.folder)
    elif task.form == "colmap-binary":
        opened.write_binary(task.folder)
    elif task.form == "ply":
        opened.export_PLY(task.folder / "points.ply")
    elif task.form == "nvm":
        notes = write_nvm(scene, task.folder)
    elif task.form == "dense":
        assert task.photographs is not None
        write_dense(scene, task.photographs, task.folder)
    elif task.form == "nerf":
        write_nerf(scene, task.folder)
    elif task.form == "openmvg":
        write_openmvg(scene, task.root, task.folder)
    elif task.form == "kapture":
        write_kapture(scene, task.folder)
    else:
        assert task.run is not None
        assert task.database is not None
        left_out, counts = write_hloc(scene.views.names, task.run, task.database, task.folder)
        if len(left_out) == len(scene.views):
            raise ReconstructionError(
                f"{task.run.shown}: has no image of the model, as {scene.views.names[0]}; check "
                "--run."
            )
        scene = without(scene, left_out)
    disk.check_room(task.folder)
    sizes = len(scene.views), len(scene.xyz), len(scene.point)
    return ExportSummary(task.shown, task.form, *sizes, left_out, counts, notes)


def _left_out(task: _Task, scene: SparseModel) -> dict[str, str]:
    """By the names of images, why they are left out: their photographs are of no use.

    Raises ReconstructionError where that is true of all.
    """
    left_out = task.left_out
    if task.photographs is not None:
        views, by_colmap = without(scene, left_out).views, task.form == "dense"
        left_out = left_out | unusable(task.photographs, views, by_colmap=by_colmap)
    if len(left_out) == len(scene.views):
        name, why = next(iter(left_out.items()))
        raise ReconstructionError(
            f"{task.root}: no photograph of the model can be used, {name} for one because {why}; "
            "check --images."
        )
    if task.form in COPIES:
        for name in left_out:
            (task.folder / COPIES[task.form] / name).unlink(missing_ok=True)
    return left_out


def _put_in_place(results: Results, made: Path, summary: ExportSummary) -> None:
    """Give what was made its place. The marker goes first and comes last."""
    target = results.work
    (target / MARKER).unlink(missing_ok=True)
    for name in EXPORT_FORMS[summary.format].files:
        old = target / name
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
        if (made / name).exists():
            (made / name).replace(old)
    content = {name: value for name, value in vars(summary).items() if name != "output"}
    part = made / MARKER
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(target / MARKER)
