"""Adjust a joined model by blocks, through an executor.

joined model → what each block alone tells of shared cameras → their intrinsics, which stay
             → round: every block → BlockScene → adjust_block → AdjustedBlock ┐
                  ↑ poses extrapolated out of the last rounds ← taken together ┘
             → tracks completed, observations that do not fit left out → rounds once more

A block adjusts the images of its core and its ring, and all points that these see. Other images
that see these points stay where they are. Only the poses of its core are taken over, so that what
is held too tightly at the edge of a block hardly counts (restricted additive Schwarz). Bends over
many blocks would take many rounds; the extrapolation (Anderson's) finds them in a few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.events import Event, counted
from pipeline.execute.executor import MadeTasks, Stage, Work
from pipeline.extras import import_pycolmap
from pipeline.reconstruct.blocks.cut import Block
from pipeline.reconstruct.cameras.adjust import adjust_robustly, camera_information
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.joining.merge import TrackSource, complete_tracks, leave_out_misfits
from pipeline.reconstruct.mapping import SOFT, MappingOptions, opened_model
from pipeline.reconstruct.refine.adjust import soft_l1
from pipeline.reconstruct.refine.cameras import restricted
from pipeline.reconstruct.tracks.scene import ModelCamera, ModelViews, SparseModel
from pipeline.store import disk

BLOCK_GAIN = 1e-6  # share of the cost that a step of one block has to save
MOST_ROUNDS = 20
ROUND_GAIN = 1e-5  # share of the cost that a round has to save; the first that saves less is last
REMEMBERED = 8  # rounds that the extrapolation looks at
MOST_TRIES = 2  # processes that may die at a block of a round before it stays as it is


class BlockScene(NamedTuple):
    """What one block adjusts.

    free, core: (V,) bool of the scene's views: whose poses change, and which are the block's own.
    keep: numbers of the cameras whose intrinsics stay.
    """

    name: str
    scene: SparseModel
    free: np.ndarray
    core: np.ndarray
    keep: frozenset[int]


class AdjustedBlock(NamedTuple):
    """A block after its adjustment.

    rotation, shift: (n, 3, 3) and (n, 3) of its core's views. cameras: of these, where they may
    change. xyz: (P, 3) of the scene's points. seen: (P,) how many of the core's views see them.
    given_up: whether the block stayed as it was.
    """

    name: str
    rotation: np.ndarray
    shift: np.ndarray
    cameras: dict[int, ModelCamera]
    xyz: np.ndarray
    seen: np.ndarray
    given_up: bool


class BlockError(NamedTuple):
    """What the observations of a block's core are off by.

    cost: sum of their losses. points: how many there are, where an observation of n counts as the
    n-th part of its point. pixels: sum of the errors of these.
    """

    name: str
    cost: float
    points: float
    pixels: float


class CameraEvidence(NamedTuple):
    """What a block by itself tells of its cameras.

    told: by camera, which n of its parameters change, their values, and their information (n, n).
    """

    name: str
    told: dict[int, tuple[list[int], np.ndarray, np.ndarray]]


def adjust_block(options: MappingOptions, block: BlockScene, attempt: int = 1) -> AdjustedBlock:
    """The block adjusted; as it was after MOST_TRIES processes died at it."""
    scene, scale = block.scene, options.max_error / SOFT
    given_up = attempt > MOST_TRIES
    if not given_up:
        model, still = scene.made(), scene.views.numbers[~block.free].tolist()
        adjust_robustly(
            model, scale, options.threads, block.keep, least_gain=BLOCK_GAIN, still=still
        )
        scene = SparseModel.of(model)
    views = scene.views
    own = {*views.camera[block.core].tolist()} - block.keep
    return AdjustedBlock(
        block.name,
        views.rotation[block.core],
        views.shift[block.core],
        {number: views.cameras[number] for number in sorted(own)},
        scene.xyz,
        np.bincount(scene.point[block.core[scene.view]], minlength=len(scene.xyz)),
        given_up,
    )


def measure_errors(options: MappingOptions, block: BlockScene, attempt: int = 1) -> BlockError:
    """The errors of the block as it is."""
    scene = block.scene
    mine = block.core[scene.view]
    errors = scene.errors()[mine]
    share = (1 / np.bincount(scene.point))[scene.point[mine]]
    cost = soft_l1(errors, options.max_error / SOFT)
    return BlockError(block.name, cost, float(share.sum()), float(share @ errors))


def measure_cameras(options: MappingOptions, block: BlockScene, attempt: int = 1) -> CameraEvidence:
    """What the block tells; nothing after MOST_TRIES processes died at it."""
    if attempt > MOST_TRIES:
        return CameraEvidence(block.name, {})
    scale, model = options.max_error / SOFT, block.scene.made()
    found = camera_information(model, scale, options.threads, block.keep, BLOCK_GAIN)
    told = {
        number: (free, np.array(model.cameras[number].params)[free], information)
        for number, (free, information) in found.items()
    }
    return CameraEvidence(block.name, told)


def make_work(work: Callable[..., Any], options: MappingOptions) -> Work:
    """Work for an executor's process. COLMAP logs no more than what it also raises."""
    import_pycolmap().logging.minloglevel = 3
    return partial(work, options)


def settle_by_blocks(
    folder: Path,
    blocks: Sequence[Block],
    mapping: MappingOptions,
    carrying: Carrying,
    tracks: TrackSource | None = None,
) -> list[str]:
    """Adjust the model of a folder by blocks, and write it there. Returns sentences for the report.

    blocks: of the whole scene; an image is in the core of one at most. tracks: what completes the
    model's tracks; None where they are whole. Raises Died where COLMAP's process ends.
    """
    scene, first = carrying.colmap.ask(opened_scene, folder)
    error, rounds, given_up = first, 0, set[str]()
    for missing in (tracks, None):
        parts = _Parts.of(scene.views, blocks)
        scene = _with_shared_cameras(scene, parts, mapping, carrying)
        made = _rounds(scene, parts, mapping, carrying)
        scene, error = carrying.colmap.ask(take_over, folder, made.scene, missing, mapping)
        rounds += made.rounds
        given_up |= made.given_up
    what = f"{counted(len(scene.views), 'image')} adjusted in {counted(len(parts.names), 'block')}"
    notes = [f"{what} and {counted(rounds, 'round')}, {first:.3f} → {error:.3f} px"]
    if given_up:
        cause = f"{MOST_TRIES} processes died that adjusted each"
        notes.append(f"blocks {', '.join(sorted(given_up))} were not adjusted to the end: {cause}")
    return notes


def opened_scene(folder: Path) -> tuple[SparseModel, float]:
    """The model of a folder, and its mean reprojection error in pixels."""
    model = opened_model(folder)
    return SparseModel.of(model), model.compute_mean_reprojection_error()


def take_over(
    folder: Path, scene: SparseModel, tracks: TrackSource | None, mapping: MappingOptions
) -> tuple[SparseModel, float]:
    """Write an adjusted scene into the folder of its model, without what does not fit.

    tracks: as of `settle_by_blocks`. Returns what is written, as `opened_scene` does.
    """
    pycolmap = import_pycolmap()
    model, views = opened_model(folder), scene.views
    for row, number in enumerate(views.numbers.tolist()):
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(views.rotation[row]), views.shift[row])
        model.frames[model.images[number].frame_id].rig_from_world = pose
    for number, camera in views.cameras.items():
        model.cameras[number].params = list(camera.params)
    for number, xyz in zip(sorted(model.point3D_ids()), scene.xyz, strict=True):
        model.points3D[number].xyz = xyz
    if tracks is not None:
        complete_tracks(model, tracks, mapping.max_error)
    leave_out_misfits(model, mapping.max_error)
    model.update_point_3d_errors()
    disk.write_whole(model, folder)
    return opened_scene(folder)


@dataclass(frozen=True)
class _Parts:
    """The blocks that have images in a model.

    core: (V,) row of the block whose own each view is; -1 for none. free: of each block, (V,) bool
    of the views in its core or ring.
    """

    names: list[str]
    core: np.ndarray
    free: list[np.ndarray]

    @classmethod
    def of(cls, views: ModelViews, blocks: Sequence[Block]) -> _Parts:
        core = np.full(len(views), -1)
        names, free = list[str](), list[np.ndarray]()
        for block in blocks:
            mine = np.isin(views.numbers, block.core)
            if mine.any():
                core[mine] = len(names)
                names.append(block.name)
                free.append(np.isin(views.numbers, block.images))
        return cls(names, core, free)

    def shared_cameras(self, views: ModelViews) -> frozenset[int]:
        """Numbers of the cameras of several blocks."""
        couples = np.unique(np.stack([views.camera, self.core], axis=1), axis=0)
        numbers, count = np.unique(couples[:, 0], return_counts=True)
        return frozenset(numbers[count > 1].tolist())


def _answers(
    work: Callable[..., Any],
    parts: _Parts,
    make: Callable[[int], BlockScene],
    mapping: MappingOptions,
    carrying: Carrying,
) -> list[Any]:
    """What the work answers for every block, in their order."""
    stage = Stage("adjust", partial(make_work, work, mapping))
    tasks = MadeTasks(parts.names, make)
    results = carrying.executor.run([stage], tasks, carrying.actors, carrying.listen)
    try:
        found = {result.name: result for result in results}
    finally:
        results.close()
    return [found[name] for name in parts.names]


def _with_shared_cameras(
    scene: SparseModel, parts: _Parts, mapping: MappingOptions, carrying: Carrying
) -> SparseModel:
    """The scene with each camera of several blocks as these together tell it, each by itself.

    They stay so in all rounds: a block whose neighbours are held hardly moves them, and blocks
    with different ones do not fit together.
    """
    shared = parts.shared_cameras(scene.views) - mapping.fixed_cameras
    if not shared:
        return scene

    def alone(row: int) -> BlockScene:
        free = parts.free[row]
        mine = restricted(scene.keep(free[scene.view]), free)
        every = np.ones(len(mine.views), bool)
        return BlockScene(parts.names[row], mine, every, every, mapping.fixed_cameras)

    evidence: list[CameraEvidence] = _answers(measure_cameras, parts, alone, mapping, carrying)
    cameras = dict(scene.views.cameras)
    for number in sorted(shared):
        told = [one.told[number] for one in evidence if number in one.told]
        if told:
            params = np.array(cameras[number].params)
            right = np.sum([information @ values for _, values, information in told], axis=0)
            total = np.sum([information for _, _, information in told], axis=0)
            params[told[0][0]] = np.linalg.solve(total, right)
            cameras[number] = replace(cameras[number], params=tuple(params.tolist()))
    return replace(scene, views=replace(scene.views, cameras=cameras))


class _Made(NamedTuple):
    """scene: after so many rounds. given_up: names of blocks that a round left as they were."""

    scene: SparseModel
    rounds: int
    given_up: set[str]


def _rounds(
    scene: SparseModel, parts: _Parts, mapping: MappingOptions, carrying: Carrying
) -> _Made:
    """Adjust all blocks side by side, until a round hardly lowers the cost."""
    keep = parts.shared_cameras(scene.views) | mapping.fixed_cameras
    far = scene.views.centres()[scene.view] - scene.xyz[scene.point]
    unit = float(np.median(np.linalg.norm(far, axis=1)))

    def answers(work: Callable[..., Any], given: SparseModel) -> list[Any]:
        return _answers(work, parts, partial(_block, given, parts, keep), mapping, carrying)

    starts, ends, given_up = list[ModelViews](), list[ModelViews](), set[str]()
    best, (least, error), start = scene, _total(answers(measure_errors, scene)), scene
    for number in range(1, MOST_ROUNDS + 1):
        adjusted: list[AdjustedBlock] = answers(adjust_block, start)
        given_up |= {one.name for one in adjusted if one.given_up}
        end = _together(start, parts, adjusted)
        before, last = error, least
        cost, error = _total(answers(measure_errors, end))
        counts = f"{counted(len(end.views), 'image')} in {counted(len(adjusted), 'block')}"
        text = f"round {number}: {counts} adjusted, {before:.3f} → {error:.3f} px"
        fields = {"images": len(end.views), "round": number, "before": before, "after": error}
        carrying.listen(Event("adjusted", text, {**fields, "cost": cost}))
        if cost < least:
            best, least = end, cost
        if last - cost < ROUND_GAIN * last:
            break
        starts, ends = [*starts, start.views][-REMEMBERED:], [*ends, end.views][-REMEMBERED:]
        start = replace(end, views=_extrapolated(starts, ends, unit))
    return _Made(best, number, given_up)


def _total(errors: Sequence[BlockError]) -> tuple[float, float]:
    """The cost of all blocks, and their mean error in pixels, each point counted once."""
    points = sum(one.points for one in errors)
    return sum(one.cost for one in errors), sum(one.pixels for one in errors) / max(points, 1.0)


def _cut(scene: SparseModel, free: np.ndarray) -> tuple[SparseModel, np.ndarray, np.ndarray]:
    """The points that the free views see, (V,) bool, with all their observations.

    Returns also which views and points these are, (V,) and (P,) bool.
    """
    points = np.zeros(len(scene.xyz), bool)
    points[scene.point[free[scene.view]]] = True
    points &= np.bincount(scene.point, minlength=len(points)) >= 2
    kept = scene.keep(points[scene.point])
    views = free.copy()
    views[kept.view] = True
    return restricted(kept, views), views, points


def _block(scene: SparseModel, parts: _Parts, keep: frozenset[int], row: int) -> BlockScene:
    """What the block of a row adjusts. keep: cameras that stay in every block."""
    mine, views, _ = _cut(scene, parts.free[row])
    free = parts.free[row][views]
    held = keep | {*mine.views.camera[~free].tolist()}
    return BlockScene(parts.names[row], mine, free, parts.core[views] == row, held)


def _together(scene: SparseModel, parts: _Parts, answers: Sequence[AdjustedBlock]) -> SparseModel:
    """The scene with every view, and its camera, as its own block has it.

    A point is at the mean of the blocks, each of which counts as often as its own views see it.
    """
    rotation, shift = scene.views.rotation.copy(), scene.views.shift.copy()
    cameras = dict(scene.views.cameras)
    total, seen = np.zeros_like(scene.xyz), np.zeros(len(scene.xyz))
    for row, answer in enumerate(answers):
        _, _, points = _cut(scene, parts.free[row])
        rotation[parts.core == row], shift[parts.core == row] = answer.rotation, answer.shift
        cameras.update(answer.cameras)
        total[points] += answer.seen[:, None] * answer.xyz
        seen[points] += answer.seen
    xyz = np.where(seen[:, None] > 0, total / np.maximum(seen, 1)[:, None], scene.xyz)
    views = replace(scene.views, rotation=rotation, shift=shift, cameras=cameras)
    return replace(scene, views=views, xyz=xyz)


def _extrapolated(
    given: Sequence[ModelViews], found: Sequence[ModelViews], unit: float
) -> ModelViews:
    """Poses at which a round would change nothing, if rounds were linear (Anderson, 1965).

    given, found: before and after each of the last rounds. unit: length as large as one radian.
    """
    first = found[0].rotation
    x, y = (
        np.array([_coordinates(views, first, unit) for views in side]) for side in (given, found)
    )
    change = y - x
    steps = np.diff(change, axis=0)
    share = np.linalg.lstsq(steps.T, change[-1], rcond=1e-8)[0]
    moved = (y[-1] - share @ np.diff(y, axis=0)).reshape(-1, 6)
    rotation = Rotation.from_rotvec(moved[:, :3]).as_matrix() @ first
    shift = -np.einsum("vij,vj->vi", rotation, moved[:, 3:] * unit)
    return replace(found[-1], rotation=rotation, shift=shift)


def _coordinates(views: ModelViews, first: np.ndarray, unit: float) -> np.ndarray:
    """(6 V,): rotation vectors from `first`, (V, 3, 3), and centres in units."""
    turned = Rotation.from_matrix(views.rotation @ first.transpose(0, 2, 1)).as_rotvec()
    return np.concatenate([turned, views.centres() / unit], axis=1).ravel()
