"""New pairs across the gaps of a survey: photographs of three strips whose list pairs no strips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_process import tables
from pictures import views
from PIL import Image

import pipeline
from pipeline.events import Event
from pipeline.match.turns.gaps import ACROSS, across_gaps
from pipeline.match.turns.graph import parts_of
from pipeline.match.turns.rounds import Seen
from pipeline.match.turns.tries import settled_matches
from pipeline.report.text import summary_text
from pipeline.store.folder import Folder

pytestmark = pytest.mark.usefixtures("kept_processes")

QUICK: dict[str, Any] = {"long_side": 192, "executor": "local", "scales": "off"}
STRIPS = ((0, 1), (2, 3), (4, 5))


def seen_of(pairs: list[tuple[int, int]], count: int, verified: int) -> Seen:
    """What is known of pairs of which the first ones are verified."""
    of = np.array(pairs)
    turn = np.where(np.arange(len(of)) < verified, 0.0, np.nan)
    nothing, zero = np.zeros(len(of), bool), np.zeros(count)
    part = parts_of(of[:verified], count)
    return Seen(of, 90 * ~np.isnan(turn), turn, turn, nothing, zero, zero, part)


def test_the_nearest_pairs_between_parts_are_tried_once() -> None:
    where = np.stack([np.arange(8.0), np.zeros(8), np.zeros(8)], axis=1)
    chain = [(0, 1), (1, 2), (4, 5), (5, 6), (6, 7), (2, 3)]
    seen = seen_of(chain, 8, verified=5)
    # The median distance is 1, and pairs of up to twice as much count.
    assert across_gaps(seen, where, 99).tolist() == [[1, 3], [2, 4], [3, 4], [3, 5]]
    assert across_gaps(seen, where, 1).tolist() == [[3, 4]]
    where[3] = np.nan
    assert across_gaps(seen, where, 99).tolist() == [[2, 4]]
    assert len(across_gaps(seen, np.full((8, 3), np.nan), 99)) == 0


def test_every_two_parts_get_a_few_pairs() -> None:
    where = np.random.default_rng(0).uniform(0, 1, (20, 3))
    chain = [(i, i + 2) for i in range(18)]  # odd numbers and even ones
    assert len(across_gaps(seen_of(chain, 20, len(chain)), where, 99)) == ACROSS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos`, views of one texture a few metres apart, of which one is upside down."""
    place = tmp_path_factory.mktemp("gaps")
    (place / "photos").mkdir()
    for k, picture in enumerate(views(6, (192, 144))):
        exif = Image.Exif()
        exif[0x8825] = {1: "N", 2: (50, 30, k / 10), 3: "E", 4: (7, 30, 0)}
        turned = picture.rotate(180) if k == 1 else picture
        turned.save(place / "photos" / f"{k}.jpg", exif=exif, quality=95)
    listed = [*STRIPS, (1, 2)]
    (place / "pairs.txt").write_text("".join(f"{i}.jpg {j}.jpg\n" for i, j in listed))
    return place


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    """The summary of the run `whole`."""
    pairs = place / "pairs.txt"
    return dict(pipeline.match(place / "photos", place / "whole", pairs=pairs, **QUICK))


def test_a_survey_in_parts_is_joined(place: Path, whole: dict[str, Any]) -> None:
    found = [
        sorted(int(row[side][0]) for side in ("image0", "image1"))
        for _, table in settled_matches(Folder(str(place / "whole")))
        for row in table.to_pylist()
        if row["num_inliers"]
    ]
    assert len(found) == len({tuple(pair) for pair in found}) == whole["verified"]
    assert parts_of(np.array(found), 6).max() == 0
    extra = whole["pairs"] - whole["planned_pairs"]
    assert (whole["planned_pairs"], extra > 0) == (4, True)
    line = f"pairs:        4 planned, and {extra} across gaps\n"
    assert line in summary_text(whole, "whole")  # type: ignore[arg-type]


def test_photographs_that_are_all_upright_and_no_survey_keep_their_parts(
    place: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.txt").write_text("2.jpg 3.jpg\n4.jpg 5.jpg\n")
    pairs = tmp_path / "pairs.txt"
    summary = pipeline.match(place / "photos", tmp_path / "run", pairs=pairs, **QUICK)
    assert (summary["pairs"], summary["verified"]) == (2, 2)


def test_a_run_that_is_stopped_at_a_gap_goes_on_to_the_same_bytes(
    place: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    rounds = len([*(place / "whole" / "plan").glob("round_*")])

    def stop(event: Event) -> None:
        if event.name == "turns" and event.fields["round"] == rounds:
            raise Stop

    asked = {"pairs": place / "pairs.txt", **QUICK}
    with pytest.raises(Stop):
        pipeline.match(place / "photos", tmp_path / "run", progress=stop, **asked)
    pipeline.match(place / "photos", tmp_path / "run", **asked)
    assert tables(tmp_path / "run") == tables(place / "whole")
