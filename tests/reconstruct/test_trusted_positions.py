"""Models in metres by trusted positions, and blocks that are joined by them."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pycolmap
import pytest
from scipy.spatial.transform import Rotation
from test_documentation import commands, shape

import pipeline
from benchmarks.scale.scenes import Scene, apart, survey
from pipeline.cli import main
from pipeline.errors import ArgumentError, EloftrError, PairListError, ReconstructionError
from pipeline.execute.executor import Executor
from pipeline.pairs.spatial import east_north_up, geodetic, on_earth
from pipeline.reconstruct.joining.join import Join
from pipeline.reconstruct.joining.piece import Piece
from pipeline.reconstruct.joining.place import place_pieces
from pipeline.reconstruct.positions.align import align_models
from pipeline.reconstruct.positions.fit import Anchors, Fit
from pipeline.reconstruct.positions.trusted import PositionOptions, trusted_positions
from pipeline.reconstruct.similarity import Similarity, umeyama
from pipeline.reconstruct.summary import ReconstructionSummary
from pipeline.reconstruct.tracks.scene import ModelViews

PRAGUE = np.array([50.0865, 14.4114, 180.0])
NOISE = 0.2
WRONG = 7  # the image whose position is 100 m off


def name_of(row: int) -> str:
    return f"{row:06}.jpg"


def write_table(path: Path, places: np.ndarray, header: str, rows: Sequence[int] = ()) -> Path:
    """A table of the positions of the images with these rows, by default of all."""
    lines = [
        f"{name_of(row)},{','.join(f'{value:.9f}' for value in places[row])}"
        for row in rows or range(len(places))
    ]
    path.write_text("\n".join([f"image,{header}", *lines]) + "\n")
    return path


def measured(scene: Scene, noise: float = NOISE) -> np.ndarray:
    """The true places (N, 3) with noise; one is wrong."""
    places = scene.centre + np.random.default_rng(0).normal(0, noise, scene.centre.shape)
    places[WRONG] += [60, -80, 0]
    return places


def degrees(metres: np.ndarray) -> np.ndarray:
    """Latitudes, longitudes and altitudes of metres to the east, north and up of a place."""
    middle = on_earth(PRAGUE[None], height=True)
    axes = east_north_up(middle + np.eye(3), PRAGUE)
    return np.array([geodetic(place) for place in middle + metres @ axes.T])


def off_truth(truth: np.ndarray, model: Path) -> tuple[list[int], np.ndarray]:
    """Rows of the registered images, and metres from each to its true place. Nothing is aligned."""
    made = pycolmap.Reconstruction(str(model))
    rows = np.array(sorted(made.reg_image_ids())) - 1
    centres = np.array([made.images[row + 1].projection_center() for row in rows.tolist()])
    return rows.tolist(), np.linalg.norm(centres - truth[rows], axis=1)


class Mapped(NamedTuple):
    """A survey whose blocks are mapped, and what the command of the document printed of it."""

    scene: Scene
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def documented() -> Any:
    (command,) = [one for one in commands() if "--position-error 0.2" in one.text]
    return command


@pytest.fixture(scope="module")
def mapped(documented: Any, tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    folder = tmp_path_factory.mktemp("positions")
    scene = survey(6).write(folder / "survey.db")
    places = degrees(measured(scene))
    write_table(folder / "rtk.csv", places, "latitude,longitude,altitude")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(printed):
        patched.chdir(folder)
        assert main(shlex.split(documented.text)[1:]) == 0
    return Mapped(scene, folder, printed.getvalue())


def again(mapped: Mapped, output: Path, executor: Executor, **more: Any) -> ReconstructionSummary:
    """Reconstruct with blocks that are mapped already."""
    if not output.exists():
        shutil.copytree(mapped.folder / "model", output)
    more = {"blocks": 20, "refine": "none", **more}
    database = mapped.folder / "survey.db"
    return pipeline.reconstruct(database=database, output=output, executor=executor, **more)


def test_the_command_prints_what_the_document_shows(mapped: Mapped, documented: Any) -> None:
    printed = mapped.printed.replace(f"{mapped.folder}/", "")
    assert shape(printed) == shape(documented.output.replace("/home/you/", ""))


def test_a_joined_model_is_in_metres_of_its_place_on_earth(mapped: Mapped) -> None:
    words = re.findall(r"(?:latitude|longitude|altitude) ([\d.]+)", mapped.printed)
    origin = np.array([float(word) for word in words])
    truth = east_north_up(on_earth(degrees(mapped.scene.centre), height=True), origin)
    assert np.abs(np.median(truth, axis=0)).max() < 2  # metres
    rows, off = off_truth(truth, mapped.folder / "model" / "sparse" / "0")
    assert len(rows) == len(mapped.scene)
    assert np.median(off) < 0.75 * NOISE
    assert off.max() < 2 * NOISE  # also where the position is 100 m off


def test_a_gross_outlier_is_named(mapped: Mapped) -> None:
    (note,) = [line for line in mapped.printed.splitlines() if "clearly off" in line]
    named = rf"note: 1 image of .*: {name_of(WRONG)} \((99|100)\.\d\d m\)"
    assert re.fullmatch(named, note)


def test_other_positions_map_no_block_anew(
    mapped: Mapped, tmp_path: Path, kept_executor: Executor
) -> None:
    """Positions of which one block's are 25 m higher: the join of both contradicts them."""
    places = measured(mapped.scene)
    plan = pq.read_table(mapped.folder / "model" / "blocks" / "0" / "plan.parquet")
    places[np.array(plan["core"][0].as_py()) - 1] += [0, 0, 25]
    table = write_table(tmp_path / "two.csv", places, "x,y,z")
    done = [*(mapped.folder / "model" / "blocks" / "0" / "done").iterdir()]
    before = {path.name: path.read_bytes() for path in done}
    shutil.copytree(mapped.folder / "model", tmp_path / "out")
    marks = [*(tmp_path / "out" / "blocks" / "0" / "done").iterdir()]
    times = {path: path.stat().st_mtime_ns for path in marks}
    summary = again(mapped, tmp_path / "out", kept_executor, positions=table, position_error=NOISE)
    assert {path.name: path.read_bytes() for path in marks} == before
    assert {path: path.stat().st_mtime_ns for path in marks} == times
    (refused,) = [note for note in summary.notes if "not joined" in note]
    assert re.search(r"by the positions of their images, what both show lies 2[45]\.\d m", refused)
    assert len(summary.models) == 2


def notes_of(mapped: Mapped, places: np.ndarray, error: float) -> list[str]:
    """What is told of the mapped model and these positions."""
    table = write_table(mapped.folder / "others.csv", places, "x,y,z")
    images = [name_of(row) for row in range(len(places))]
    positions = trusted_positions(PositionOptions(str(table), error), images)
    model = pycolmap.Reconstruction(str(mapped.folder / "model" / "sparse" / "0"))
    return align_models([model], positions)[1]


def test_positions_that_make_no_sense_are_refused(mapped: Mapped) -> None:
    places = np.random.default_rng(0).permutation(measured(mapped.scene))
    (note,) = notes_of(mapped, places, NOISE)
    assert re.search(r"not in metres: half of its images are more than [\d.]+ m off", note)


def test_swapped_columns_are_noticed(mapped: Mapped) -> None:
    notes = notes_of(mapped, measured(mapped.scene, 0.05)[:, [1, 0, 2]], 0.05)
    assert any("fits the positions less well than their error" in note for note in notes)


def test_a_model_of_one_mapper_comes_into_metres_by_some_positions(
    mapped: Mapped, tmp_path: Path, kept_executor: Executor
) -> None:
    places = measured(mapped.scene)
    table = write_table(tmp_path / "some.csv", places, "x,y,z", [0, 3, 5, 17, 30, 32, 35])
    with table.open("a") as opened:
        opened.write("other.jpg,1,2,3\n000001.jpg,,,\n")
    given = {"positions": table, "position_error": NOISE, "blocks": "off"}
    summary = again(mapped, tmp_path / "one", kept_executor, **given)
    _, off = off_truth(mapped.scene.centre, tmp_path / "one" / "sparse" / "0")
    assert np.median(off) < 2 * NOISE
    notes = "\n".join(summary.notes)
    assert "models are in the metres of some.csv\n" in notes
    assert "7 of its 36 images have positions" in notes
    assert "1 position of some.csv left out, of no image of the run: other.jpg" in notes
    assert "1 row of some.csv left out, as its position in some.csv is no place" in notes


def test_surveys_that_no_pair_connects_lie_in_one_world(
    tmp_path: Path, kept_executor: Executor
) -> None:
    scene = apart(5).write(tmp_path / "database.db")
    offset = np.array([500_000, 5_500_000, 0])
    table = write_table(tmp_path / "utm.csv", measured(scene, 0.05) + offset, "x,y,z")
    summary = pipeline.reconstruct(
        database=tmp_path / "database.db",
        output=tmp_path / "out",
        blocks=20,
        refine="none",
        positions=table,
        position_error=0.05,
        executor=kept_executor,
    )
    (frame,) = [note for note in summary.notes if "models are in" in note]
    x, y, z = (float(text) for text in re.findall(r"[xyz] (-?\d+)", frame))
    assert (x % 1000, y, z) == (0, offset[1], 0)
    truth = scene.centre + offset - [x, y, z]
    assert [model.images for model in summary.models] == [25, 25]
    for number in range(2):
        rows, off = off_truth(truth, tmp_path / "out" / "sparse" / str(number))
        assert len({row < 25 for row in rows}) == 1
        assert np.median(off) < 0.1
        assert off.max() < 0.3


@pytest.mark.parametrize(
    ("header", "change", "sentence"),
    [
        ("x,y,z", {"position_error": None}, "say by --position-error how many metres"),
        ("x,y,z", {"position_error": "5cm"}, "position_error='5cm': give the metres as a number"),
        ("x,y,z", {"position_error": 0.0}, "by which positions err, above 0"),
        ("x,y,z", {"position_error": -1.0}, "by which positions err, above 0"),
        ("x,y,z", {"position_error": float("nan")}, "by which positions err, above 0"),
        ("x,y,z", {"positions": None}, "there are no positions; give a table by --positions"),
        ("x,y,height", {}, "has no heights; add a column altitude"),
        ("x,z,height", {}, "needs columns image, x, y"),
        ("line", {}, "lie on one line within their error of 0.2 m"),
        ("two", {}, "has positions of 2 images of the run; give 3 or more"),
        ("names", {}, "has positions of no image of the run, but of a.jpg; .* as 000000.jpg"),
        ("gone", {}, "cannot be read"),
    ],
)
def test_wrong_positions_are_told_before_any_work(
    mapped: Mapped, tmp_path: Path, header: str, change: dict[str, Any], sentence: str
) -> None:
    places, table = measured(mapped.scene), tmp_path / "table.csv"
    if header == "line":
        places = np.outer(np.arange(36), [3.0, 4.0, 0.5])
    columns = header if "," in header else "x,y,z"
    write_table(table, places, columns, [0, 9] if header == "two" else ())
    if header == "names":
        table.write_text("image,x,y,z\na.jpg,1,2,3\nb.jpg,2,1,3\nc.jpg,3,3,3\n")
    if header == "gone":
        table.unlink()
    given = {"positions": table, "position_error": NOISE, **change}
    with pytest.raises(EloftrError, match=sentence) as caught:
        pipeline.reconstruct(database=mapped.folder / "survey.db", output=tmp_path / "out", **given)
    assert isinstance(caught.value, ArgumentError | PairListError | ReconstructionError)
    assert not (tmp_path / "out" / "database.db").exists()


def test_an_error_without_positions_ends_a_dry_run_too(
    mapped: Mapped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--database", str(mapped.folder / "survey.db"), "--output", str(tmp_path / "out")]
    assert main(["reconstruct", *given, "--dry-run", "--position-error", "1"]) == 2
    assert "give a table by --positions" in capsys.readouterr().err


def test_degrees_and_metres_of_the_earth_are_the_same_place() -> None:
    for place in (PRAGUE, [-33.8568, 151.2153, 5.0], [89.9999, -21.0, 8000.0], [0.0, 180.0, -90.0]):
        found = geodetic(on_earth(np.array([place]), height=True)[0])
        np.testing.assert_allclose(found, place, rtol=0, atol=1e-7)
    beside = PRAGUE + np.array([[1e-5, 0, 0], [0, 0, 9]])
    local = east_north_up(on_earth(beside, height=True), PRAGUE)
    np.testing.assert_allclose(local, [[0, 1.1124, 0], [0, 0, 9]], atol=1e-3)


def some_anchors(count: int, wrong: int = 0, error: float = 0.1) -> Anchors:
    rng = np.random.default_rng(count)
    centres = rng.uniform(0, 10, (count, 3))
    move = Similarity(7.0, Rotation.from_rotvec([0.3, 2, 1]).as_matrix(), np.array([1e4, -50, 3]))
    places = move(centres) + rng.normal(0, error, centres.shape)
    places[:wrong] += rng.normal(0, 60, (wrong, 3))
    return Anchors([name_of(row) for row in range(count)], centres, places, error)


@pytest.mark.parametrize("wrong", [0, 5, 15])
def test_a_similarity_is_found_among_wrong_positions(wrong: int) -> None:
    fit = some_anchors(40, wrong).fit()
    assert isinstance(fit, Fit)
    assert fit.move.scale == pytest.approx(7.0, abs=0.02)
    assert np.flatnonzero(fit.wrong).tolist() == [*range(wrong)]
    assert fit.error < 0.25


@pytest.mark.parametrize(("error", "told"), [(1.0, False), (0.5, True), (0.05, True)])
def test_the_longer_of_two_strips_does_not_decide_alone(error: float, told: bool) -> None:
    """Most positions are on one line: they fit at any turn about it, and the others turn it."""
    places = np.array([[15.0 * (row > 2), 12.0 * (row % 4), 30] for row in range(7)])
    places[:3, 1] += 12
    move = Similarity(5.0, Rotation.from_rotvec([0.3, 2, 1]).as_matrix(), np.array([40, -50, 3]))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.1, places.shape)
        noise[:3] += rng.normal(0, 0.6, 3)  # receivers drift from strip to strip
        names = [name_of(row) for row in range(7)]
        centres = move.inverse()(places + noise)
        fit = Anchors(names, centres, places, error, told=told).fit()
        assert isinstance(fit, Fit), (seed, fit)
        off = np.linalg.norm(fit.move(centres) - places, axis=1)
        assert off.max() < 1.5
        if not told:
            assert not fit.wrong.any()
            best = Similarity(*umeyama(centres, places))
            np.testing.assert_allclose(fit.move(centres), best(centres), atol=1e-6)


def test_too_few_positions_or_a_line_of_them_place_nothing() -> None:
    assert some_anchors(5).fit(6) == "5 of its images have positions, and 6 are needed"
    line = some_anchors(40)
    line = replace(line, centres=line.centres * [1, 1e-3, 1e-3])
    line = replace(line, places=7.0 * line.centres)
    assert "on one line" in str(line.fit())


def bent_strip(count: int) -> tuple[list[Piece], list[Join], list[np.ndarray]]:
    """Pieces of a long strip, each bent along it; their joins; and the true places of cameras."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform([0, 0, -2], [30.0 * count + 10, 30, 2], (40 * count, 3))
    pieces, joins, true = [], [], []
    before = np.empty(0, np.int64)
    for number in range(count):
        begin = 30.0 * number

        def bent(places: np.ndarray, begin: float = begin) -> np.ndarray:
            local = places - [begin + 20, 15, 0]
            grown: np.ndarray = local * (1 + 0.0005 * local[:, :1])
            return grown

        turn = Rotation.from_rotvec(rng.normal(0, 1, 3)).as_matrix()
        move = Similarity(float(rng.uniform(0.1, 0.3)), turn, rng.normal(0, 5, 3))
        places = rng.uniform([begin, 0, 29], [begin + 40, 30, 31], (36, 3))
        numbers = np.arange(36) + 36 * number
        views = ModelViews(
            *([name_of(row) for row in numbers], numbers, np.ones(36, int)),
            *(np.tile(np.eye(3), (36, 1, 1)), -move(bent(places)), {}),
        )
        seen = np.flatnonzero((xyz[:, 0] >= begin) & (xyz[:, 0] <= begin + 40))
        points = move(bent(xyz[seen]))
        nothing = np.empty(0, np.int64)
        pieces.append(Piece(str(number), views, np.ones(36, bool), points, nothing, nothing))
        true.append(places)
        _, mine, theirs = np.intersect1d(before, seen, return_indices=True)
        if number:
            to_first = Similarity(*umeyama(points[theirs], pieces[-2].xyz[mine]))
            joins.append(Join(number - 1, number, to_first, mine, theirs, 1.0))
        before = seen
    return pieces, joins, true


@pytest.mark.parametrize("alone", [6, 100], ids=["placed alone", "placed by joins"])
def test_positions_keep_a_long_strip_from_drifting(alone: int) -> None:
    """alone: positions of a piece that place it before the joins do."""
    pieces, joins, true = bent_strip(12)
    rng, truth = np.random.default_rng(1), np.concatenate(true)

    def off(anchors: list[Anchors]) -> float:
        found = [anchor.fit(alone) for anchor in anchors]
        fits = {row: fit for row, fit in enumerate(found) if isinstance(fit, Fit)}
        ((rows, moves),) = place_pieces(pieces, joins, anchors, fits)
        where = dict(zip(rows, moves, strict=True))
        views = [piece.views for piece in pieces]
        centres = np.concatenate([where[k](view.centres()) for k, view in enumerate(views)])
        best = Similarity(*umeyama(centres, truth))
        return float(np.sqrt(((best(centres) - truth) ** 2).sum(axis=1).mean()))

    anchors = []
    for piece, places in zip(pieces, true, strict=True):
        noisy = places + rng.normal(0, 0.1, places.shape)
        anchors.append(Anchors(piece.views.names, piece.views.centres(), noisy, 0.1))
    anchors[4].places[:10] += 100
    assert off([]) > 2
    assert off(anchors) < 0.2
