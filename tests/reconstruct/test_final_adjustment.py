"""Adjusting a joined model by blocks: as exact as adjusting it as a whole, wherever it is done."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stages import Killing, results

import pipeline
from benchmarks.scale.mapping import judged
from benchmarks.scale.scenes import Scene, survey
from pipeline.errors import ArgumentError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Actors, Executor, MadeTasks, Task
from pipeline.execute.local import LocalExecutor
from pipeline.execute.worker import Worker
from pipeline.reconstruct.blocks.cut import cut_blocks
from pipeline.reconstruct.blocks.graph import ViewGraph
from pipeline.reconstruct.blocks.options import MOST_ADJUSTED, BlockOptions
from pipeline.reconstruct.cameras.adjust import adjust_robustly, camera_information
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.joining.merge import TrackSource, complete_tracks
from pipeline.reconstruct.joining.settle import BlockScene, adjust_block, settle_by_blocks
from pipeline.reconstruct.mapping import MappingOptions, opened_model
from pipeline.reconstruct.refine.cameras import restricted
from pipeline.reconstruct.tracks.scene import ModelViews, SparseModel

SIZE = 20  # images of a block


def reconstruct(
    output: Path,
    final: str,
    executor: Executor,
    actors: Actors | None = None,
    listen: Listener = nobody,
) -> dict[str, bytes]:
    """The results of the scene beside `output`, of which blocks that are mapped are taken."""
    mapped = output.parent / "none"
    if mapped.exists():
        shutil.copytree(mapped / "blocks", output / "blocks")
    pipeline.reconstruct(
        database=output.parent / "given.db",
        output=output,
        blocks=BlockOptions(SIZE, final=final),
        refine="none",
        executor=executor,
        actors=actors or Actors(),
        progress=listen,
    )
    return results(output)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Path]:
    """A survey of 64 images, and the folder of its database."""
    folder = tmp_path_factory.mktemp("survey")
    return survey(8).write(folder / "given.db"), folder


@pytest.fixture(scope="module")
def joined(scene: tuple[Scene, Path], kept_executor: Executor) -> Path:
    """The model as it is joined."""
    reconstruct(scene[1] / "none", "none", kept_executor)
    return scene[1] / "none" / "sparse" / "0"


@pytest.fixture(scope="module")
def adjusted(
    scene: tuple[Scene, Path], joined: Path, kept_executor: Executor
) -> tuple[dict[str, bytes], list[Event]]:
    """What `blocks` makes of it, and the events on the way."""
    events = list[Event]()
    two = Actors(2, 2)
    made = reconstruct(scene[1] / "blocks", "blocks", kept_executor, two, events.append)
    return made, events


def test_blocks_come_as_close_to_the_truth_as_one_adjustment(
    scene: tuple[Scene, Path],
    joined: Path,
    adjusted: tuple[dict[str, bytes], list[Event]],
    kept_executor: Executor,
) -> None:
    made, folder = scene
    reconstruct(folder / "global", "global", kept_executor)
    none, whole, blocks = (
        judged(made, folder / name / "sparse" / "0") for name in ("none", "global", "blocks")
    )
    assert blocks["registered"] == whole["registered"] == len(made)
    for error in ("rotation", "position"):
        assert blocks[error] < 1.3 * whole[error]
        assert blocks[error] < 0.75 * none[error]
    assert blocks["error"] == pytest.approx(whole["error"], rel=0.01)


def test_pairs_that_no_block_has_complete_the_tracks(
    scene: tuple[Scene, Path], joined: Path, adjusted: tuple[dict[str, bytes], list[Event]]
) -> None:
    made, folder = scene
    pairs = ViewGraph.read(folder / "given.db").pair_numbers()
    counts = []
    for some in (pairs[:0], pairs):
        model = opened_model(joined)
        complete_tracks(model, TrackSource(folder / "given.db", some), MappingOptions().max_error)
        counts.append(model.compute_num_observations())
        for point in model.points3D.values():  # an image sees a point once
            images = [element.image_id for element in point.track.elements]
            assert len(images) == len({*images})
    none, all_pairs = counts
    assert none == opened_model(joined).compute_num_observations() < all_pairs
    assert judged(made, folder / "blocks" / "sparse" / "0")["observations"] > none


def test_each_round_tells_its_errors_and_the_report_those_of_all(
    scene: tuple[Scene, Path], adjusted: tuple[dict[str, bytes], list[Event]]
) -> None:
    rounds = [event for event in adjusted[1] if event.name == "adjusted"]
    assert [event.fields["round"] for event in rounds][:3] == [1, 2, 3]
    assert rounds[0].fields["after"] < rounds[0].fields["before"]
    assert rounds[1].fields["before"] == rounds[0].fields["after"]
    report = (scene[1] / "blocks" / "report.txt").read_text()
    assert f"note: 64 images adjusted in 4 blocks and {len(rounds)} rounds, 0.6" in report


def test_nothing_but_the_model_is_left(adjusted: tuple[dict[str, bytes], list[Event]]) -> None:
    assert {name.split("/")[0] for name in adjusted[0]} == {
        "blocks",
        "database.db",
        "points.ply",
        "sparse",
    }


def test_the_number_of_processes_and_a_killed_one_do_not_change_a_byte(
    scene: tuple[Scene, Path], adjusted: tuple[dict[str, bytes], list[Event]], tmp_path: Path
) -> None:
    """The other adjustment had two processes, and this one has one."""
    died = list[Event]()

    def listen(event: Event) -> None:
        if event.name == "worker_died":
            died.append(event)

    with LocalExecutor() as executor:
        killing = Killing(executor, tmp_path)
        made = reconstruct(scene[1] / "one", "blocks", killing, Actors(1, 1), listen)
    assert [event.fields["stage"] for event in died] == ["adjust"]
    assert made == adjusted[0]


def test_cameras_that_are_fixed_stay_and_those_of_one_image_are_adjusted(
    scene: tuple[Scene, Path], joined: Path, tmp_path: Path, kept_executor: Executor
) -> None:
    model = SparseModel.of(opened_model(joined))
    wrong = replace(model.views.cameras[1], params=(908.0, 500.0, 375.0, 0.001))
    own = model.views.numbers[1::2].tolist()
    camera = np.where(np.isin(model.views.numbers, own), model.views.numbers, 1)
    cameras = dict.fromkeys([1, *own], wrong)
    before = replace(model, views=replace(model.views, camera=camera, cameras=cameras))
    before.made().write_binary(tmp_path)
    blocks = cut_blocks(ViewGraph.read(scene[1] / "given.db").pruned(), SIZE, 0.3)
    mapping = MappingOptions(fixed_cameras=frozenset({1}))
    with Worker() as colmap:
        settle_by_blocks(tmp_path, blocks, mapping, Carrying(kept_executor, colmap))
    after = SparseModel.of(opened_model(tmp_path))
    assert after.views.cameras[1] == wrong
    assert all(after.views.cameras[number].params != wrong.params for number in own)
    assert after.errors().mean() < before.errors().mean()


def test_images_of_other_blocks_stay_where_they_are(joined: Path) -> None:
    model = opened_model(joined)
    before = ModelViews.of(model)
    still = before.numbers[::2].tolist()
    adjust_robustly(model, 1.0, 1, still=still)
    after = ModelViews.of(model)
    moved = np.linalg.norm(after.centres() - before.centres(), axis=1)
    assert moved[::2].max() < 1e-12
    assert moved[1::2].min() > 1e-6


def test_a_block_at_which_processes_die_stays_as_it_is(joined: Path) -> None:
    model = SparseModel.of(opened_model(joined))
    every = np.ones(len(model.views), bool)
    block = BlockScene("00007", model, every, every, frozenset())
    made = adjust_block(MappingOptions(), block, attempt=3)
    assert made.given_up
    assert (made.rotation == model.views.rotation).all()
    assert (made.xyz == model.xyz).all()


def test_a_camera_that_more_images_saw_is_known_better(joined: Path) -> None:
    spreads = []
    for count in (16, 64):
        some = np.arange(64) < count
        scene = SparseModel.of(opened_model(joined))
        model = restricted(scene.keep(some[scene.view]), some).made()
        free, information = camera_information(model, 1.0, 1, (), 1e-6)[1]
        assert free == [0, 3]  # focal length and distortion
        spreads.append(np.sqrt(np.diag(np.linalg.inv(information))))
        assert abs(model.cameras[1].params[0] - 900) < 5 * spreads[-1][0]
    assert (spreads[1] < spreads[0]).all()
    assert camera_information(opened_model(joined), 1.0, 1, {1}, 1e-6) == {}


def test_auto_is_global_up_to_a_number_of_images() -> None:
    assert BlockOptions().adjustment(MOST_ADJUSTED) == "global"
    assert BlockOptions().adjustment(MOST_ADJUSTED + 1) == "blocks"
    assert BlockOptions(final="none").adjustment(MOST_ADJUSTED + 1) == "none"
    with pytest.raises(ArgumentError, match="give auto, global, blocks, none"):
        BlockOptions(final="some")


def test_tasks_are_made_when_they_are_asked_for() -> None:
    made = list[int]()

    def make(row: int) -> int:
        made.append(row)
        return row * row

    tasks = MadeTasks(["a", "b", "c"], make)
    assert (len(tasks), made) == (3, [])
    assert tasks[2] == Task("c", 4)
    assert tasks[:2] == [Task("a", 0), Task("b", 1)]
    assert made == [2, 0, 1]
