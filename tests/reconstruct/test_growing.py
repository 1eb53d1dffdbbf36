"""A model grows by photographs of a scene whose cameras are known."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from job_process import COMMAND, PROJECT, Job, rows
from rendered import Rendered, render, rotation_errors

import pipeline
from eloftr import load_model, save_model
from pipeline.cli import main
from pipeline.errors import ReconstructionError, RunError
from pipeline.pairs.pair_list import exhaustive, pairs_table
from pipeline.photos.identity.files import FILES_FILE, PART, identities, recorded
from pipeline.reconstruct.blocks.graph import ViewGraph, image_names
from pipeline.reconstruct.growing.photographs import compared_with_runs
from pipeline.reconstruct.growing.summary import GrowthSummary
from pipeline.reconstruct.refine.cameras import restricted
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.reconstruct.tracks.plan import SettledTracks, plan_rest, plan_round, read_scene
from pipeline.reconstruct.tracks.scene import ModelViews
from pipeline.store.folder import Folder

REFINE = RefineOptions(rounds=1, sizes=(320,))
SAME_REFINE = ("--refine-rounds", "1", "--refine-sizes", "320")
MATCHING: dict[str, Any] = {"long_side": 320, "turns": "off", "scales": "off"}
LOCAL: dict[str, Any] = {"executor": "local", "actors": 1}
ERROR = 1.1  # times that of a model from scratch

pytestmark = pytest.mark.usefixtures("kept_processes")


@dataclass(frozen=True)
class Place:
    """Photographs of a scene, of which the old ones are matched and reconstructed."""

    folder: Path
    drawn: Rendered

    @property
    def names(self) -> list[str]:
        return self.drawn.scene.views.names

    @property
    def old(self) -> list[str]:
        return [name for name in self.names if name not in self.new]

    @property
    def new(self) -> list[str]:
        return [self.names[2], self.names[4]]

    @property
    def run(self) -> str:
        return str(self.folder / "run")

    @property
    def model(self) -> Path:
        return self.folder / "run" / "sfm" / "sparse" / "0"

    def photographs(self, target: Path, names: list[str]) -> Path:
        """A folder with some of the photographs."""
        target.mkdir(parents=True)
        for name in names:
            shutil.copy(self.drawn.images / name, target / name)
        return target

    def grow(self, photos: Path, output: Path, **options: Any) -> GrowthSummary:
        how = {"model": self.model, "images": photos, "options": REFINE, **LOCAL, **options}
        return pipeline.grow(self.run, output, **how)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kept_processes: None) -> Place:
    folder = tmp_path_factory.mktemp("growing")
    made = Place(folder, render(folder / "drawn", count=6))
    photos = made.photographs(folder / "photos", made.old)
    pipeline.match(photos, made.run, **MATCHING, **LOCAL)
    pipeline.reconstruct(made.run, refine=REFINE, **LOCAL)
    return made


@dataclass(frozen=True)
class Grown:
    """What became of the scene with two new photographs, and one that is cut off."""

    photos: Path
    output: Path
    summary: GrowthSummary


@pytest.fixture(scope="module")
def grown(place: Place) -> Grown:
    photos = place.photographs(place.folder / "more", place.names)
    whole = (photos / place.names[0]).read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    output = place.folder / "grown"
    return Grown(photos, output, place.grow(photos, output))


def views_of(output: Path) -> ModelViews:
    return read_scene(output / "sparse" / "0").views


def pairs_of(run: Path) -> set[tuple[str, str]]:
    return {(row["image0"], row["image1"]) for row in rows(run)}


def test_new_photographs_take_their_places(place: Place, grown: Grown) -> None:
    assert grown.summary.registered == place.new
    assert views_of(grown.output).names == place.names
    assert (grown.output / "points.ply").is_file()
    assert "grown:    2 of 3 are in the model" in grown.summary.text()


def test_no_pair_is_matched_twice(place: Place, grown: Grown) -> None:
    before, after = pairs_of(Path(place.run)), pairs_of(grown.output / "run")
    assert not before & after
    assert len(after) == grown.summary.pairs
    assert all({*pair} & {*grown.summary.new} for pair in after)


def test_it_is_as_exact_as_a_model_from_scratch(place: Place, grown: Grown, tmp_path: Path) -> None:
    runs, scratch = [place.run, str(grown.output / "run")], tmp_path / "scratch"
    pipeline.reconstruct(runs, scratch, images=str(grown.photos), refine=REFINE, **LOCAL)
    true = place.drawn.scene.views
    errors = [rotation_errors(views_of(one), true).mean() for one in (grown.output, scratch)]
    assert errors[0] <= ERROR * errors[1]
    graphs = [ViewGraph.read(one / "database.db") for one in (grown.output, scratch)]
    assert np.array_equal(graphs[0].inliers, graphs[1].inliers)


def test_what_was_measured_stays(place: Place, grown: Grown) -> None:
    before, after = (read_scene(one) for one in (place.model, grown.output / "sparse" / "0"))
    registered = read_scene(grown.output / "mapped" / "0")
    assert SettledTracks.of(registered, before).kept.sum() == len(before.point)
    assert SettledTracks.of(after, before).kept.sum() > 0.9 * len(before.point)  # all that fit
    (kept,) = (grown.output / "refine").rglob("kept.parquet")
    tables = [pq.read_table(file) for file in kept.parent.glob("image-*.parquet")]
    assert pq.read_metadata(kept).num_rows + sum(map(len, tables)) < 1.5 * len(after.point)
    assert sum(map(len, tables)) < len(after.point)


def test_an_unreadable_new_photograph_is_a_row(grown: Grown) -> None:
    failures = [pq.read_table(file) for file in (grown.output / "run" / "failures").iterdir()]
    found = {(row["image0"], row["reason"]) for table in failures for row in table.to_pylist()}
    assert found == {("cut.png", "truncated")}
    assert "note: not in the model: cut.png, which" in (grown.output / "report.txt").read_text()


def test_killed_in_the_middle_the_model_is_the_same(
    place: Place, grown: Grown, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    shutil.copytree(grown.output / "run", output / "run")
    where = "--model", place.model, "--images", grown.photos, "--output", output
    how = *SAME_REFINE, "--executor", "local", "--actors", "1"
    program = "-c", COMMAND
    path = str(PROJECT)
    job = Job("grow", place.run, *where, *how, cwd=tmp_path, program=program, PYTHONPATH=path)
    job.until(lambda: any(output.glob("refine/0/round-0/image-*.parquet")))
    os.killpg(job.process.pid, signal.SIGKILL)
    job.ended()
    assert not (output / "sparse").exists()
    measured = {file: file.stat().st_mtime_ns for file in output.rglob("refine/**/image-*.parquet")}
    place.grow(grown.photos, output)
    assert measured == {file: file.stat().st_mtime_ns for file in measured}
    assert model_files(output) == model_files(grown.output)


def model_files(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (output / "sparse" / "0").iterdir()}


def test_removed_photographs_leave_the_model(place: Place, tmp_path: Path) -> None:
    gone, *rest = place.old
    photos = place.photographs(tmp_path / "photos", rest)
    output = tmp_path / "grown"
    summary = place.grow(photos, output)
    assert (summary.removed, summary.pairs, summary.run) == ([gone], 0, None)
    assert views_of(output).names == image_names(output / "database.db") == rest
    assert f"1 photograph gone from the folder, and so left out of pairs and model: {gone}." in (
        output / "report.txt"
    ).read_text(encoding="utf-8")
    assert not (output / "kept").exists()
    with pytest.raises(ReconstructionError, match="none of the model is gone, so there is nothing"):
        place.grow(photos, tmp_path / "again", model=output / "sparse" / "0")
    assert not (tmp_path / "again").exists()


def test_a_changed_photograph_is_matched_and_placed_again(place: Place, tmp_path: Path) -> None:
    changed, other = place.old[1], place.new[0]
    photos = place.photographs(tmp_path / "photos", place.old)
    shutil.copy(place.drawn.images / other, photos / changed)  # now it shows another view
    output = tmp_path / "grown"
    summary = place.grow(photos, output)
    assert (summary.changed, summary.registered) == ([changed], [changed])
    assert {image for pair in pairs_of(output / "run") for image in pair} == {*place.old}
    assert summary.pairs == len(place.old) - 1
    renamed = {changed: "before", other: changed}
    true = place.drawn.scene.views
    true = replace(true, names=[renamed.get(name, name) for name in true.names])
    assert rotation_errors(views_of(output), true).max() < 0.1


def test_without_new_photographs_a_sentence_says_so(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match="there is nothing to grow"):
        place.grow(place.folder / "photos", tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


@pytest.mark.parametrize("dry_run", [False, True])
def test_models_that_are_none_of_the_runs_are_refused_before_matching(
    place: Place, tmp_path: Path, dry_run: bool
) -> None:
    photos = place.photographs(tmp_path / "photos", place.names)
    scene = read_scene(place.model)
    views = scene.views
    turned = {
        number: replace(camera, width=camera.height, height=camera.width)
        for number, camera in views.cameras.items()
    }
    named = replace(views, names=[f"other/{name}" for name in views.names])
    first = re.escape(views.names[0])
    refused = {
        "sizes": (
            replace(views, cameras=turned),
            f"of other photographs: {first} has 240×320 pixels there and 320×240 in the runs; give",
        ),
        "names": (named, "has no image of the runs; give the model that was made of the runs"),
    }
    for name, (other, sentence) in refused.items():
        (tmp_path / name).mkdir()
        replace(scene, views=other).made().write_binary(tmp_path / name)
        with pytest.raises(ReconstructionError, match=sentence):
            place.grow(photos, tmp_path / "grown", model=tmp_path / name, dry_run=dry_run)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "images.bin").write_bytes(b"no model")
    for name, sentence in (("absent", "holds no images.bin"), ("damaged", "cannot read this")):
        with pytest.raises(ReconstructionError, match=sentence):
            place.grow(photos, tmp_path / "grown", model=tmp_path / name, dry_run=dry_run)
    assert not (tmp_path / "grown").exists()


def test_a_model_that_contradicts_the_matches_is_refused(
    place: Place, grown: Grown, tmp_path: Path
) -> None:
    shutil.copytree(grown.output / "run", tmp_path / "grown" / "run")  # as after its matching
    scene = read_scene(place.model)
    names = scene.views.names
    (tmp_path / "other").mkdir()
    other = replace(scene.views, names=[*names[1:], names[0]])
    replace(scene, views=other).made().write_binary(tmp_path / "other")
    with pytest.raises(ReconstructionError, match="of the verified matches lie more than 4 pixels"):
        place.grow(grown.photos, tmp_path / "grown", model=tmp_path / "other")
    assert not (tmp_path / "grown" / "mapped").exists()


def test_a_folder_of_other_photographs_is_named(place: Place, tmp_path: Path) -> None:
    photos = place.photographs(tmp_path / "photos", place.new)
    with pytest.raises(ReconstructionError, match="photos: has no photograph of the runs"):
        place.grow(photos, tmp_path / "grown")
    kept = place.photographs(tmp_path / "one", [*place.new, place.old[0]])
    with pytest.raises(ReconstructionError, match="keeps fewer than two images"):
        place.grow(kept, tmp_path / "grown")
    assert not (tmp_path / "grown").exists()


def test_candidates_of_a_list_are_matched_where_no_run_has_them(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = place.photographs(tmp_path / "photos", place.names)
    pq.write_table(pairs_table(place.names, exhaustive(6)), tmp_path / "pairs.parquet")
    where = "--model", place.model, "--images", photos, "--output", tmp_path / "grown"
    how = "--pairs", tmp_path / "pairs.parquet", "--dry-run", "--executor", "local"
    assert main([*map(str, ("grow", place.run, *where, *how))]) == 0
    out = capsys.readouterr().out
    assert "6 photographs, 2 new, 0 removed, 0 changed" in out
    assert f"to match: {15 - len(pairs_of(Path(place.run)))} pairs that no run has" in out
    assert not (tmp_path / "grown").exists()


def test_the_command_ends_with_a_page_of_the_grown_model(
    place: Place, grown: Grown, tmp_path: Path
) -> None:
    shutil.copytree(grown.output / "run", tmp_path / "grown" / "run")
    where = "--model", place.model, "--images", grown.photos, "--output", tmp_path / "grown"
    grow = [*map(str, ("grow", place.run, *where, "--refine", "none", "--executor", "local"))]
    assert main([*grow, "--no-report"]) == 0
    page = tmp_path / "grown" / "report.html"
    assert not page.exists()
    assert main(grow) == 0
    assert b'<div id="model-view">' in page.read_bytes()
    assert not (tmp_path / "grown" / "run" / "report.html").exists()
    page.unlink()
    assert main(["report", str(tmp_path / "grown")]) == 0
    assert b'<div id="model-view">' in page.read_bytes()
    assert main(["info", str(tmp_path / "grown")]) == 0


def test_without_a_new_pair_the_page_is_of_the_first_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = place.photographs(tmp_path / "photos", place.old[1:])
    where = "--model", place.model, "--images", fewer, "--output", tmp_path / "grown"
    grow = [*map(str, ("grow", place.run, *where, "--refine", "none", "--executor", "local"))]
    assert main(grow) == 0
    assert "grown:" not in capsys.readouterr().out
    assert b'<div id="model-view">' in (tmp_path / "grown" / "report.html").read_bytes()


def test_several_runs_are_compared_as_one(place: Place, grown: Grown, tmp_path: Path) -> None:
    runs = [Folder(place.run), Folder(str(grown.output / "run"))]
    found = compared_with_runs(runs, Folder(str(grown.photos)), lambda event: None)
    assert (found.new, found.removed, found.changed) == ([], [], [])
    photos = place.photographs(tmp_path / "photos", place.names)
    shutil.copy(photos / place.old[0], photos / place.new[0])
    found = compared_with_runs(runs, Folder(str(photos)), lambda event: None)
    assert (found.removed, found.changed) == (["cut.png"], [place.new[0]])
    assert found.stale == [frozenset(), frozenset({"cut.png", place.new[0]})]


def test_results_of_other_files_are_not_gone_on_with(
    place: Place, grown: Grown, tmp_path: Path
) -> None:
    photos = place.photographs(tmp_path / "photos", place.names)
    shutil.copy(grown.photos / "cut.png", photos)
    shutil.copy(photos / place.old[0], photos / place.new[0])
    shutil.copytree(grown.output / "run", tmp_path / "grown" / "run")
    with pytest.raises(RunError, match="when its file was another one"):
        place.grow(photos, tmp_path / "grown")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"refine": "some"}, "refine 'some' is unknown"),
        ({"top_k": 0}, "top_k 0"),
        ({"threads": 0}, "0 threads"),
    ],
)
def test_wrong_arguments_are_refused(
    place: Place, grown: Grown, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ReconstructionError, match=sentence):
        place.grow(grown.photos, tmp_path / "grown", **options)


def test_other_weights_than_those_of_the_run_are_refused(place: Place, tmp_path: Path) -> None:
    photos = place.photographs(tmp_path / "photos", place.names)
    network = load_model("small")
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    save_model(network, tmp_path / "other")
    with pytest.raises(ReconstructionError, match="other weights"):
        place.grow(photos, tmp_path / "grown", weights=tmp_path / "other")
    assert not (tmp_path / "grown").exists()


def test_results_do_not_lie_where_they_would_harm(place: Place, grown: Grown) -> None:
    with pytest.raises(ReconstructionError, match="lies inside the folder of the images"):
        place.grow(grown.photos, grown.photos / "grown")
    with pytest.raises(ReconstructionError, match="holds the given model"):
        place.grow(grown.photos, place.model.parent)
    with pytest.raises(ReconstructionError, match="holds no run"):
        pipeline.grow(str(grown.photos), "grown", model=place.model, images=grown.photos)


def test_a_run_notes_what_its_files_were(place: Place, tmp_path: Path) -> None:
    noted = recorded(Folder(place.run))
    assert noted == identities(Folder(str(place.drawn.images)), place.old)
    assert (Path(place.run) / FILES_FILE).is_file()
    photos = place.photographs(tmp_path / "photos", place.old[:1])
    (image,) = photos.iterdir()
    data = bytearray(image.read_bytes() + bytes(3 * PART))
    seen = []
    for place_of_change in (None, 0, len(data) - 1):
        changed = bytearray(data)
        if place_of_change is not None:
            changed[place_of_change] ^= 1
        image.write_bytes(changed)
        seen.append(identities(Folder(str(photos)), [image.name])[image.name])
    assert len({*seen}) == 3
    assert {one[0] for one in seen if one} == {len(data)}
    assert identities(Folder(str(photos)), ["absent.png"]) == {"absent.png": None}


def test_a_round_measures_what_a_model_before_did_not(model: Path, tmp_path: Path) -> None:
    views, tasks = plan_round(model, REFINE)
    _, none, kept = plan_rest(model, REFINE, model)
    assert (none, len(kept)) == ([], len(read_scene(model).point))

    scene = read_scene(model)
    old = np.arange(len(views)) != 2
    part = restricted(scene.keep(old[scene.view]), old)
    part.made().write_binary(tmp_path)
    _, some, kept = plan_rest(model, REFINE, tmp_path)
    settled = SettledTracks.of(scene, part)
    assert settled.views.tolist() == old.tolist()
    assert settled.points.sum() == len(part.xyz)
    measured = 0
    for task in some:
        assert (settled.points[task.points] <= old[task.view]).all()
        wanted = np.ones((len(task.others), len(task.points)), bool)
        if task.wanted is not None:
            wanted = task.wanted
        assert not wanted[old[task.others]][:, settled.points[task.points]].any()
        measured += wanted.sum()
    assert 0 < measured < sum(len(task.others) * len(task.points) for task in tasks)


def test_the_page_shows_what_is_printed(grown: Grown) -> None:
    page = (PROJECT / "docs" / "growing.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^\$ eloftr grow run --model .*\n((?:.*\n)*?)```", page, re.M)[:1]
    printed, shown = (re.sub(r"[\d.,]*\d", "#", text) for text in (grown.summary.text(), block))
    first = printed.splitlines()[:6]
    assert [line for line in first if line not in shown.splitlines()] == []


def test_a_photograph_that_is_gone_does_not_keep_the_others_from_being_measured(
    place: Place, tmp_path: Path
) -> None:
    photos = place.photographs(tmp_path / "photos", place.old[1:])
    how: dict[str, Any] = {"refine": REFINE, **LOCAL}
    text = pipeline.reconstruct(place.run, tmp_path / "some", images=str(photos), **how).text()
    assert "refined at 320 px" in text
    assert place.old[0] in text  # as one that is not read
    assert "changed since" not in text
    shutil.copy(photos / place.old[1], photos / place.old[2])
    how["refine"] = "none"
    text = pipeline.reconstruct(place.run, tmp_path / "some", images=str(photos), **how).text()
    assert f"{place.run}: 1 photograph changed since the run began ({place.old[2]});" in text
    how["refine"] = REFINE
    (tmp_path / "nothing").mkdir()
    nowhere = str(tmp_path / "nothing")
    text = pipeline.reconstruct(place.run, tmp_path / "none", images=nowhere, **how).text()
    assert f"not refined: the photographs are not in {nowhere}; give them by --images." in text
