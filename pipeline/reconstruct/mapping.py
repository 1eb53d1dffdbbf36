"""Map a COLMAP database into sparse models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.events import Event, Listener
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.frame import WORLD
from pipeline.photos.panoramas.colours import colour_points
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.reconstruct.cameras.adjust import PriorPlace, adjust_robustly
from pipeline.reconstruct.cameras.focal import FocalDecision, steady_focal
from pipeline.reconstruct.database import remove
from pipeline.store import disk

MAPPERS = ("incremental", "global")
MAPPED = "mapped"  # folder of the models as the mapper made them
# The largest reprojection error of an observation, in pixels. COLMAP's own value suits features
# found at full resolution, but matches are only as precise as the resized image was.
MAX_ERROR = 4.0
# Times smaller than the largest error is the residual from which outliers are discounted.
SOFT = 4
# Of an image that joins a model. COLMAP's 30 suits features that many images share. A survey of
# fields with few matches a pair kept 165 in place of 163 of 167 images, and its positions.
LEAST_INLIERS = 15
SOME = 10  # images whose photographs are looked for before a model is refined
# Focal lengths by the longer side, and the largest parameter of distortion, as COLMAP's mapper
# demands while it works. It demands nothing of its last adjustment.
FOCAL_RANGE = (0.1, 10.0)
MOST_DISTORTION = 1.0


@dataclass(frozen=True)
class MappingOptions:
    """How a database is mapped."""

    mapper: str = "incremental"  # or "global"
    fixed_cameras: frozenset[int] = frozenset()  # numbers of those that stay as the database says
    priors: Mapping[int, float] = field(default_factory=dict)  # of `focal_priors`
    max_error: float = MAX_ERROR
    initial: tuple[int, int] | None = None  # numbers of the two images that a model begins with
    threads: int = 1  # With one, the result is the same every time. −1 takes all cores.
    # Where images were taken, by their names, which the database has as pose priors.
    places: Mapping[str, PriorPlace] = field(default_factory=dict)


@dataclass(frozen=True)
class MappedModels:
    """What mapping came to.

    points: of each model, the largest model first. some: names of images of the largest. focal:
    where EXIF's focal length counted. notes: sentences for the report. before: the folder of a
    refined model that the first one goes on from. principal: cameras whose principal point is free.
    """

    points: list[int] = field(default_factory=list)
    some: list[str] = field(default_factory=list)
    focal: list[FocalDecision] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: Path | None = None
    principal: frozenset[int] = frozenset()


def map_database(
    database: Path,
    output: Path,
    options: MappingOptions,
    colours: Path | FaceFolder | None,
    listen: Listener,
) -> MappedModels:
    """Run a mapper, and write `mapped/0` … into `output`; see `keep_models`."""
    with emptied(output / ".mapping") as scratch:
        models = run_mapper(database, scratch, options, listen)
        return keep_models(models, output, options, colours)


def run_mapper(
    database: Path, scratch: Path, options: MappingOptions, listen: Listener
) -> list[Any]:
    """The models of a database, the largest first. scratch: an empty folder."""
    mapper = _incremental if options.mapper == "incremental" else _global
    return by_size(mapper(database, scratch, options, listen))


def by_size(models: list[Any]) -> list[Any]:
    """The models, the one with most images first."""
    return sorted(models, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def keep_models(
    models: list[Any], output: Path, options: MappingOptions, colours: Path | FaceFolder | None
) -> MappedModels:
    """Draw focal lengths towards EXIF's, colour the points, and write `mapped/0` … into `output`.

    models: the largest first; they are changed. colours: folder of the photographs, or None for
        points without colours.
    """
    scale = options.max_error / SOFT
    decisions = [
        steady_focal(model, options.priors, options.fixed_cameras, scale, options.threads, number)
        for number, model in enumerate(models)
    ]
    found = [decision for decision in decisions if decision is not None]
    return write_mapped(models, output, colours, focal=found)


def write_mapped(
    models: list[Any],
    output: Path,
    colours: Path | FaceFolder | None,
    focal: Sequence[FocalDecision] = (),
    notes: Sequence[str] = (),
) -> MappedModels:
    """Colour the points of models, and write `mapped/0` … into `output`. See `keep_models`.

    Observations that the last adjustment led behind their cameras are left out, which happens where
    images tell nothing of depth.
    """
    manager = import_pycolmap().ObservationManager
    with emptied(output / ".keeping") as scratch:
        for number, model in enumerate(models):
            if manager(model).filter_observations_with_negative_depth():
                remove_strays(model)
            if colours is not None:
                colour_points(model, colours)
            (scratch / str(number)).mkdir(parents=True)
            disk.write_whole(model, scratch / str(number))
        remove(output / MAPPED)
        if models:
            scratch.rename(output / MAPPED)
    return MappedModels(
        [model.num_points3D() for model in models],
        [
            model.images[row].name
            for model in models[:1]
            for row in sorted(model.reg_image_ids())[:SOME]
        ],
        [*focal],
        [*notes],
    )


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """An empty folder, which is removed at the end."""
    remove(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def opened_model(folder: Path) -> Any:
    """A model as a `pycolmap.Reconstruction`."""
    return import_pycolmap().Reconstruction(str(folder))


def publish_models(
    models: list[Any], output: Path, worlds: Sequence[bytes | None] | None = None
) -> None:
    """Write the models into `output/sparse`, and the points of the first as `points.ply`.

    worlds: of each the bytes of WORLD, if it has a frame.
    """
    scratch = output / ".publishing"
    remove(scratch)
    for number, model in enumerate(models):
        folder = scratch / "sparse" / str(number)
        folder.mkdir(parents=True)
        disk.write_whole(model, folder, None if number else scratch / "points.ply")
        world = worlds[number] if worlds else None
        if world is not None:
            (folder / WORLD).write_bytes(world)
    if models:
        for name in ("points.ply", "sparse"):
            remove(output / name)
            (scratch / name).rename(output / name)
    remove(scratch)


def _incremental(
    database: Path, scratch: Path, options: MappingOptions, listen: Listener
) -> list[Any]:
    pycolmap = import_pycolmap()
    mapping = pycolmap.IncrementalPipelineOptions(
        random_seed=0, min_model_size=3, extract_colors=False
    )
    mapping.num_threads = mapping.mapper.num_threads = options.threads
    mapping.mapper.random_seed = mapping.triangulation.random_seed = 0
    mapping.ba_refine_sensor_from_rig = False  # faces of a panorama are known
    mapping.mapper.filter_max_reproj_error = mapping.mapper.init_max_error = options.max_error
    mapping.mapper.abs_pose_max_error = 3 * options.max_error
    mapping.mapper.abs_pose_min_num_inliers = LEAST_INLIERS
    mapping.triangulation.merge_max_reproj_error = options.max_error
    mapping.triangulation.complete_max_reproj_error = options.max_error
    mapping.use_prior_position = mapping.use_robust_loss_on_prior_position = bool(options.places)
    mapping.constant_cameras = mapping.mapper.constant_cameras = {*options.fixed_cameras}
    if options.initial:
        mapping.init_image_id1, mapping.init_image_id2 = options.initial
    registered = 2

    def next_image() -> None:
        nonlocal registered
        registered += 1
        if registered % 10 == 0:
            listen(Event("mapping", f"{registered} images registered", {"registered": registered}))

    for only_longer_tracks in (True, False):
        # A point that only two images see does not help to register a third one. Two photographs
        # have no other points, so the second attempt keeps them.
        mapping.triangulation.ignore_two_view_tracks = only_longer_tracks
        found = pycolmap.incremental_mapping(
            database, scratch, scratch, mapping, next_image_callback=next_image
        )
        if found:
            break

    models = [_without_strays(model, database, scratch, mapping) for model in found.values()]
    for model in models:
        # The mapper's own last adjustment uses plain least squares. On four real runs this step
        # lowered the median rotation error by 4 to 37 %.
        adjust_robustly(
            *(model, options.max_error / SOFT, options.threads),
            keep=options.fixed_cameras,
            places=options.places,
        )
    return models


def _without_strays(model: Any, database: Path, scratch: Path, mapping: Any) -> Any:
    """The model without images that nothing holds in place, which are tried once more.

    The mapper can keep an image that lost all its points or whose focal length is absurd. Its
    position is then far from all others.
    """
    pycolmap = import_pycolmap()
    if not remove_strays(model):
        return model
    before = scratch / "before"
    remove(before)
    before.mkdir()
    disk.write_whole(model, before)
    found = pycolmap.incremental_mapping(database, scratch, scratch, mapping, input_path=before)
    again = max(found.values(), key=lambda other: other.num_reg_images(), default=model)
    remove_strays(again)
    return again


def remove_strays(model: Any) -> bool:
    """Take out images with too few points or an absurd camera. Returns whether there were any.

    The faces of a panorama are one frame, and have their points together.
    """
    points = Counter[int]()
    absurd = set()
    for image in (model.images[number] for number in model.reg_image_ids()):
        points[image.frame_id] += image.num_points3D
        if image.camera.has_bogus_params(*FOCAL_RANGE, MOST_DISTORTION):
            absurd.add(image.frame_id)
    strays = [
        frame for frame, number in points.items() if number < LEAST_INLIERS or frame in absurd
    ]
    if len(strays) > len(points) - 2:
        return False
    for frame in strays:
        model.deregister_frame(frame)
    return bool(strays)


def _global(database: Path, scratch: Path, options: MappingOptions, listen: Listener) -> list[Any]:
    pycolmap = import_pycolmap()
    mapping = pycolmap.GlobalPipelineOptions(random_seed=0, min_model_size=3)
    mapping.num_threads = mapping.mapper.num_threads = options.threads
    # Only bundle adjustment refines focal lengths. COLMAP's view graph calibration before it (1 px
    # inliers) cost points on all sets, and the poses on internet photographs.
    with pycolmap.Database.open(database) as opened:
        cameras = {camera.camera_id: camera.params for camera in opened.read_all_cameras()}
    refine = bool(cameras.keys() - options.fixed_cameras)
    adjustment = mapping.mapper.bundle_adjustment
    mapping.mapper.refine_sensor_from_rig = adjustment.refine_sensor_from_rig = False
    adjustment.refine_focal_length = adjustment.refine_extra_params = refine
    adjustment.ceres.solver_options.num_threads = options.threads
    listen(Event("mapping", "global mapping: no progress is known until it ends"))
    models = list(pycolmap.global_mapping(database, scratch, scratch, mapping).values())
    if refine and options.fixed_cameras:
        # The global mapper refines all cameras or none, so the known ones are put back.
        for model in models:
            for camera in options.fixed_cameras.intersection(model.cameras):
                model.cameras[camera].params = cameras[camera]
            scale = options.max_error / SOFT
            adjust_robustly(model, scale, options.threads, keep=options.fixed_cameras)
    return models
