"""The rounds of a run in which pairs are tried again at other turns.

    the tables of the rounds before → the plan of the next round, or that nothing is left to try

plan/round_<n>.parquet   the views and pairs of round n, written before the round begins
probes/<shard>.parquet   the coarse matches of pairs between parts, at every turn
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.plan import SHARD_SIZES
from pipeline.match.run import Run
from pipeline.match.shards import PlannedShard, plan_views, planned_shards
from pipeline.match.turns.probe import planned_probe
from pipeline.match.turns.rounds import Seen, again, guessed, is_survey, likely, to_probe
from pipeline.match.turns.tries import SIDES, by_round
from pipeline.tables import PROBES, TURNED
from pipeline.vocabulary import Device

MOST_ROUNDS = 8
Probe = Callable[[list[PlannedShard]], None]  # carries out probes


@dataclass(frozen=True)
class TurnSearch:
    """Decides the rounds of one run. turns: how many are probed. probe: carries probes out."""

    run: Run
    turns: int
    device: Device
    probe: Probe

    def rounds(self) -> Iterator[tuple[int, pa.Table]]:
        """The number and the plan (TURNED) of every round.

        A round is done before the next one is asked for. Nothing is tried again in a run that was
        made before turns were known.
        """
        folder, shards = self.run.folder, self.run.plan.shards
        if len(folder.names("turns")) < len(shards):
            return
        for number in range(1, MOST_ROUNDS + 1):
            name = f"plan/round_{number:02}.parquet"
            if folder.exists(name):
                plan = folder.read_table(name)
            else:
                plan = self._plan(number)
                if not plan.num_rows:
                    return
                folder.publish_table(name, plan)
            yield number, plan

    def _plan(self, number: int) -> pa.Table:
        names = pa.array(self.run.plan.names, pa.string())
        folder = self.run.folder
        seen = Seen.of([folder.read_table(name) for name in by_round(folder.names("turns"))], names)
        headings = self.run.headings()
        tried = self._tried(number, names, with_first=not is_survey(seen, headings))
        views = np.concatenate([again(seen, tried), guessed(seen, headings, tried)])
        if not len(views):
            views = self._probed(seen, number, names, tried)
        return self._shards(views, number)

    def _tried(self, number: int, names: pa.Array, with_first: bool) -> np.ndarray:
        """(T, 3): the pairs of the rounds before, and the turn of image 1 against image 0.

        with_first: whether the first round counts.
        """
        plans = [self.run.plan.shards] if with_first else []
        plans += [
            self.run.folder.read_table(f"plan/round_{before:02}.parquet")
            for before in range(1, number)
        ]
        index = {name: k for k, name in enumerate(names.to_pylist())}
        rows = []
        for shard in itertools.chain.from_iterable(map(planned_shards, plans)):
            image = np.array([index[name] for name in shard.images])
            turns = np.array([view.turn for view in shard.views] or [0] * len(image))
            first, second = shard.pairs.T
            rows.append(
                np.stack([image[first], image[second], turns[second] - turns[first]], axis=1)
            )
        return np.concatenate([np.empty((0, 3), np.int64), *rows])

    def _probed(self, seen: Seen, number: int, names: pa.Array, tried: np.ndarray) -> np.ndarray:
        """Views of the pairs between parts that a probe found to be likely."""
        folder, mine = self.run.folder, f"probes/{number:02}-"
        done = folder.names("probes")
        before = self._probes([name for name in done if not name.startswith(mine)])
        columns = [pc.index_in(before[side], value_set=names).to_numpy() for side in SIDES]
        pairs = to_probe(seen, np.unique(np.stack(columns, axis=1), axis=0))
        planned = []
        for k, (image0, image1) in enumerate(pairs.tolist()):
            sides = names[image0].as_py(), names[image1].as_py()
            planned.append(planned_probe(f"{number:02}-{k:08}", *sides, turns=self.turns))
        left = [one for one in planned if f"probes/{one.shard}.parquet" not in done]
        if left:
            self.probe(left)
        return likely(
            self._probes([f"probes/{one.shard}.parquet" for one in planned]), names, tried
        )

    def _probes(self, files: list[str]) -> pa.Table:
        tables = [self.run.folder.read_table(name) for name in files]
        return pa.concat_tables([PROBES.empty_table(), *tables])

    def _shards(self, views: np.ndarray, number: int) -> pa.Table:
        """Views of pairs (M, 4) → TURNED, an image encoded once for each turn of a shard."""
        if not len(views):
            return TURNED.empty_table()
        sizes = SHARD_SIZES[self.device]
        named = f"{number:02}-{{:08}}".format
        return plan_views(self.run.plan.names, views, *sizes, named=named)
