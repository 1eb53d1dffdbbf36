"""Cutting a scene into blocks, mapping each, and what is done where that fails."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from scipy.sparse.csgraph import connected_components
from stages import results

import pipeline
from benchmarks.scale.scenes import Scene, alike, apart, ring, street, survey
from pipeline.errors import ArgumentError, EloftrError, LeaseError, ReconstructionError
from pipeline.events import Event, nobody
from pipeline.execute.executor import Executor
from pipeline.reconstruct.blocks.cut import blocks_table, cut_blocks, plan_text
from pipeline.reconstruct.blocks.extract import extract
from pipeline.reconstruct.blocks.graph import STRONGEST, ViewGraph
from pipeline.reconstruct.blocks.options import MOST_IN_ONE, SIZE, BlockOptions
from pipeline.reconstruct.blocks.task import BlockTask, MapBlock, Outcome
from pipeline.reconstruct.mapping import MappingOptions, run_mapper
from pipeline.reconstruct.similarity import umeyama
from pipeline.reconstruct.summary import ReconstructionSummary


def graph_of(count: int, couples: np.ndarray, inliers: np.ndarray) -> ViewGraph:
    first, second = np.sort(couples, axis=1).T
    names = [f"{number:04}.jpg" for number in range(count)]
    return ViewGraph(np.arange(1, count + 1), names, first, second, inliers)


@pytest.fixture(scope="module")
def grid() -> ViewGraph:
    made = survey(16)
    rng = np.random.default_rng(0)
    return graph_of(len(made), made.couples, rng.integers(20, 400, len(made.couples)))


def test_every_image_is_in_the_core_of_one_block(grid: ViewGraph) -> None:
    blocks = cut_blocks(grid, 40, 0.3)
    cores = np.concatenate([block.core for block in blocks])
    assert sorted(cores.tolist()) == grid.images.tolist()
    assert len(blocks) == 7
    for block in blocks:
        assert 25 <= len(block.core) <= 50
        assert len(block.ring) == 12
        assert not {*block.core} & {*block.ring}


def test_every_block_hangs_together(grid: ViewGraph) -> None:
    adjacency = grid.adjacency()
    for block in cut_blocks(grid, 15, 0.3):
        for images in (block.core, block.images):
            rows = np.searchsorted(grid.images, images)
            count, _ = connected_components(adjacency[rows][:, rows])
            assert count == 1


def test_the_ring_holds_the_images_with_most_matches(grid: ViewGraph) -> None:
    block = cut_blocks(grid, 40, 0.3)[2]
    core = np.searchsorted(grid.images, block.core)
    ties = grid.adjacency()[core].sum(axis=0)
    ties[core] = 0
    assert ties[np.searchsorted(grid.images, block.ring)].min() >= np.sort(ties)[-12]


def test_parts_that_are_not_connected_share_no_block() -> None:
    made = apart(6)
    blocks = cut_blocks(graph_of(len(made), made.couples, np.full(len(made.couples), 50)), 20, 0.3)
    sides = [{image <= 36 for image in block.images.tolist()} for block in blocks]
    assert all(len(side) == 1 for side in sides)
    assert {block.part for block in blocks} == {0, 1}


def test_images_without_pairs_are_in_no_block() -> None:
    graph = graph_of(6, np.array([[0, 1], [1, 2], [4, 5]]), np.full(3, 50))
    assert [block.images.tolist() for block in cut_blocks(graph, 20, 0.3)] == [[1, 2, 3]]


def test_the_plan_is_a_table_with_what_a_block_costs(grid: ViewGraph) -> None:
    blocks = cut_blocks(grid, 40, 0.3)
    table = blocks_table(blocks)
    assert table["block"].to_pylist() == [f"{number:05}" for number in range(len(blocks))]
    inside = np.isin(grid.images, blocks[0].images)
    assert table["pairs"][0].as_py() == (inside[grid.first] & inside[grid.second]).sum()
    assert all(megabytes < 2000 for megabytes in table["expected_megabytes"].to_pylist())


def test_pruning_keeps_the_strongest_pairs_and_no_pair_alone_holds_parts_together() -> None:
    count = 80
    couples = np.array([(a, b) for a in range(count) for b in range(a + 1, count)])
    inliers = np.random.default_rng(0).permutation(len(couples)) + 15
    # Two parts that only weak pairs connect.
    across = (couples[:, 0] < 40) & (couples[:, 1] >= 40)
    inliers[across] = 15 + np.arange(across.sum()) % 3
    pruned = graph_of(count, couples, inliers).pruned()
    assert len(pruned.first) < len(couples) / 1.5
    kept = {*zip(pruned.first.tolist(), pruned.second.tolist(), strict=True)}
    for image in range(count):
        mine = np.flatnonzero((couples == image).any(axis=1) & ~across)
        best = mine[np.argsort(-inliers[mine])][:STRONGEST]
        assert {tuple(couples[row].tolist()) for row in best} <= kept
    assert ((pruned.first < 40) & (pruned.second >= 40)).sum() >= 2


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Path]:
    database = tmp_path_factory.mktemp("survey") / "database.db"
    return survey(6).write(database), database


def test_a_graph_is_read_without_pairs_that_have_no_geometry(
    scene: tuple[Scene, Path], tmp_path: Path
) -> None:
    made, database = scene
    graph = ViewGraph.read(database)
    assert graph.images.tolist() == list(range(1, len(made) + 1))
    copy = tmp_path / "database.db"
    copy.write_bytes(database.read_bytes())
    with sqlite3.connect(copy) as opened:
        opened.execute(
            "UPDATE two_view_geometries SET config = 1 WHERE pair_id = ?",
            (int(graph.pair_numbers()[0]),),
        )
    fewer = ViewGraph.read(copy)
    assert fewer.pair_numbers().tolist() == graph.pair_numbers()[1:].tolist()


def test_the_database_of_a_block_holds_its_images_and_their_pairs(
    scene: tuple[Scene, Path], tmp_path: Path
) -> None:
    _, database = scene
    graph = ViewGraph.read(database)
    images = np.array([3, 4, 5, 9, 10, 11])
    extract(database, tmp_path / "block.db", images, graph)
    block = ViewGraph.read(tmp_path / "block.db")
    assert block.images.tolist() == images.tolist()
    inside = np.isin(graph.images, images)
    expected = graph.only(inside[graph.first] & inside[graph.second])
    assert block.pair_numbers().tolist() == expected.pair_numbers().tolist()
    with (
        pycolmap.Database.open(tmp_path / "block.db") as mine,
        pycolmap.Database.open(database) as whole,
    ):
        assert (mine.read_keypoints(9) == whole.read_keypoints(9)).all()
        one, other = (db.read_two_view_geometry(3, 4) for db in (mine, whole))
        assert (one.inlier_matches == other.inlier_matches).all()
        assert len(mine.read_all_cameras()) == 1


def judged(scene: Scene, folder: Path) -> tuple[list[int], float, float]:
    """Numbers of the registered images, and median errors: degrees of relative rotations, and
    metres of positions.
    """
    model = pycolmap.Reconstruction(str(folder))
    images = sorted(model.reg_image_ids())
    rows = np.array(images) - 1
    found = [model.images[number] for number in images]
    centres = np.array([image.projection_center() for image in found])
    scale, R, t = umeyama(centres, scene.centre[rows])
    off = np.linalg.norm(scale * centres @ R.T + t - scene.centre[rows], axis=1)
    rotation = np.array([image.cam_from_world().rotation.matrix() for image in found])
    turns = rotation @ rotation[0].T, scene.rotation[rows] @ scene.rotation[rows[0]].T
    trace = np.einsum("vij,vij->v", *turns)
    angle = np.degrees(np.arccos(((trace - 1) / 2).clip(-1, 1)))
    return images, float(np.median(angle)), float(np.median(off))


def reconstruct(database: Path, output: Path, executor: Executor, **more: Any) -> Any:
    more = {"blocks": 20, "refine": "none", **more}
    return pipeline.reconstruct(database=database, output=output, executor=executor, **more)


def notes(summary: ReconstructionSummary) -> list[str]:
    """Without those that these scenes always have: they have no photographs."""
    always = ("points have no colours", "is a plane")
    return [note for note in summary.notes if not any(text in note for text in always)]


@pytest.mark.parametrize(
    "made", [ring(60), street(60), survey(6)], ids=["ring", "street", "survey"]
)
def test_a_scene_in_blocks_is_one_model_as_exact_as_one_mapper_s(
    made: Scene, tmp_path: Path, kept_executor: Executor
) -> None:
    made.write(tmp_path / "database.db")
    summary = reconstruct(tmp_path / "database.db", tmp_path / "blocks", kept_executor)
    assert [model.images for model in summary.models] == [len(made)]
    assert notes(summary) == []
    (tmp_path / "one").mkdir()
    whole = run_mapper(tmp_path / "database.db", tmp_path / "one", MappingOptions(), nobody)[0]
    whole.write_binary(tmp_path / "one")
    _, *blocks = judged(made, tmp_path / "blocks" / "sparse" / "0")
    images, *one = judged(made, tmp_path / "one")
    assert len(images) == len(made)
    # These scenes are bent easily, so that two adjustments of the same end apart.
    assert blocks[0] < max(1.5 * one[0], 0.3)
    assert blocks[1] < max(1.5 * one[1], 0.3)


def test_scenes_that_nothing_connects_are_two_models(
    tmp_path: Path, kept_executor: Executor
) -> None:
    made = apart(5).write(tmp_path / "database.db")
    summary = reconstruct(tmp_path / "database.db", tmp_path / "out", kept_executor)
    assert [model.images for model in summary.models] == [25, 25]
    for number in range(2):
        images, turn, off = judged(made, tmp_path / "out" / "sparse" / str(number))
        assert len({image <= 25 for image in images}) == 1
        assert turn < 0.5
        assert off < 0.3


def test_two_buildings_that_look_alike_are_not_put_in_one_place(
    tmp_path: Path, kept_executor: Executor
) -> None:
    made = alike(60, 10).write(tmp_path / "database.db")
    summary = reconstruct(tmp_path / "database.db", tmp_path / "out", kept_executor)
    assert [model.images for model in summary.models] == [60]
    images, turn, off = judged(made, tmp_path / "out" / "sparse" / "0")
    assert turn < 1.0
    assert off < 1.5  # the buildings are 150 m apart
    assert len(images) == 60
    assert any("pairs left out" in note and "look alike" in note for note in summary.notes)
    # Blocks of the later cut belong to the pairs that it does without.
    cut = json.loads((tmp_path / "out" / "blocks" / "1" / "cut.json").read_bytes())
    left_out = next(note for note in summary.notes if "pairs left out" in note)
    assert left_out.startswith(f"{len(cut['without'])} pairs left out")
    assert not (tmp_path / "out" / "blocks" / "0" / "cut.json").exists()


def test_a_block_that_cannot_be_mapped_says_so_after_every_way_was_tried(tmp_path: Path) -> None:
    made = Scene(
        np.random.default_rng(0).uniform([-5, -5, 25], [5, 5, 35], (400, 3)),
        np.tile(np.eye(3), (4, 1, 1)),
        np.zeros((4, 3)),  # the camera did not move
        np.array([[0, 1], [1, 2], [2, 3], [0, 3]]),
        far=60.0,
    ).write(tmp_path / "database.db")
    block = BlockTask("00000", np.arange(1, 5), (tmp_path / "database.db").read_bytes())
    mapped = MapBlock(MappingOptions())(block)
    outcome = Outcome(**mapped.summary)
    assert len(made) == outcome.core == 4
    assert outcome.tried == ["incremental", "another initial pair", "global"]
    assert outcome.registered == 0
    assert outcome.failure
    assert mapped.files == {}


def test_a_block_at_which_processes_die_is_given_up() -> None:
    mapped = MapBlock(MappingOptions())(BlockTask("00007", np.arange(5), b""), attempt=3)
    assert Outcome(**mapped.summary).failure == "2 processes died that mapped it"


@pytest.mark.parametrize(("text", "size"), [("auto", None), ("off", 0), ("60", 60)])
def test_blocks_are_given_as_a_text(text: str, size: int | None) -> None:
    assert BlockOptions.parse(text).size == size


@pytest.mark.parametrize("text", ["", "5", "0", "-20", "many", "2.5", "٣٠"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="give"):
        BlockOptions.parse(text)


def test_small_scenes_are_mapped_by_one_mapper() -> None:
    assert BlockOptions().size_for(MOST_IN_ONE) == 0
    assert BlockOptions().size_for(MOST_IN_ONE + 1) == SIZE
    assert BlockOptions(0).size_for(10**6) == 0


def test_a_given_database_stays_as_it_is(
    scene: tuple[Scene, Path], tmp_path: Path, kept_executor: Executor
) -> None:
    made, database = scene
    before = database.read_bytes()
    summary = reconstruct(database, tmp_path / "out", kept_executor, blocks="off")
    assert summary.database.images == summary.models[0].images == len(made)
    assert database.read_bytes() == before
    assert (tmp_path / "out" / "database.db").is_file()


def test_a_dry_run_tells_the_blocks_and_maps_nothing(
    scene: tuple[Scene, Path], tmp_path: Path
) -> None:
    made, database = scene
    plan = pipeline.plan_blocks(database=database, output=tmp_path / "out", blocks=20)
    cores = [image for core in plan["core"].to_pylist() for image in core]
    assert sorted(cores) == list(range(1, len(made) + 1))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"database.db"}
    text = plan_text(plan)
    assert text.splitlines()[-1].startswith("2 blocks, 36 images, about ")
    uncut = pipeline.plan_blocks(database=database, output=tmp_path / "out", blocks="off")
    assert list(map(len, uncut["core"].to_pylist())) == [36]


def test_a_dry_run_keeps_a_finished_model(
    scene: tuple[Scene, Path], kept_executor: Executor, tmp_path: Path
) -> None:
    reconstruct(scene[1], tmp_path / "out", kept_executor, blocks="off", refine="none")
    before = results(tmp_path / "out")
    assert "sparse/0/images.bin" in before
    for place in (tmp_path / "out", (tmp_path / "out").as_uri()):
        pipeline.plan_blocks(database=scene[1], output=place, blocks=20)
        assert results(tmp_path / "out") == before


def test_of_two_commands_on_the_same_results_the_second_is_refused(
    scene: tuple[Scene, Path], tmp_path: Path, kept_executor: Executor
) -> None:
    """Else one would remove what the other makes."""
    database, output = scene[1], tmp_path / "out"
    refused = []

    def listen(event: Event) -> None:
        if event.name == "imported":
            for command in (pipeline.reconstruct, pipeline.plan_blocks):
                with pytest.raises(LeaseError, match="another command, process"):
                    command(database=database, output=output, executor=kept_executor)
                refused.append(command)

    reconstruct(database, output, kept_executor, progress=listen)
    assert len(refused) == 2
    assert not (output / "run.lock").exists()


def test_a_database_is_not_replaced_by_itself(scene: tuple[Scene, Path], tmp_path: Path) -> None:
    (tmp_path / "database.db").symlink_to(scene[1])
    before = scene[1].read_bytes()
    with pytest.raises(ReconstructionError, match="of the results themselves; give another"):
        pipeline.reconstruct(database=scene[1], output=tmp_path)
    assert scene[1].read_bytes() == before


def test_what_is_no_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all, but long enough to have a header" * 20)
    sqlite3.connect(tmp_path / "empty.db").close()
    for name, cure in (
        ("absent.db", "no such file"),
        ("text.db", "COLMAP"),
        ("empty.db", "COLMAP"),
    ):
        with pytest.raises(ReconstructionError, match=cure):
            pipeline.reconstruct(database=tmp_path / name, output=tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_run_or_a_database_is_given_and_a_place_for_results(
    scene: tuple[Scene, Path], tmp_path: Path
) -> None:
    for arguments in ({}, {"run": str(tmp_path), "database": scene[1]}):
        with pytest.raises(EloftrError, match="either a run or a database"):
            pipeline.reconstruct(**arguments)
    with pytest.raises(ReconstructionError, match="--output"):
        pipeline.reconstruct(database=scene[1])
