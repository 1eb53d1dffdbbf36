"""Results at a URL: the bytes of a local run, also where one machine stops and another goes on."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flaky_store import flaky_store
from rendered import FOCAL, SIZE, Rendered, tracks_of
from stages import Stop, results
from synthetic_run import matches_table, write_shard

import pipeline
from benchmarks.scale.scenes import survey
from pipeline import tables
from pipeline.errors import ArgumentError, StorageError
from pipeline.events import Event, Listener, nobody
from pipeline.execute.executor import Executor
from pipeline.match.options import VerificationOptions
from pipeline.match.verify import VerifyShard
from pipeline.reconstruct.tracks.options import RefineOptions
from pipeline.store.belonging import keep_what_belongs
from pipeline.store.folder import Folder

OPTIONS = RefineOptions(sizes=(160, 240))


class Store:
    """An object store, how often each of its objects was written, and what it holds."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.puts = options, Counter[str]()
        self.refused = ("", "")  # method and end of a path

    def watch(self, method: str, path: str, number: int) -> str:
        if method == "PUT":
            self.puts[path] += 1
        return "refuse" if method == self.refused[0] and path.endswith(self.refused[1]) else ""

    def files(self, url: str) -> dict[str, bytes]:
        folder = Folder(url, self.options)
        return without_places({name: folder.read_bytes(name) for name in folder.list()})

    def often(self, *parts: str) -> list[str]:
        """Objects with all of these in their names that were written more than once."""
        return [
            path for path, n in self.puts.items() if n > 1 and all(part in path for part in parts)
        ]


@pytest.fixture
def store(s3: dict[str, str]) -> Iterator[Store]:
    made = Store(dict(s3))
    with flaky_store(s3["endpoint_url"], made.watch) as (endpoint, _):
        made.options["endpoint_url"] = endpoint
        yield made


def whole_of(folder: Path) -> dict[str, bytes]:
    """All files of a local result, the report too."""
    told = ("report.txt", "summary.json")
    files = {**results(folder), **{name: (folder / name).read_bytes() for name in told}}
    return without_places(files)


def without_places(files: dict[str, bytes]) -> dict[str, bytes]:
    """These files, but without where the run was: it is at a URL or on a disk."""
    if "summary.json" not in files:
        return files
    told = json.loads(files["summary.json"])
    for name in ("runs", "images", "model", "masks"):
        told["asked"].pop(name, None)
    return {**files, "summary.json": json.dumps(told).encode()}


def stop_at(when: str) -> Listener:
    """Gives up at an event of this name, or at what it tells of a thing of this name."""

    def stop(event: Event) -> None:
        if when in (event.name, event.fields.get("name")):
            raise Stop

    return stop


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("survey") / "given.db"
    survey(6).write(made)
    return made


def in_blocks(database: Path, output: Path | str, executor: Executor, **more: Any) -> Any:
    how = {"blocks": 15, "refine": "none", "executor": executor}
    return pipeline.reconstruct(database=database, output=output, **how, **more)


@pytest.fixture(scope="module")
def whole(database: Path, kept_executor: Executor) -> dict[str, bytes]:
    in_blocks(database, database.parent / "whole", kept_executor)
    return whole_of(database.parent / "whole")


def test_blocks_go_on_from_a_fresh_scratch_to_the_bytes_of_a_local_run(
    database: Path, whole: dict[str, bytes], kept_executor: Executor, store: Store, tmp_path: Path
) -> None:
    url, scratch = "s3://bucket/blocks", tmp_path / "scratch"
    older = Folder(url, store.options)
    for name in ("report.txt", "points.ply", "sparse/7/images.bin", "refine/7/refine.json"):
        older.publish(name, b"older")
    store.puts.clear()

    def go_on(listen: Listener = nobody) -> Any:
        how = {"storage": store.options, "scratch": scratch, "progress": listen}
        return in_blocks(database, url, kept_executor, **how)

    with pytest.raises(Stop):
        go_on(stop_at("progress"))
    assert [*scratch.iterdir()] == []
    assert len([name for name in store.files(url) if "/done/" in name]) == 1
    assert older.read_bytes("sparse/7/images.bin") == b"older"  # until there is something new

    with pytest.raises(Stop):
        go_on(stop_at("sparse"))
    assert {name.partition("/")[0] for name in store.files(url)} == {"blocks", "database.db"}

    todo: list[int] = []
    summary = go_on(
        lambda event: todo.append(event.fields["todo"]) if event.name == "blocks" else None
    )
    assert todo == [0]
    assert summary.output == url
    assert store.files(url) == whole
    assert store.often("/done/") == store.often("/models/") == []
    assert [*scratch.iterdir()] == []


def test_any_filesystem_gets_the_bytes_of_a_local_run(
    database: Path, whole: dict[str, bytes], kept_executor: Executor
) -> None:
    in_blocks(database, "memory://results", kept_executor)
    place = Folder("memory://results")
    found = {name: place.read_bytes(name) for name in place.list()}
    assert without_places(found) == whole


def test_a_dry_run_leaves_the_database_at_the_url(
    database: Path, store: Store, tmp_path: Path
) -> None:
    """But a result that is there stays as it is."""
    how = {"database": database, "blocks": 15, "storage": store.options}
    local = pipeline.plan_blocks(output=f"file://{tmp_path}/out", **how)
    assert pipeline.plan_blocks(output="s3://bucket/dry", **how).equals(local)
    assert store.files("s3://bucket/dry") == results(tmp_path / "out")
    Folder("s3://bucket/held", store.options).publish("report.txt", b"older")
    assert pipeline.plan_blocks(output="s3://bucket/held", **how).equals(local)
    assert set(store.files("s3://bucket/held")) == {"report.txt"}


def write_run(rendered: Rendered, run: Path, photographs: str) -> None:
    """A run with matches of the photographs, as `eloftr match` would write it."""
    run.mkdir()
    text = f'{{"images": "{photographs}", "options": {{"long_side": {max(SIZE)}}}}}'
    (run / "run.json").write_text(text)
    scene = tracks_of(rendered.scene.views, 300, 1)
    names = scene.views.names
    pixels = np.full((len(scene.xyz), len(names), 2), np.nan)
    pixels[scene.point, scene.view] = scene.xy - 0.5
    rows = []
    for first, second in combinations(range(len(names)), 2):
        both = np.isfinite(pixels[:, [first, second], 0]).all(axis=1)
        points = pixels[both][:, [first, second]].transpose(1, 0, 2)
        rows.append((names[first], names[second], points, np.ones(both.sum())))
    kinds = tables.IMAGES.types
    images = [(name, *SIZE, *SIZE, 1, FOCAL, None) for name in names]
    columns = [pa.array([row[i] for row in images], kind) for i, kind in enumerate(kinds)]
    table = pa.table(columns, schema=tables.IMAGES)
    verify = VerifyShard(VerificationOptions(long_side=max(SIZE)))
    write_shard(run, "00000", verify(matches_table(rows), table), table)


def test_a_run_at_a_url_is_reconstructed_beside_it_and_no_track_is_measured_twice(
    rendered: Rendered, kept_executor: Executor, store: Store, tmp_path: Path
) -> None:
    photographs, url = "s3://bucket/photographs", "s3://bucket/run"
    write_run(rendered, tmp_path / "run", photographs)
    for source, place in ((rendered.images, photographs), (tmp_path / "run", url)):
        target, local = Folder(place, store.options), Folder(str(source))
        for name in local.list():
            target.publish(name, local.read_bytes(name))
    how = {"refine": OPTIONS, "storage": store.options, "executor": kept_executor}
    pipeline.reconstruct(str(tmp_path / "run"), **how)
    expected = whole_of(tmp_path / "run" / "sfm")
    assert "refine/0/round-1/model/images.bin" in expected
    rounds = 0

    def stop(event: Event) -> None:
        nonlocal rounds
        rounds += event.name == "refined"
        if event.name == "progress" and rounds:
            raise Stop

    with pytest.raises(Stop):
        pipeline.reconstruct(url, progress=stop, **how)
    names = " ".join(store.files(f"{url}/sfm"))
    assert [names.count(f"round-{number}/image-") for number in range(2)] == [5, 1]
    summary = pipeline.reconstruct(url, **how)
    assert summary.output == f"{url}/sfm"
    assert store.files(f"{url}/sfm") == expected
    assert store.often("/refine/") == []


def test_a_refined_model_goes_to_a_url(
    model: Path, rendered: Rendered, kept_executor: Executor, store: Store
) -> None:
    what, how = (model, rendered.images), {"options": OPTIONS, "executor": kept_executor}
    pipeline.refine(*what, model.parent / "refined", **how)
    expected = whole_of(model.parent / "refined")
    url, how = "s3://bucket/refined", {**how, "storage": store.options}
    Folder(url, store.options).publish("report.txt", b"older")
    with pytest.raises(Stop):
        pipeline.refine(*what, url, progress=stop_at("points.ply"), **how)
    assert "report.txt" not in store.files(url)
    assert pipeline.refine(*what, url, **how).output == url
    assert store.files(url) == expected
    assert store.often("/refine/") == []


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("s3://nobucket/out", None), StorageError, r"s3://nobucket/out/.*does not exist; give"),
        (("s3://bucket/out", "SCRATCH"), StorageError, r"file/in: cannot be written to \(Not a"),
        (("s3://bucket/out", "s3://bucket/s"), StorageError, "is no folder of this machine"),
        (("PLACE/out", "PLACE"), ArgumentError, "is no use as scratch, because the work"),
        (("gs://bucket/out", None), StorageError, "not installed; pip install gcsfs"),
        (("http://127.0.0.1:9/out", None), StorageError, "cannot be written to; give a local"),
    ],
)
def test_where_nothing_can_be_written_one_sentence_comes_before_any_work(
    database: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, str | None],
    error: type[Exception],
    sentence: str,
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    (tmp_path / "file").touch()
    words = {"SCRATCH": f"{tmp_path}/file/in", "PLACE": str(tmp_path)}
    output, scratch = (
        text and text.replace("SCRATCH", words["SCRATCH"]).replace("PLACE", words["PLACE"])
        for text in arguments
    )
    events: list[Event] = []
    how = {"scratch": scratch, "storage": store.options, "progress": events.append}
    with pytest.raises(error, match=sentence):
        pipeline.reconstruct(database=database, output=output, **how)
    assert events == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_url_that_may_only_be_read_is_one_sentence_before_any_work(
    database: Path, store: Store
) -> None:
    store.refused = ("PUT", "")
    events: list[Event] = []
    how = {"storage": store.options, "progress": events.append}
    with pytest.raises(StorageError, match=r"bucket/out/.*: Access Denied; .* check rights"):
        pipeline.reconstruct(database=database, output="s3://bucket/out", **how)
    assert events == []


def test_what_is_left_of_other_options_counts_for_nothing_where_its_removal_is_stopped(
    store: Store,
) -> None:
    files = Folder("s3://bucket/belonging", store.options)
    keep_what_belongs(files, "made_of.json", {"size": 1})
    files.publish("done/0.json", b"{}")
    store.refused = ("DELETE", "/done/0.json")
    with pytest.raises(StorageError, match=r"done/0\.json: cannot be removed: .* check rights"):
        keep_what_belongs(files, "made_of.json", {"size": 2})
    store.refused = ("", "")
    keep_what_belongs(files, "made_of.json", {"size": 1})
    assert files.list() == ["made_of.json"]
