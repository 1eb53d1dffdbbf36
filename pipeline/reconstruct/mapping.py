"""Map a COLMAP database into sparse models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.events import Event, Listener
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.cameras.adjust import adjust_robustly
from pipeline.reconstruct.cameras.focal import FocalDecision, steady_focal
from pipeline.reconstruct.database import remove

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
    threads: int = 1  # With one, the result is the same every time. −1 takes all cores.


def map_database(
    database: Path, output: Path, options: MappingOptions, colours: Path | None, listen: Listener
) -> tuple[list[Any], list[FocalDecision]]:
    """Run a mapper; returns the models, the largest first, and where EXIF's focal length counted.

    Writes `mapped/0` … into `output`, the models in COLMAP's binary format.
    colours: folder of the photographs, or None for points without colours.
    """
    scratch = output / ".mapping"
    remove(scratch)
    scratch.mkdir(parents=True)
    try:
        mapper = _incremental if options.mapper == "incremental" else _global
        models = mapper(database, scratch, options, listen)
        models.sort(key=lambda model: (-model.num_reg_images(), -model.num_points3D()))
        decisions = [
            steady_focal(
                *(model, options.priors, options.fixed_cameras, options.max_error / SOFT),
                *(options.threads, number),
            )
            for number, model in enumerate(models)
        ]
        for number, model in enumerate(models):
            if colours is not None:
                model.extract_colors_for_all_images(colours)
            (scratch / MAPPED / str(number)).mkdir(parents=True)
            model.write_binary(scratch / MAPPED / str(number))
        if models:
            remove(output / MAPPED)
            (scratch / MAPPED).rename(output / MAPPED)
    finally:
        remove(scratch)
    return models, [decision for decision in decisions if decision is not None]


def opened_model(folder: Path) -> Any:
    """A model as a `pycolmap.Reconstruction`."""
    return import_pycolmap().Reconstruction(str(folder))


def publish_models(models: list[Any], output: Path) -> None:
    """Write the models into `output/sparse`, and the points of the first as `points.ply`."""
    scratch = output / ".publishing"
    remove(scratch)
    for number, model in enumerate(models):
        (scratch / "sparse" / str(number)).mkdir(parents=True)
        model.write_binary(scratch / "sparse" / str(number))
    if models:
        models[0].export_PLY(scratch / "points.ply")
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
    mapping.mapper.filter_max_reproj_error = mapping.mapper.init_max_error = options.max_error
    mapping.mapper.abs_pose_max_error = 3 * options.max_error
    mapping.mapper.abs_pose_min_num_inliers = LEAST_INLIERS
    mapping.triangulation.merge_max_reproj_error = options.max_error
    mapping.triangulation.complete_max_reproj_error = options.max_error
    mapping.constant_cameras = mapping.mapper.constant_cameras = {*options.fixed_cameras}
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
            model, options.max_error / SOFT, options.threads, keep=options.fixed_cameras
        )
    return models


def _without_strays(model: Any, database: Path, scratch: Path, mapping: Any) -> Any:
    """The model without images that nothing holds in place, which are tried once more.

    The mapper can keep an image that lost all its points or whose focal length is absurd. Its
    position is then far from all others.
    """
    pycolmap = import_pycolmap()
    if not _remove_strays(model):
        return model
    before = scratch / "before"
    remove(before)
    before.mkdir()
    model.write_binary(before)
    found = pycolmap.incremental_mapping(database, scratch, scratch, mapping, input_path=before)
    again = max(found.values(), key=lambda other: other.num_reg_images(), default=model)
    _remove_strays(again)
    return again


def _remove_strays(model: Any) -> bool:
    """Take out images with too few points or an absurd camera. Returns whether there were any."""
    strays = [
        model.images[number]
        for number in model.reg_image_ids()
        if model.images[number].num_points3D < LEAST_INLIERS
        or model.images[number].camera.has_bogus_params(*FOCAL_RANGE, MOST_DISTORTION)
    ]
    if len(strays) > model.num_reg_images() - 2:
        return False
    for image in strays:
        model.deregister_frame(image.frame_id)
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
