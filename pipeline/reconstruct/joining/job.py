"""Map a database in blocks through an executor, and join them; a run that was stopped goes on.

    database.db → blocks/0/plan.parquet (BLOCKS)
                → blocks/0/models/BLOCK/0 …, blocks/0/done/BLOCK.json, one a block
                → blocks/1/ …  the same, where the scene is cut anew
                → mapped/0 …  the joined models

A block's marker is written last, so the markers alone say what is done. `blocks.json` names the
database and the options that they belong to, and `cut.json` of a later cut the pairs that it does
without. Files of others are removed. Where the results go to a URL, blocks are published there as
they are mapped, and `mapped` stays in the working folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.events import Event, Listener, Progress, counted
from pipeline.execute.executor import MadeTasks, Stage
from pipeline.reconstruct.blocks.cut import Block, blocks_table, cut_blocks
from pipeline.reconstruct.blocks.extract import extract
from pipeline.reconstruct.blocks.graph import MOST_IMAGES, ViewGraph
from pipeline.reconstruct.blocks.options import BlockOptions
from pipeline.reconstruct.blocks.task import LEAST_CORE, BlockTask, Outcome, make_mapper
from pipeline.reconstruct.carrying import Carrying
from pipeline.reconstruct.depth import listed
from pipeline.reconstruct.joining.alike import pairs_alike
from pipeline.reconstruct.joining.joined import (
    Unsettled,
    assemble,
    joined_models,
    settled,
    unsettled,
)
from pipeline.reconstruct.joining.merge import TrackSource
from pipeline.reconstruct.mapping import MappedModels, MappingOptions, keep_models
from pipeline.reconstruct.positions.trusted import TrustedPositions
from pipeline.store.belonging import keep_what_belongs
from pipeline.store.folder import Folder
from pipeline.store.results import Results

VERSION = 1  # counts up when the same database and options give other models
BLOCKS_FOLDER = "blocks"
MOST_CUTS = 3  # times that a scene is cut, each without more pairs between look-alikes


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of a scene, and the graph that they were cut from.

    pairs: COLMAP's numbers of all pairs that count, also of those that are too many for mapping.
    """

    graph: ViewGraph
    blocks: list[Block]
    pairs: np.ndarray


@dataclass(frozen=True)
class Contradiction:
    """Blocks contradict each other. pairs: COLMAP's numbers of those between look-alikes."""

    pairs: np.ndarray


def plan_scene(
    database: Path, size: int, options: BlockOptions, without: Sequence[int] = ()
) -> BlockPlan:
    """The blocks of a COLMAP database, about `size` images each.

    without: COLMAP's numbers of pairs that do not count.
    """
    graph = ViewGraph.read(database)
    graph = graph.only(~np.isin(graph.pair_numbers(), [*without]))
    pruned = graph.pruned()
    return BlockPlan(pruned, cut_blocks(pruned, size, options.ring), graph.pair_numbers())


def map_blocks(
    database: Path,
    results: Results,
    size: int,
    options: BlockOptions,
    mapping: MappingOptions,
    positions: TrustedPositions | None,
    colours: Path | None,
    carrying: Carrying,
) -> MappedModels:
    """Map all blocks that are not mapped yet, join them, and write `mapped/0` ….

    Where blocks contradict each other, pairs between places that look alike are left out, and the
    scene is cut and mapped anew.

    positions: of images; they change how blocks are joined.
    colours: folder of the photographs, or None for points without colours.
    """
    listen = carrying.listen
    blocks = results.below(BLOCKS_FOLDER)
    _begin(database, blocks.folder, size, options, mapping)
    without: list[int] = []
    for attempt in range(MOST_CUTS):
        plan = plan_scene(database, size, options, without)
        files = blocks.below(str(attempt))
        if without:  # which pairs these are also depends on the positions
            keep_what_belongs(files.folder, "cut.json", {"without": sorted(without)})
        outcomes = _map(plan, database, files, mapping, carrying)
        models = files.below("models")
        models.fetch()
        where = database, results.work, models.work
        last = attempt == MOST_CUTS - 1
        made: MappedModels | Unsettled | Contradiction = carrying.colmap.ask_watched(
            *(_join, *where, plan, outcomes, options, mapping, positions, colours, last),
            listen=listen,
        )
        if not isinstance(made, Contradiction):
            break
        without += made.pairs.tolist()
        text = f"{counted(len(made.pairs), 'pair')} left out between places that look alike"
        listen(Event("contradiction", text, {"pairs": len(made.pairs)}))
    assert not isinstance(made, Contradiction)  # the last attempt contradicts nothing
    if isinstance(made, Unsettled):
        tracks = TrackSource(database, plan.pairs)
        made = settled(made, plan.blocks, tracks, results.work, mapping, colours, carrying)
    return replace(made, notes=[*_left_out(plan.graph, without), *made.notes])


def _map(
    plan: BlockPlan, database: Path, files: Results, mapping: MappingOptions, carrying: Carrying
) -> dict[str, Outcome]:
    """Map the blocks that are not mapped yet, and publish each as it is done."""
    files.work.mkdir(parents=True, exist_ok=True)
    files.folder.publish_table("plan.parquet", blocks_table(plan.blocks))
    done = files.folder.done_names()
    todo = [block for block in plan.blocks if block.name not in done]
    text = f"{counted(len(plan.blocks), 'block')}, {len(plan.blocks) - len(todo)} mapped"
    carrying.listen(Event("blocks", text, {"blocks": len(plan.blocks), "todo": len(todo)}))
    if todo:
        carrying.executor.start()
        progress = Progress(len(todo), "blocks", carrying.listen)
        # Large blocks come first, so that no process is left alone with one at the end.
        todo = sorted(todo, key=lambda block: (-block.pairs, block.name))
        scratch = files.work / ".block.db"

        def made(row: int) -> BlockTask:
            extract(database, scratch, todo[row].images, plan.graph)
            task = BlockTask(todo[row].name, todo[row].core, scratch.read_bytes())
            scratch.unlink()
            return task

        tasks = MadeTasks([block.name for block in todo], made)
        stage = Stage("map", partial(make_mapper, mapping))
        results = carrying.executor.run([stage], tasks, carrying.actors, carrying.listen)
        try:
            for result in results:
                for name, data in result.files.items():
                    files.publish(f"models/{result.name}/{name}", data)
                files.folder.mark_done(result.name, result.summary)
                failed = bool(result.summary["failure"])
                progress.advance(1, int(failed))
                status = "failed" if failed else "mapped"
                carrying.executor.count("eloftr_blocks", 1, {"status": status})
        finally:
            results.close()
    return {block.name: Outcome(**files.folder.read_done(block.name)) for block in plan.blocks}


def _begin(
    database: Path, files: Folder, size: int, options: BlockOptions, mapping: MappingOptions
) -> None:
    """Remove what belongs to another database or other options, and say what this belongs to."""
    digest = hashlib.sha256()
    with database.open("rb") as opened:
        while part := opened.read(1 << 24):
            digest.update(part)
    made_of = {
        "version": VERSION,
        "database": digest.hexdigest(),
        "size": size,
        "ring": options.ring,
        "mapping": {
            **asdict(replace(mapping, fixed_cameras=frozenset(), priors={})),
            "fixed_cameras": sorted(mapping.fixed_cameras),
            "priors": {str(camera): focal for camera, focal in sorted(mapping.priors.items())},
        },
    }
    keep_what_belongs(files, "blocks.json", made_of)


def _join(
    database: Path,
    target: Path,
    folder: Path,
    plan: BlockPlan,
    outcomes: dict[str, Outcome],
    options: BlockOptions,
    mapping: MappingOptions,
    positions: TrustedPositions | None,
    colours: Path | None,
    last: bool,
    listen: Listener,
) -> MappedModels | Unsettled | Contradiction:
    """Join the models of all blocks, which are in a folder; runs in the process of COLMAP.

    last: whether pairs between look-alikes may be left out no more.
    """
    cores = {block.name: block.core for block in plan.blocks}
    models = [
        (f"{name}/{number}", folder / name / str(number), cores[name])
        for name, outcome in outcomes.items()
        for number in range(len(outcome.images))
    ]
    listen(Event("joining", f"joining {counted(len(models), 'model')} of blocks"))
    assembly = assemble(models, positions, listen)
    if assembly.joins.doubted and not last:
        graph = plan.graph
        pairs = pairs_alike(database, graph, assembly.doubted_images())
        without = graph.only(~np.isin(graph.pair_numbers(), pairs))
        # Pairs that alone hold a part together are what the scene consists of.
        if len(pairs) and len(without.components()) == len(graph.components()):
            return Contradiction(pairs)
    tracks = TrackSource(database, plan.pairs)
    joined, notes = joined_models(assembly, tracks, plan.graph, options, mapping, listen)
    notes = [*_notes(outcomes), *notes]
    waiting = unsettled(joined, target, options, notes)
    return waiting or replace(keep_models(joined, target, mapping, colours), notes=notes)


def _left_out(graph: ViewGraph, pairs: Sequence[int]) -> list[str]:
    """A sentence about pairs between look-alikes."""
    if not pairs:
        return []
    named = dict(zip(graph.images.tolist(), graph.names, strict=True))
    shown = [
        " – ".join(named[side] for side in divmod(number, MOST_IMAGES)) for number in sorted(pairs)
    ]
    return [
        f"{counted(len(pairs), 'pair')} left out, which match in a part of what both images show "
        f"and contradict the others, as places that look alike do: {listed(shown)}"
    ]


def _notes(outcomes: dict[str, Outcome]) -> list[str]:
    """A sentence for every block that was not mapped as planned."""
    notes = []
    for name, outcome in outcomes.items():
        if outcome.failure:
            notes.append(f"block {name} of {outcome.core} images has no model: {outcome.failure}")
        elif outcome.registered < LEAST_CORE * outcome.core:
            notes.append(
                f"block {name}: its largest model has {outcome.registered} of {outcome.core} "
                f"images after {', '.join(outcome.tried)}"
            )
    return notes
