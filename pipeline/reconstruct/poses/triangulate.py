"""Triangulate verified matches with known poses, which stay exactly as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ReconstructionError
from pipeline.events import Event, Listener, counted
from pipeline.extras import import_pycolmap
from pipeline.pairs.poses.known import KnownPoses
from pipeline.photos.panoramas.source import FaceFolder
from pipeline.reconstruct.cameras.adjust import adjust_robustly
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.mapping import SOFT, MappedModels, MappingOptions, emptied, write_mapped
from pipeline.reconstruct.poses.contradictions import check_poses


def triangulate_database(
    database: Path,
    output: Path,
    known: KnownPoses,
    options: MappingOptions,
    colours: Path | FaceFolder | None,
    listen: Listener,
) -> MappedModels:
    """Triangulate the verified matches of images with poses, and write `mapped/0` into `output`.

    known: fixed poses. options: its mapper does not count. colours: folder of the photographs, or
        None for points without colours.

    Cameras that are not fixed are adjusted, and poses are not. Raises ReconstructionError for
    cameras that nothing tells, for rigs of several cameras, and for poses that contradict most
    matches.
    """
    pycolmap = import_pycolmap()
    poses = _poses_by_name(known)
    with pycolmap.Database.open(database) as opened:
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions())
    model = pycolmap.Reconstruction()
    model.load(cache)
    _check_cameras(model, poses, options.priors, options.fixed_cameras)
    notes = check_poses(database, known, options.max_error)
    text = f"{counted(len(poses), 'image')} with known poses"
    listen(Event("triangulating", text, {"images": len(poses)}))
    for image in model.images.values():
        if image.name in poses:
            model.frames[image.frame_id].rig_from_world = poses[image.name]
            model.register_frame(image.frame_id)
    how = _triangulation(options)
    with emptied(output / ".triangulating") as scratch:
        model = pycolmap.triangulate_points(model, database, scratch, scratch, True, how)
    still = model.reg_image_ids()
    if model.num_points3D():
        keep = options.fixed_cameras
        adjust_robustly(model, options.max_error / SOFT, options.threads, keep, still=still)
    if not model.num_points3D() or not still:
        return MappedModels(notes=[*notes, "no match could be triangulated with the poses."])
    keep_poses(model, known)
    notes += _without_points(model, poses)
    return write_mapped([model], output, colours, notes=notes)


def keep_poses(model: Any, known: KnownPoses) -> None:
    """Give the images of a `pycolmap.Reconstruction` their poses, to the last bit.

    They went through matrices meanwhile, which changes the last one.
    """
    poses = _poses_by_name(known)
    for number in model.reg_image_ids():
        image = model.images[number]
        model.frames[image.frame_id].rig_from_world = poses[image.name]


def pose_notes(known: KnownPoses, images: Collection[str]) -> list[str]:
    """Sentences on what was known. images: names of all of the run."""
    assert known.poses is not None
    good = known.poses.known()
    posed = {name for name, has in zip(known.names, good.tolist(), strict=True) if has}
    notes = [f"poses are those of {known.file}, read as {known.convention}, and stay as they are"]
    lacking = sorted({*images} - posed)
    if lacking:
        count = counted(len(lacking), "image")
        notes.append(f"{count} without a pose in {known.file} not in the model: {listed(lacking)}")
    return [*notes, *known.notes]


def _poses_by_name(known: KnownPoses) -> dict[str, Any]:
    """A `pycolmap.Rigid3d` of every image with a pose."""
    pycolmap = import_pycolmap()
    assert known.poses is not None
    poses, found = known.poses, {}
    for row in np.flatnonzero(poses.known()).tolist():
        rotation = pycolmap.Rotation3d(poses.quaternion[row][[1, 2, 3, 0]])
        found[known.names[row]] = pycolmap.Rigid3d(rotation, poses.shift[row])
    return found


def _check_cameras(
    model: Any, poses: Mapping[str, Any], priors: Mapping[int, float], fixed: Collection[int]
) -> None:
    unknown = []
    for image in model.images.values():
        if image.name not in poses:
            continue
        if model.rigs[model.frames[image.frame_id].rig_id].num_sensors() > 1:
            raise ReconstructionError(
                f"{image.name}: is of a rig of several cameras, as a face of a panorama is, and "
                "fixed poses are for single cameras; give --poses-are priors."
            )
        if image.camera_id not in priors.keys() | {*fixed}:
            unknown.append(image.name)
    if unknown:
        raise ReconstructionError(
            f"{min(unknown)}: nothing tells its camera, and of {counted(len(poses), 'image')} with "
            f"a fixed pose {len(unknown)} have no known camera; give cameras by --intrinsics."
        )


def _triangulation(options: MappingOptions) -> Any:
    pycolmap = import_pycolmap()
    how = pycolmap.IncrementalPipelineOptions(random_seed=0, extract_colors=False)
    how.num_threads = how.mapper.num_threads = options.threads
    how.mapper.random_seed = how.triangulation.random_seed = 0
    how.mapper.filter_max_reproj_error = options.max_error
    how.triangulation.merge_max_reproj_error = options.max_error
    how.triangulation.complete_max_reproj_error = options.max_error
    # Poses are known, so that a point of two images is as good as its place on the epipolar line.
    how.triangulation.ignore_two_view_tracks = False
    return how


def _without_points(model: Any, posed: Collection[str]) -> list[str]:
    """Sentences on images with poses that see no point, and on those without verified matches."""
    images = [model.images[number] for number in model.reg_image_ids()]
    blind = sorted(image.name for image in images if not image.num_points3D)
    alone = sorted({*posed} - {image.name for image in images})
    notes = [f"{counted(len(blind), 'image')} with a pose see no point: {listed(blind)}"]
    count = counted(len(alone), "image")
    notes += [f"{count} with a pose not in the model, without verified matches: {listed(alone)}"]
    return [note for note, names in zip(notes, (blind, alone), strict=True) if names]
