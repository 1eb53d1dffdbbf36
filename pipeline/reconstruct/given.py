"""What is reconstructed: finished runs, or a COLMAP database; and where the results go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import ArgumentError, ReconstructionError
from pipeline.events import Event, Listener, counted, nobody
from pipeline.masks.folder import Masks, find_masks
from pipeline.match.run import PLAN_FILE, finished_shards
from pipeline.match.turns.tries import of_later_round
from pipeline.pairs.poses.known import KnownPoses
from pipeline.photos.cameras.intrinsics import intrinsics_digest, intrinsics_of_runs
from pipeline.photos.identity.files import of_another_size
from pipeline.photos.panoramas.source import FaceFolder, faces_of_runs
from pipeline.photos.panoramas.sphere import Face
from pipeline.reconstruct.blocks.graph import image_names
from pipeline.reconstruct.cameras.adjust import PriorPlace
from pipeline.reconstruct.cameras.images import StoredImages
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.database import ImportSummary, focal_priors
from pipeline.reconstruct.mapping import MAX_ERROR, MappingOptions
from pipeline.reconstruct.merging.job import import_matches
from pipeline.reconstruct.merging.masked import masks_of
from pipeline.reconstruct.poses.options import PoseOptions
from pipeline.reconstruct.poses.priors import positions_of_poses, prior_places, write_pose_priors
from pipeline.reconstruct.positions.trusted import (
    PositionOptions,
    TrustedPositions,
    trusted_positions,
)
from pipeline.reconstruct.taken import check_database, take_database
from pipeline.store.folder import Folder, place
from pipeline.store.results import Results, opened_results, place_of

DATABASE = "database.db"


@dataclass(frozen=True)
class Given:
    """What is reconstructed, on checked arguments.

    importing: makes a database at a path, with what carries out the work. results: where they go.
    photographs: their folder, in which faces stand for panoramas, or None. notes: what is wrong
    with the runs. positions: of photographs, where given. masks: of the photographs, or None.
    poses: of photographs, where given. fixed: whether these stay as they are.
    """

    importing: Callable[[Path, Carrying], ImportSummary]
    results: Results
    photographs: Folder | FaceFolder | None
    notes: list[str]
    positions: TrustedPositions | None = None
    masks: Masks | None = None
    poses: KnownPoses | None = None
    fixed: bool = False

    @property
    def target(self) -> Path:
        """The local folder in which the work is done."""
        return self.results.work

    @property
    def database(self) -> Path:
        """The database of the results."""
        return self.target / DATABASE

    @property
    def colours(self) -> Path | FaceFolder | None:
        """The folder of the photographs where it is on this machine, or where some are faces."""
        folder = self.photographs
        if isinstance(folder, FaceFolder):
            return folder
        path = Path(folder.path()) if folder is not None and folder.local else None
        return path if path is not None and path.is_dir() else None


@contextmanager
def opened_given(
    source: Sequence[Folder] | Path,
    images: Folder | None,
    cameras: CameraOptions | None,
    radius: float,
    output: Path | str | None,
    scratch: str | Path | None,
    storage: dict[str, Any] | None,
    masks: Folder | None = None,
    positions: PositionOptions | None = None,
    poses: PoseOptions | None = None,
    listen: Listener = nobody,
) -> Iterator[Given]:
    """Check what is given, and open the place of the results.

    The arguments are those of `reconstruct_run`. Raises ReconstructionError or StorageError.
    """
    where = place_of(output, storage) if output is not None else _beside(source)
    importing: Callable[[Path, Carrying], ImportSummary]
    notes: list[str] = []
    if isinstance(source, Path):
        check_database(source)
    faces = {} if isinstance(source, Path) else faces_of_runs(source)
    known = _known(poses, source, faces, storage)
    if isinstance(source, Path):
        found = None if masks is None else find_masks(masks, image_names(source), listen=listen)
        importing = partial(_take, source, found, images)
        there = where / DATABASE if isinstance(where, Path) else None
        if there is not None and there.exists() and source.samefile(there):
            raise ReconstructionError(
                f"{source}: is the database of the results themselves; give another --output."
            )
    else:
        roots, sides = zip(*(_read_run(run) for run in source), strict=True)
        found, notes = masks_of(source, masks, listen)
        taken = _cameras_of(source, cameras, known)
        importing = partial(_merge, source, taken, min(sides), radius, found)
        if images is None and len({*roots}) > 1:
            both = " and ".join(sorted({*roots})[:2])
            raise ReconstructionError(
                f"the runs are of photographs in {both}; give by --images the folder that holds "
                "all of them, if equal names there are the same photographs."
            )
        images = images or Folder(roots[0], source[0].options)
        notes += [note for run in source for note in (*_unfinished(run), *_replaced(run, images))]
    photographs = FaceFolder(images, faces) if images is not None and faces else images
    what = _names(source), faces, storage, photographs
    trusted = _trusted(positions, *what) if positions else None
    fixed = poses is not None and poses.fixed
    if poses is not None and known is not None and not fixed:
        trusted = _of_faces(positions_of_poses(known, poses), faces)
    with opened_results(where, scratch) as results:
        yield Given(importing, results, photographs, notes, trusted, found, known, fixed)


def faces_given(source: Sequence[Folder] | Path, images: Folder | None) -> FaceFolder:
    """The photographs of runs with panoramas. Raises ReconstructionError where there are none."""
    faces = {} if isinstance(source, Path) else faces_of_runs(source)
    if isinstance(source, Path) or not faces:
        shown = source if isinstance(source, Path) else source[0].shown
        raise ReconstructionError(f"{shown}: has no panoramas, so there are no faces to write.")
    return FaceFolder(images or Folder(_read_run(source[0])[0], source[0].options), faces)


def runs_or_database(
    run: str | Sequence[str] | None, database: str | Path | None, storage: dict[str, Any] | None
) -> list[Folder] | Path:
    """The folders of runs, or the path of a database.

    Raises ArgumentError for none and both, and for a run that is given twice.
    """
    names = [run] if isinstance(run, str) else [*(run or [])]
    if bool(names) == (database is not None):
        raise ArgumentError("give either a run or a database to reconstruct from.")
    if database is not None:
        return Path(database)
    runs = [Folder(name, storage or {}) for name in names]
    places = [place(run) for run in runs]
    for row, name in enumerate(names):
        if places[row] in places[:row]:
            raise ArgumentError(f"{name}: is given twice; give each run once.")
    return runs


def _beside(source: Sequence[Folder] | Path) -> Folder | Path:
    """The folder of the results where none is given."""
    if isinstance(source, Path):
        raise ReconstructionError(f"{source}: say with --output where the models go.")
    if len(source) > 1:
        raise ReconstructionError(f"{len(source)} runs: say with --output where the models go.")
    run = source[0]
    return Path(run.path("sfm")) if run.local else Folder(run.url_of("sfm"), run.options)


def _take(
    database: Path,
    masks: Masks | None,
    photographs: Folder | None,
    target: Path,
    carrying: Carrying,
) -> ImportSummary:
    what = database, target, masks, photographs
    summary: ImportSummary = carrying.colmap.ask(take_database, *what)
    return summary


def _merge(
    runs: Sequence[Folder],
    cameras: CameraOptions | None,
    long_side: int,
    radius: float,
    masks: Masks | None,
    target: Path,
    carrying: Carrying,
) -> ImportSummary:
    return import_matches(
        *(runs, target, cameras),
        long_side=long_side,
        radius=radius,
        masks=masks,
        carrying=carrying,
    )


def _replaced(run: Folder, images: Folder) -> list[str]:
    """A sentence where photographs are other files than those that were matched."""
    changed = of_another_size(run, images)
    if not changed:
        return []
    text = f"{run.shown}: {counted(len(changed), 'photograph')} changed since the run began"
    cure = "match again with another --output, or let eloftr grow do it"
    return [f"{text} ({changed[0]}); {cure}."]


def _known(
    poses: PoseOptions | None,
    source: Sequence[Folder] | Path,
    faces: dict[str, Face],
    storage: dict[str, Any] | None,
) -> KnownPoses | None:
    """The poses of images, and as priors those of panoramas; None where none are given."""
    if poses is None:
        return None
    panoramas = set() if poses.fixed else {face.panorama.name for face in faces.values()}
    return poses.read([*_names(source), *panoramas], storage)


def _cameras_of(
    runs: Sequence[Folder], cameras: CameraOptions | None, known: KnownPoses | None
) -> CameraOptions | None:
    """The options with the known cameras of runs, else of poses, unless others are given."""
    verified = intrinsics_of_runs(runs)
    cameras = cameras or CameraOptions()
    if not verified:
        told = () if known is None else known.intrinsics
        return replace(cameras, intrinsics=cameras.intrinsics or told)
    same = not cameras.intrinsics or (
        intrinsics_digest(cameras.intrinsics) == intrinsics_digest(verified)
    )
    kept = tuple(replace(entry, known=True) for entry in verified)
    return replace(cameras, intrinsics=kept) if same else cameras


def _trusted(
    positions: PositionOptions,
    names: list[str],
    faces: dict[str, Face],
    storage: dict[str, Any] | None,
    photographs: Folder | FaceFolder | None,
) -> TrustedPositions:
    """Positions of images. Where a panorama has one, each of its faces has it."""
    panoramas = {face.panorama.name for face in faces.values()}
    images = [*names, *panoramas]
    return _of_faces(trusted_positions(positions, images, storage, photographs), faces)


def _of_faces(trusted: TrustedPositions, faces: dict[str, Face]) -> TrustedPositions:
    """The same, and the position of a panorama for each of its faces."""
    of_faces = {
        name: trusted.metres[face.panorama.name]
        for name, face in faces.items()
        if face.panorama.name in trusted.metres
    }
    return replace(trusted, metres={**trusted.metres, **of_faces})


def _names(source: Sequence[Folder] | Path) -> list[str]:
    """The images of runs or a database."""
    if isinstance(source, Path):
        return image_names(source)
    return [str(name) for name in StoredImages.read(*source).names]


def _unfinished(run: Folder) -> list[str]:
    """A note where shards of the plan are not matched yet. Other programs write no plan."""
    if not run.exists(PLAN_FILE):
        return []
    planned = run.read_table(PLAN_FILE, ["shard"]).num_rows
    left = planned - sum(not of_later_round(name) for name in finished_shards(run))
    if left <= 0:
        return []
    return [
        f"{left} of {planned} shards of the run are not matched yet; run eloftr match "
        "to its end and reconstruct again."
    ]


def _read_run(run: Folder) -> tuple[str, int]:
    """The root of the images, and the long side in pixels of the finest pass, by run.json."""
    try:
        described = run.read_json("run.json")
        options = described["options"]
        finest = int(options["long_side"]) * 2 ** int(options.get("detail", 0))
        return str(described["images"]), finest
    except (FileNotFoundError, NotADirectoryError):
        raise ReconstructionError(
            f"{run.shown}: holds no run.json; give the output folder of eloftr match."
        ) from None
    except (KeyError, TypeError, ValueError):
        raise ReconstructionError(
            f"{run.shown}/run.json: lacks images or options.long_side; run eloftr match."
        ) from None


@dataclass(frozen=True)
class Imported:
    """What the import came to.

    priors: focal lengths in pixels that EXIF tells, by camera. places: where images were taken, by
    poses that are priors.
    """

    database: ImportSummary
    priors: dict[int, float]
    places: dict[str, PriorPlace]

    def mapping(self, mapper: str, threads: int) -> MappingOptions:
        """How the database is mapped."""
        return MappingOptions(
            mapper,
            fixed_cameras=self.database.fixed_cameras,
            priors=self.priors,
            max_error=max(MAX_ERROR, 2.0 * self.database.resize_factor),
            threads=threads,
            places=self.places,
        )


def imported_from(given: Given, carrying: Carrying) -> Imported:
    """Make the database of what is given."""
    imported = given.importing(given.database, carrying)
    text = f"{imported.images} images, {imported.verified} verified pairs"
    carrying.listen(Event("imported", f"{text}, {imported.keypoints} keypoints"))
    priors: dict[int, float] = carrying.colmap.ask(focal_priors, given.database)
    told = {camera: priors[camera] for camera in priors.keys() - {*imported.guessed_cameras}}
    return Imported(imported, dict(sorted(told.items())), _places(given, carrying))


def _places(given: Given, carrying: Carrying) -> dict[str, PriorPlace]:
    """Where images were taken by poses that are priors, which the database gets as well."""
    if given.fixed or given.poses is None or given.positions is None:
        return {}
    places = prior_places(given.poses, given.positions)
    carrying.colmap.ask(write_pose_priors, given.database, places)
    return places
