"""The rounds of a run in which pairs are tried again at other turns.

    the tables of the rounds before → the plan of the next round, or that nothing is left to try

plan/round_<n>.parquet   the views and pairs of round n, written before the round begins
probes/<shard>.parquet   the coarse matches of pairs between parts, at every turn
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StorageError
from pipeline.match.plan import SHARD_SIZES
from pipeline.match.run import Run
from pipeline.match.shards import PlannedShard, plan_shards
from pipeline.match.turns.probe import planned_probe
from pipeline.match.turns.rounds import Seen, again, guessed, headings_of, likely, to_probe
from pipeline.match.turns.tries import SIDES, by_round
from pipeline.photos.direction import XMP_BYTES, heading
from pipeline.tables import PROBES, TURNED, ragged
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
        tried = self._tried(number, names)
        views = again(seen, tried)
        if not len(views):
            views = guessed(seen, self._headings(seen), tried)
        if not len(views):
            views = self._probed(seen, number, names, tried)
        return self._shards(views, number)

    def _tried(self, number: int, names: pa.Array) -> np.ndarray:
        """(T, 3): the pairs of the rounds before, and the turn of image 1 against image 0."""
        index = {name: k for k, name in enumerate(names.to_pylist())}
        first = np.hstack(
            [self.run.plan.pairs.pairs, np.zeros((len(self.run.plan.pairs.pairs), 1))]
        )
        rows = [first.astype(np.int64)]
        for before in range(1, number):
            plan = self.run.folder.read_table(f"plan/round_{before:02}.parquet")
            for row in plan.to_pylist():
                images = [index[name] for name in row["images"]]
                rows.append(
                    np.array(
                        [
                            (images[i], images[j], row["turns"][j] - row["turns"][i])
                            for i, j in row["pairs"]
                        ]
                    )
                )
        return np.concatenate(rows)

    def _headings(self, seen: Seen) -> np.ndarray:
        """Headings of the images of pairs between parts; their files' first bytes are read."""
        first, second = seen.pairs.T
        apart = seen.open() & (seen.part[first] != seen.part[second])

        def of_file(name: str) -> float | None:
            try:
                return heading(self.run.source.read_bytes(name, limit=XMP_BYTES))
            except (StorageError, OSError):
                return None

        return headings_of(np.unique(seen.pairs[apart]), self.run.plan.names, of_file)

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
        sides = np.concatenate([views[:, [0, 2]], views[:, [1, 3]]])
        distinct, which = np.unique(sides, axis=0, return_inverse=True)
        pairs = which.reshape(2, -1).T
        shards = plan_shards(pairs, *SHARD_SIZES[self.device])
        names = self.run.plan.names
        columns = [
            pa.array([f"{number:02}-{k:08}" for k in range(len(shards))], pa.string()),
            pa.array(
                [[names[distinct[v, 0]] for v in shard.images] for shard in shards],
                TURNED.field("images").type,
            ),
            ragged([shard.pairs for shard in shards], TURNED.field("pairs").type),
            pa.array(
                [[int(distinct[v, 1]) for v in shard.images] for shard in shards],
                TURNED.field("turns").type,
            ),
            pa.array([[1.0] * len(shard.images) for shard in shards], TURNED.field("scales").type),
        ]
        return pa.Table.from_arrays(columns, schema=TURNED)
