"""The rounds of a run in which pairs are tried again in other views.

    the tables of the rounds before → the plan of the next round, or that nothing is left to try

plan/round_<n>.parquet   the views and pairs of round n, written before the round begins
probes/<shard>.parquet   the coarse matches of pairs between parts, at every turn; where the name
                         has an s, at every ratio of sizes
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.match.options import LADDER
from pipeline.match.plan import SHARD_SIZES
from pipeline.match.run import Run
from pipeline.match.shards import PlannedShard, plan_views, planned_shards
from pipeline.match.turns.chains import (
    PLANE_COLUMNS,
    asked_before,
    chained,
    guided_table,
    through_neighbours,
)
from pipeline.match.turns.gaps import across_gaps
from pipeline.match.turns.probe import planned_ladder, planned_probe, probe_file
from pipeline.match.turns.rounds import (
    Seen,
    again,
    best_turns,
    by_headings,
    fitting_views,
    guessed,
    is_scaled,
    is_survey,
    likely,
    most_probes,
    second_chances,
    to_probe,
)
from pipeline.match.turns.tries import SIDES, by_round, round_of
from pipeline.pairs.spatial import exif_positions
from pipeline.photos.turns import View, views_between
from pipeline.tables import PROBES, TURNED
from pipeline.vocabulary import Device

MOST_ROUNDS = 12
OF_SCALES = "-s"  # in the names of probes of several scales
SHAPE_COLUMNS = ("image", "width", "height")
Probe = Callable[[list[PlannedShard]], None]  # carries out probes


@dataclass(frozen=True)
class ViewSearch:
    """Decides the rounds of one run, within its options. probe: carries probes out."""

    run: Run
    device: Device
    probe: Probe

    def rounds(self) -> Iterator[tuple[int, pa.Table, bool]]:
        """The number and the plan (TURNED) of every round, and whether its views are known.

        Views are known where verified pairs tell them, and guesses of headings and probes are not.
        A round is done before the next one is asked for. Nothing is tried again in a run that was
        made before turns were known.
        """
        folder, shards = self.run.folder, self.run.plan.shards
        if len(folder.names("turns")) < len(shards):
            return
        names = pa.array(self.run.plan.names, pa.string())
        for number in range(1, MOST_ROUNDS + 1):
            earlier = [one for one in folder.names("turns") if round_of(one) < number]
            tables = [folder.read_table(one, Seen.COLUMNS) for one in by_round(earlier)]
            seen = Seen.of(tables, names)
            name = f"plan/round_{number:02}.parquet"
            if folder.exists(name):
                plan = folder.read_table(name)
            else:
                plan = self._plan(number, seen, earlier)
                if not plan.num_rows:
                    return
                folder.publish_table(name, plan)
            i, j = self._tried([plan], names)[:, :2].astype(int).T
            yield number, plan, bool((seen.part[i] == seen.part[j]).all())

    def _plan(self, number: int, seen: Seen, earlier: Sequence[str]) -> pa.Table:
        names = pa.array(self.run.plan.names, pa.string())
        folder = self.run.folder
        rounds = [folder.read_table(f"plan/round_{n:02}.parquet") for n in range(1, number)]
        later = self._tried(rounds, names)
        tried = np.concatenate([self._tried([self.run.plan.shards], names), later])
        turning, scaling = self.run.options.turns > 0, self.run.options.scales > 0
        headings, sizes = self.run.headings(), self.run.sizes()
        survey = is_survey(seen, headings)
        found = [again(seen, tried, turning, scaling)]
        if survey:
            found.append(second_chances(seen, later, turning, scaling))
        views = np.unique(np.concatenate(found), axis=0)
        if not len(views):
            views = guessed(seen, headings, sizes, later if survey else tried)
        if turning and not len(views):
            most = most_probes(len(seen.pairs), survey)
            views = likely(self._turns(seen, number, names, most), names, tried)
        if scaling and not len(views):
            most = most_probes(len(seen.pairs), is_scaled(seen))
            views = likely(self._ladder(seen, number, names, most), names, tried)
        if survey and not len(views):
            guided = self._through_neighbours(seen, rounds, earlier, number)
            if guided.num_rows:
                return guided
            views = self._across_gaps(seen, headings, sizes)
        return self._shards(views, number)

    def _through_neighbours(
        self, seen: Seen, rounds: Sequence[pa.Table], earlier: Sequence[str], number: int
    ) -> pa.Table:
        """GUIDED of the pairs of a survey that are open or weak, and that a neighbour tells of.

        earlier: the tables of turns of the rounds before.
        """
        names, options = self.run.plan.names, self.run.options
        least = options.verification.min_num_inliers
        through = through_neighbours(seen, least, asked_before(rounds, names))
        tables = (self.run.folder.read_table(one, PLANE_COLUMNS) for one in by_round(earlier))
        shapes = self._shapes(earlier) if through else np.empty((0, 2))
        guides = chained(through, tables, pa.array(names, pa.string()), shapes)
        chosen = np.array([(i, j) in guides for i, j in seen.pairs.tolist()], bool)
        how = options.turns > 0, options.scales > 0
        views = fitting_views(seen, chosen, seen.size_by_neighbours(), *how)
        return guided_table(self._shards(views, number), names, guides)

    def _shapes(self, earlier: Sequence[str]) -> np.ndarray:
        """Width and height of the images, (n, 2) pixels, NaN of those that were not read."""
        row = {name: k for k, name in enumerate(self.run.plan.names)}
        found = np.full((len(row), 2), np.nan)
        for one in earlier:
            shown = self.run.folder.read_table(one.replace("turns", "images", 1), SHAPE_COLUMNS)
            for image in shown.to_pylist():
                found[row[image["image"]]] = image["width"], image["height"]
        return found

    def _across_gaps(self, seen: Seen, headings: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(M, 6): new pairs of a survey that would join parts which its pairs do not join."""
        used = np.unique(seen.pairs[~seen.failed])
        if len(np.unique(seen.part[used])) == 1:
            return np.empty((0, 6))
        names = self.run.plan.names
        positions = exif_positions(self.run.source, [names[k] for k in used])
        row = {name: k for k, name in enumerate(names)}
        where = np.full((len(names), 3), np.nan)
        where[[row[name] for name in positions.names]] = positions.metres
        pairs = across_gaps(seen, where, most_probes(len(self.run.plan.pairs.pairs), True))
        return by_headings(pairs, headings, sizes)

    def _tried(self, plans: Sequence[pa.Table], names: pa.Array) -> np.ndarray:
        """(T, 4): the pairs of some plans, and the views in which they are tried."""
        index = {name: k for k, name in enumerate(names.to_pylist())}
        rows = [np.empty((0, 4))]
        for shard in itertools.chain.from_iterable(map(planned_shards, plans)):
            images = np.array([index[name] for name in shard.images])
            views = shard.views or [View()] * len(images)
            rows.append(np.hstack([images[shard.pairs], views_between(views, shard.pairs)]))
        return np.concatenate(rows)

    def _turns(self, seen: Seen, number: int, names: pa.Array, most: int) -> pa.Table:
        """PROBES of the pairs between parts that tell most, at several turns."""
        turns = self.run.options.turns

        def planned(name: str, image0: str, image1: str) -> PlannedShard:
            return planned_probe(name, image0, image1, turns)

        return self._probed(seen, number, names, most, "", planned)

    def _ladder(self, seen: Seen, number: int, names: pa.Array, most: int) -> pa.Table:
        """PROBES of the pairs between parts that tell most, at several scales.

        Image 1 is upright, and at the turn that has most matches where turns were probed.
        """
        ratios = (1.0, *LADDER[: self.run.options.scales])
        files = [name for name in self.run.folder.names("probes") if OF_SCALES not in name]
        turn_of = best_turns(self._probes(files))

        def planned(name: str, image0: str, image1: str) -> PlannedShard:
            turns = sorted({0, turn_of.get((image0, image1), 0)})
            return planned_ladder(name, image0, image1, turns, ratios)

        return self._probed(seen, number, names, most, OF_SCALES[1:], planned)

    def _probed(
        self,
        seen: Seen,
        number: int,
        names: pa.Array,
        most: int,
        letter: str,
        planned_of: Callable[[str, str, str], PlannedShard],
    ) -> pa.Table:
        """PROBES of at most so many pairs between parts that no round before has probed.

        letter: stands in the names of the probes of one kind. planned_of: plans the probe of two
        images under a name.
        """
        done = self.run.folder.names("probes")
        mine, kind = f"probes/{number:02}-{letter}", OF_SCALES in f"-{letter}"
        before = self._probes(
            [name for name in done if not name.startswith(mine) and (OF_SCALES in name) == kind]
        )
        columns = [pc.index_in(before[side], value_set=names).to_numpy() for side in SIDES]
        pairs = to_probe(seen, np.unique(np.stack(columns, axis=1), axis=0), most)
        planned = [
            planned_of(f"{number:02}-{letter}{k:08}", names[i].as_py(), names[j].as_py())
            for k, (i, j) in enumerate(pairs.tolist())
        ]
        left = [one for one in planned if probe_file(one.shard) not in done]
        if left:
            self.probe(left)
        return self._probes([probe_file(one.shard) for one in planned])

    def _probes(self, files: list[str]) -> pa.Table:
        tables = [self.run.folder.read_table(name) for name in files]
        # Tables of an older version lack a column.
        return pa.concat_tables([PROBES.empty_table(), *tables], promote_options="default")

    def _shards(self, views: np.ndarray, number: int) -> pa.Table:
        """Views of pairs (M, 6) → TURNED, an image encoded once for each view of a shard."""
        if not len(views):
            return TURNED.empty_table()
        sizes = SHARD_SIZES[self.device]
        named = f"{number:02}-{{:08}}".format
        return plan_views(self.run.plan.names, views, *sizes, named=named)
