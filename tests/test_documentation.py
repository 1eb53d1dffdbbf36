"""The documents are tested: links, commands, code, printed output, tables."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import re
import shlex
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pyarrow as pa
import pytest
import yaml
from pictures import views, write_views
from synthetic_run import Scene
from test_house import ABOVE

import eloftr
from eloftr import EfficientLoFTRConfig, load_model
from eloftr.training.losses import ALPHA, GAMMA, WEIGHTS
from eloftr.training.options import TrainingOptions
from pipeline import tables
from pipeline.cli import main
from pipeline.cli.command import Command as ClickCommand
from pipeline.cli.console import ExitCode
from pipeline.cli.refining import chosen_options
from pipeline.demo.job import DemoSummary
from pipeline.demo.truth import PoseErrors
from pipeline.events import Event, Progress
from pipeline.execute.executor import Actors
from pipeline.match.match import SMALLER
from pipeline.match.read import TRIES
from pipeline.match.run import RunSummary
from pipeline.pairs.pair_list import read_pairs
from pipeline.photos.limits import ImageLimits
from pipeline.reconstruct.cameras.assign import SharedCamera
from pipeline.reconstruct.cameras.focal import FocalDecision
from pipeline.reconstruct.cameras.options import CameraOptions
from pipeline.reconstruct.database import ImportSummary
from pipeline.reconstruct.models.refining import RefineSummary
from pipeline.reconstruct.refine.round import RoundSummary
from pipeline.reconstruct.summary import ModelSummary, ReconstructionSummary
from pipeline.store import lease
from pipeline.store.folder import Folder
from pipeline.store.opening import storage_options
from pipeline.vocabulary import (
    IMAGE_MEANINGS,
    LINE_MEANINGS,
    PAIR_MEANINGS,
    VERIFIED,
    Geometry,
    StageName,
    Status,
)

pytestmark = pytest.mark.usefixtures("kept_processes")

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
RESULTS = PROJECT / "benchmarks" / "results"
LONG_SIDE = 160


class Block(NamedTuple):
    document: str
    language: str
    text: str


class Command(NamedTuple):
    document: str
    text: str
    output: str


class Parsed(Exception):
    """Arguments are accepted; its argument holds what they say."""


def text_of(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def blocks(language: str) -> list[Block]:
    return [
        Block(path.name, language, found[1])
        for path in DOCUMENTS
        for found in re.finditer(
            rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S
        )
    ]


def commands() -> list[Command]:
    """What follows a `$` in the console blocks, with its output; continued lines are joined."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append(Command(block.document, command, output))
    return found


def shown(start: str) -> str:
    """The output the documents print below the command that starts so."""
    (output,) = [command.output for command in commands() if command.text == start]
    return output


def shape(text: str) -> str:
    """A text in which numbers, durations and `…`, which stands for some of them, are replaced."""
    text = re.sub(
        r"(\d+ h )?(\d+ min )?(\d+|…) s\b", "# s", re.sub(r"[\d,.]*\d", "#", text.replace("…", "0"))
    )
    return re.sub(r"(# h )?(# min )?# s", "# s", text.replace("one cuda", "one cpu"))


def tables_of(text: str) -> list[list[list[str]]]:
    """Markdown tables as rows of cells, without backticks, header and rule left out."""
    found = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.M)
    return [
        [[cell.strip().strip("`") for cell in row.split("|")[1:-1]] for row in rows.splitlines()]
        for rows in found
    ]


def section(name: str, heading: str) -> str:
    """What lies below a heading of a document, up to the next heading of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*)", text_of(name), re.M | re.S)
    assert found, f"{name} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(found[1])}}} ", found[2], flags=re.M)[0]


class Run(NamedTuple):
    """A finished run, and what the command printed."""

    folder: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs as in the README: one is cut off."""
    folder = tmp_path_factory.mktemp("readme") / "photos"
    names = write_views(folder, 4)
    (folder / "cut.jpg").write_bytes((folder / names[0]).read_bytes()[:4000])
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(arguments(photos, photos.parent / "run")) == 0
    return Run(photos.parent / "run", out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def finished(run: Run) -> Path:
    return run.folder


def arguments(photos: Path, output: Path, *more: str) -> list[str]:
    """The README's command, on this machine and with small images."""
    small = ("--long-side", str(LONG_SIDE), "--executor", "local")
    return ["match", "--images", str(photos), "--output", str(output), *small, *more]


def understood(words: list[str]) -> Mapping[str, Any]:
    """The options of a command line of `eloftr`, which is read and not carried out."""

    def stop(self: ClickCommand, ctx: click.Context) -> None:
        raise Parsed(ctx.params)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ClickCommand, "invoke", stop)
        with pytest.raises(Parsed) as parsed:
            main(words)
    given: Mapping[str, Any] = parsed.value.args[0]
    if "actors" in given:
        Actors.parse(given["actors"], given.get("actor_gpus"))
    if "limits" in given:
        ImageLimits.parse(given["limits"])
    if "refine_sizes" in given:
        chosen_options(given)
    if "storage" in given:
        storage_options(given["storage"])
    if "camera_model" in given:  # files are only named
        words = (given[name] for name in ("camera_sharing", "intrinsics"))
        sharing, intrinsics = (None if re.search(r"\.\w+$", word or "") else word for word in words)
        CameraOptions.parse(given["camera_model"], sharing or "auto", intrinsics)
    return given


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert PROJECT in (target, *target.parents), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
            slugs = {
                re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            assert anchor in slugs, link


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.text[:60])
def test_every_command_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command.text)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of("Makefile"), re.M)
    elif "eloftr" in words:
        before, *rest = command.text.split("eloftr ", 1)
        assert re.fullmatch(r"(\w+=\S+ )*", before)
        understood(shlex.split(rest[0]))
    else:
        script, *rest = words[words.index("python") + 1 :]
        if script.startswith("jobs/"):
            (name,) = re.findall(r'main\(\["(\w+)"', text_of(script))
            understood([name, *rest])
        else:
            assert parsed_by_script(script, rest, monkeypatch)


def parsed_by_script(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(
        self: argparse.ArgumentParser, arguments: Any = None, namespace: Any = None
    ) -> None:
        raise Parsed(parse(self, arguments, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed) as parsed:
        module.main(words)
    return parsed.value.args[0]


def commands_in_shell_blocks() -> list[str]:
    """Lines of `sh` blocks that call `eloftr`, from the word on, without comment."""
    lines = [
        line
        for block in blocks("sh")
        for line in block.text.replace("\\\n", " ").splitlines()
        if not line.startswith(("docker ", "pip "))
    ]
    found = [re.search(r"(?:^| )eloftr (\w+ [^&#]*)", line) for line in lines]
    return [words[1] for words in found if words and " ray-" not in words[0]]


@pytest.mark.parametrize("text", commands_in_shell_blocks())
def test_every_command_of_a_shell_block_is_understood(text: str) -> None:
    understood(shlex.split(text))


def named_paths(text: str) -> set[str]:
    """Files and folders of the project that a document names in code, and what its blocks run."""
    tops = "|".join(path.name for path in PROJECT.iterdir() if path.is_dir())
    found = re.findall(rf"(?<![\w/.-])((?:{tops})/[\w./-]*\w)", text)
    return {path for path in found if not re.search(r"[A-Z]{4}", path)}  # NAME is anybody's


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, *sorted(RESULTS.glob("*.md"))], ids=lambda path: path.name
)
def test_every_path_that_is_named_exists(path: Path) -> None:
    named = named_paths(path.read_text(encoding="utf-8"))
    assert sorted(name for name in named if not (PROJECT / name).exists()) == []


def test_the_results_and_their_scripts_are_those_that_there_are() -> None:
    (table,) = [
        rows for rows in tables_of(text_of("benchmarks/results/README.md")) if ".json" in rows[0][0]
    ]
    named = [name for row in table for name in re.findall(r"[\w.]+\.json", row[0])]
    assert sorted(named) == sorted(path.name for path in RESULTS.glob("*.json"))
    scripts = {name for row in table for name in re.findall(r"[\w/]+\.py", row[1])}
    assert scripts
    assert [name for name in scripts if not (PROJECT / "benchmarks" / name).exists()] == []


@pytest.mark.parametrize(
    "block", [*blocks("python"), *blocks("json")], ids=lambda block: block.document
)
def test_code_is_code(block: Block) -> None:
    if block.language == "json":
        assert EfficientLoFTRConfig.from_dict(json.loads(block.text)).fine_matching_centered
    else:
        compile(block.text, block.document, "exec")


def test_the_readme_s_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name, view in zip(("view_00.jpg", "view_02.jpg", "view_04.jpg"), views(3), strict=True):
        view.save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("python") if block.document == "README.md"]
    scope: dict[str, Any] = {}
    exec(compile(block.text, "README.md", "exec"), scope)
    assert len(scope["matches"]) > 50
    assert (tmp_path / "matches.png").stat().st_size > 10_000
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_pair_list_of_the_readme_is_read(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("text") if block.text.startswith("# pairs.txt")]
    (tmp_path / "pairs.txt").write_text(block.text)
    names = ["old town/gate 1.jpg", "old town/gate 2.jpg", "view_00.jpg", "view_02.jpg"]
    found = read_pairs(tmp_path / "pairs.txt", names)
    assert (found.pairs.tolist(), found.failures.num_rows) == ([[0, 1], [2, 3]], 0)


def test_a_dry_run_prints_what_the_readme_shows(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(photos, photos.parent / "unused", "--dry-run")) == 0
    assert shape(capsys.readouterr().out) == shape(
        shown("eloftr match --images photos --output run --dry-run")
    )
    assert not (photos.parent / "unused").exists()


def test_a_run_prints_what_the_readme_shows(run: Run) -> None:
    plan, progress, *summary = shown("eloftr match --images photos --output run").splitlines()
    printed = run.out.replace(str(run.folder), "run").splitlines()
    assert [shape(line) for line in printed] == [shape(line) for line in (plan, *summary)]
    assert shape(run.err) == shape(progress) + "\n"


def test_the_same_command_again_prints_the_same_and_does_nothing(
    photos: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _, *summary = shown("eloftr match --images photos --output run").splitlines()
    assert main(arguments(photos, finished)) == 0
    printed = capsys.readouterr()
    lines = printed.out.replace(str(finished), "run").splitlines()
    assert shape(lines[0]) == shape(plan) + "; # shard done"
    assert [shape(line) for line in lines[1:]] == [shape(line) for line in summary]
    assert printed.err == ""


def test_other_options_are_refused_as_the_document_shows(
    photos: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shown("eloftr match --images photos --output run --long-side 800")
    assert main([*arguments(photos, finished), "--long-side", "800"]) == 2
    printed = capsys.readouterr().err.replace(str(finished), "/home/you/run")
    assert printed == output.replace("was 640", f"was {LONG_SIDE}")


def test_a_reconstruction_prints_what_the_readme_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Scene(cameras=5).write(tmp_path / "run")
    assert main(["reconstruct", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out.replace(str(tmp_path) + "/", "")
    no_colours = re.sub(r"^note: .*\n", "", printed, flags=re.M)  # this scene has no photographs
    no_colours = re.sub(r"( px) \(.* to .*\)", r"\1", no_colours)  # nor one camera for all of them
    refining = r"^( +refined|adjusting|track length|\d+ images at|\d+ of \d+ images ·).*\n"
    expected = re.sub(refining, "", shown("eloftr reconstruct run"), flags=re.M)
    assert shape(no_colours) == shape(expected)


def test_pictures_of_a_run_are_reported_as_the_readme_shows(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(finished.parent)
    assert main(["draw", "--run", "run", "--output", str(tmp_path / "pictures")]) == 0
    printed = capsys.readouterr().out.replace(f"{tmp_path}/", "").replace("view ", "view_")
    expected = shown("eloftr draw --run run --output pictures")
    assert {shape(line) for line in printed.splitlines()} == {
        shape(line) for line in expected.splitlines()
    }


def test_the_demo_prints_what_the_readme_shows() -> None:
    home = Path("/home/you/eloftr-pipeline/demo")
    names = [str(number) for number in range(12)]
    imported = ImportSummary(*range(10), resize_factor=1.0)
    made = ReconstructionSummary(home / "run" / "sfm", imported, [], [], [])
    pictures = [home / f"matches_{number}.png" for number in range(3)]
    errors = PoseErrors(names, np.ones(12), np.ones(12), missing=[], spread=1.0)
    matching = RunSummary()
    text = DemoSummary(
        home / "run", 12, matching, made, errors, [*pictures, home / "reconstruction.png"]
    ).text()
    assert shape("…\n" + text) == shape(shown("make demo"))


def tree(block: str) -> set[str]:
    """Paths of an indented listing."""
    found: set[str] = set()
    parents: list[str] = []
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        if not name.endswith("/"):
            found.add("".join(parents))
    return found


def test_every_file_of_a_run_is_in_the_listings(finished: Path, tmp_path: Path) -> None:
    assert main(["reconstruct", str(finished)]) in (0, 1)
    Scene(cameras=4).write(tmp_path / "run")
    assert main(["reconstruct", str(tmp_path / "run")]) == 0
    made = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    made |= {
        f"sfm/{path.relative_to(tmp_path / 'run' / 'sfm')}"
        for path in (tmp_path / "run/sfm").rglob("*.*")
    }
    made = {
        re.sub(
            r"\d{8}\.", "<shard>.", re.sub(r"(sparse|mapped)/\d+/\w+", r"\1/<n>/*", f"run/{name}")
        )
        for name in made
    }
    listings = {
        block.document: tree(block.text)
        for block in blocks("text")
        if block.text.startswith("run/")
    }
    # Only photographs that are turned have later rounds, and only models that were refined were
    # mapped before. Their measurements have a section of their own.
    later = {"run/plan/round_<n>.parquet", "run/probes/<shard>.parquet"}
    later |= {"run/plan/detail_<n>.parquet"}  # only of a run with finer passes
    later |= {"run/sfm/mapped/<n>/*.bin"}
    measured = {name for name in made if name.startswith("run/sfm/refine/")}
    assert listings["run_folder.md"] == made - measured | later
    assert listings["README.md"] == {name for name in made if not name.startswith("run/sfm/")}


def test_the_columns_are_those_of_the_schemas() -> None:
    headings = re.findall(r"^### .*: `([A-Z]+)`$", text_of("docs/run_folder.md"), re.M)
    assert set(headings) == {
        name for name, value in vars(tables).items() if isinstance(value, pa.Schema)
    }
    for name in headings:
        (heading,) = re.findall(rf"^### (.*: `{name}`)$", text_of("docs/run_folder.md"), re.M)
        (table,) = tables_of(section("docs/run_folder.md", heading))
        assert [tuple(row[:2]) for row in table] == [
            (f.name, said(f.type)) for f in getattr(tables, name)
        ], name


def said(kind: pa.DataType) -> str:
    """A type in the words of the documents."""
    if pa.types.is_fixed_size_list(kind):
        return f"{said(kind.value_type)}[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list of {said(kind.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def test_the_reasons_and_geometries_are_those_of_the_code() -> None:
    of_images, of_lines, of_pairs = (
        dict(table) for table in tables_of(section("docs/run_folder.md", "Reasons"))
    )
    assert of_images == IMAGE_MEANINGS
    assert of_lines == LINE_MEANINGS
    assert of_pairs == PAIR_MEANINGS
    (geometries,) = tables_of(section("docs/run_folder.md", "Geometries"))
    names = [name for name, _ in geometries]
    assert names == ["none", "degenerate", "undefined", *VERIFIED]
    assert set(names) == set(Geometry)
    assert len(names) == len(Geometry)


def test_the_fields_of_the_json_files_are_described(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    options = {f"options.{name}" for name in run.pop("options")}
    assert described("run.json") == run.keys() | options
    assert (
        described("Done markers")
        == json.loads(next((finished / "done").iterdir()).read_text()).keys()
    )
    summary = json.loads((finished / "summary.json").read_text())
    assert described("summary.json") == summary.keys()
    (rows,) = tables_of(section("docs/run_folder.md", "summary.json"))
    session, stages = dict(rows)["session"], dict(rows)["stage_seconds"]
    assert all(name in session for name in summary["session"])
    assert all(name in stages for name in summary["stage_seconds"])


def test_the_fields_of_the_summary_of_models_are_described() -> None:
    head, *parts = tables_of(section("docs/run_folder.md", "sfm/summary.json"))
    own = names_of(ReconstructionSummary) - {"output"}
    assert {name for name, _ in head} == own | {"asked", "versions"}
    for rows, kind in zip(parts, (ImportSummary, ModelSummary), strict=True):
        assert {name for name, _ in rows} == names_of(kind)
    for rows, name, kind in (
        (head, "focal", FocalDecision),
        (parts[0], "shared_cameras", SharedCamera),
        (parts[1], "rounds", RoundSummary),
    ):
        assert names_of(kind) <= set(re.findall(r"`(\w+)`", dict(rows)[name]))
    refined = section("docs/run_folder.md", "sfm/summary.json").rpartition("\n\n`eloftr refine`")[2]
    assert names_of(RefineSummary) - {"output"} <= set(re.findall(r"`(\w+)`", refined))


def names_of(kind: type) -> set[str]:
    """The fields of a dataclass."""
    return {field.name for field in fields(kind)}


def described(heading: str) -> set[str]:
    (table,) = tables_of(section("docs/run_folder.md", heading))
    return {row[0] for row in table}


def test_the_ways_to_read_a_run_work(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.parent)
    for block in blocks("python"):
        if block.document == "run_folder.md" and (
            "pandas" not in block.text or pytest.importorskip("pandas")
        ):
            exec(compile(block.text, block.document, "exec"), {})
    assert "view 0.jpg" in capsys.readouterr().out
    (query,) = blocks("sql")
    columns = set(re.findall(r"\b[a-z_]+[01]?\b", re.sub(r"'.*?'", "", query.text)))
    assert columns <= set(tables.MATCHES.names)


def rooms() -> list[list[str]]:
    """The rooms of each row of the table in docs/design.md, in its order."""
    (rows,) = tables_of(section("docs/design.md", "Rooms"))
    package, found = "", []
    for room, *_ in rows:
        top = re.fullmatch(r"\*\*(\w+)/\*\*", room)
        package = top[1] if top else package
        folders = re.findall(r"([\w/]+)/(?=`|$)", room)
        inside = [name if name.startswith(package) else f"{package}/{name}" for name in folders]
        found.append([package] if top or not folders else inside)
    return found


def test_imports_point_towards_the_top_of_the_table_of_rooms() -> None:
    rank = {room: row for row, names in enumerate(rooms()) for room in names}
    rank["eloftr"] = rank["eloftr/fast"]  # the network's parts and their faster forms are one
    front = {"pipeline.front"}  # pipeline/__init__.py calls the rooms, and the table leaves it out
    for room in ABOVE.keys() - front:
        for other in ABOVE[room] - front:
            assert rank[other] <= rank[room], f"{room} imports {other}"


def test_the_files_at_the_top_of_the_pipeline_are_in_the_table_of_rooms() -> None:
    (row,) = [
        row for row in tables_of(section("docs/design.md", "Rooms"))[0] if row[0].endswith(".py")
    ]
    files = {path.name for path in (PROJECT / "pipeline").glob("*.py")}
    assert set(re.findall(r"\w+\.py", row[0])) == files - {"__init__.py"}


def test_the_faults_are_those_of_the_tests_and_the_code() -> None:
    faults, counted = text_of("docs/faults.md"), text_of("benchmarks/results/faults.md")
    tested = "".join(
        path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("test_*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", faults))
    assert len(named) >= 8
    assert not [name for name in named if f"def {name}(" not in tested]
    assert named == set(re.findall(r"`(test_\w+)`", counted))
    assert len(tables_of(counted)[0]) == len(
        tables_of(section("docs/faults.md", "What happens"))[0]
    )
    for row in tables_of(counted)[0]:
        expected, present, doubled, lost = map(int, row[2:])
        assert (present, doubled, lost) == (expected, 0, 0)
    assert f"renewed every {lease.BEAT:.0f} seconds" in faults
    assert f"after {lease.EXPIRY:.0f} seconds without" in faults
    assert f"has {Folder('x').patience:.0f} seconds, and four tries" in faults
    assert (Folder("x").attempts, TRIES, SMALLER) == (4, 4, 8)


@pytest.mark.parametrize(
    ("document", "heading"),
    [
        ("README.md", "When something is wrong"),
        ("docs/faults.md", "Exit codes"),
        ("docs/commands.md", "Exit codes"),
    ],
)
def test_the_exit_codes_are_those_of_the_code(document: str, heading: str) -> None:
    codes = {row[0] for row in tables_of(section(document, heading))[0]}
    assert codes - {"137"} == {str(code.value) for code in ExitCode}  # 137 is the shell's


def test_the_events_are_those_of_the_code() -> None:
    source = "".join(path.read_text() for path in (PROJECT / "pipeline").rglob("*.py"))
    assert set(described_events()) == {*re.findall(r'Event\(\s*"(\w+)"', source), "error"}
    reported: list[Event] = []
    Progress(2, listen=reported.append).advance(1)
    assert described_events()["progress"] == reported[0].fields.keys()


def described_events() -> dict[str, set[str]]:
    """The fields of every event, as docs/faults.md names them."""
    events, *_ = tables_of(section("docs/faults.md", "Seen from outside"))
    return {
        name: set(re.findall(r"\w+", fields))
        for names, fields in events
        for name in re.findall(r"\w+", names)
    }


def test_the_events_of_a_run_have_the_fields_that_are_described(
    photos: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(photos, finished, "--json")) == 0
    out, err = capsys.readouterr()
    assert json.loads(out).keys() == described("summary.json")
    (plan,) = map(json.loads, err.splitlines())
    assert plan.keys() == {"time", "event", *described_events()["plan"]}


def test_the_metrics_are_those_of_the_code() -> None:
    _, metrics = tables_of(section("docs/faults.md", "Seen from outside"))
    source = "".join(path.read_text() for path in (PROJECT / "pipeline").rglob("*.py"))
    counted = re.findall(r'executor\.count\("(\w+)"', source)
    assert {row[0] for row in metrics} == {f"ray_{name}_total" for name in counted}
    labels = {row[0]: row[1] for row in metrics}
    assert all(status in labels["ray_eloftr_pairs_total"] for status in Status)
    stages = {stage for stage in StageName if stage is not StageName.PLAN}
    assert stages == set(re.findall(r"\w+", labels["ray_eloftr_stage_seconds_total"])[1:])


def test_decisions_are_three_lines_each() -> None:
    text = re.sub(r"^## .*\n", "", text_of("docs/decisions.md"), flags=re.M)
    found = re.split(r"^\*\*.*\*\*\n", text, flags=re.M)[1:]
    assert len(found) > 40
    for entry in found:
        lines = [line.partition(":")[0] for line in entry.strip().splitlines()]
        assert lines == ["- Why", "- Rejected"], entry


def test_the_page_of_python_names_all_that_is_public() -> None:
    named = re.findall(r"^::: ([\w.]+)$", text_of("docs/api.md"), re.M)
    assert len(named) == len(set(named))
    of_model = {name.partition(".")[2] for name in named if name.startswith("eloftr.")}
    same = {name for name in eloftr.__all__ if name.startswith(("Auto", "__"))}  # other names
    assert of_model == set(eloftr.__all__) - same
    assert {"pipeline", "pipeline.errors"} <= set(named)


def test_every_page_is_in_the_menu_of_the_site() -> None:
    class Loader(yaml.SafeLoader):
        """Reads tags of other programs as text."""

    Loader.add_multi_constructor("", lambda loader, tag, node: None)
    menu = json.dumps(yaml.load(text_of("mkdocs.yml"), Loader)["nav"])
    pages = {path.name for path in (PROJECT / "docs").glob("*.md")}
    assert set(re.findall(r"\w+\.md", menu)) == pages


def test_the_training_options_and_losses_are_those_of_the_recipe() -> None:
    (rows,) = [
        table
        for table in tables_of(section("docs/training.md", "The run"))
        if table[0][0].startswith("--")
    ]
    defaults = {f"--{f.name.replace('_', '-')}": f.default for f in fields(TrainingOptions)}
    assert {name: value for name, value, _ in rows} == {
        name: "" if value is None else str(value) for name, value in defaults.items()
    }
    (losses,) = tables_of(section("docs/training.md", "Losses"))
    assert {name: float(weight) for name, weight, _ in losses} == WEIGHTS
    assert f"α {ALPHA}, γ {GAMMA:g}" in text_of("docs/training.md")


def test_the_model_card_is_of_the_bundled_weights() -> None:
    model = load_model("small")
    (facts, *_) = tables_of(text_of("docs/model_card.md"))
    card = dict(facts)
    assert card["parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,};")
    assert ", ".join(map(str, model.config.out_features)) in card["backbone"]
    assert ", ".join(map(str, model.config.stage_num_blocks)) in card["backbone"]
    assert card["attention"].startswith(f"{model.config.num_attention_layers} rounds")


def test_a_run_folder_s_tables_have_the_declared_schemas(finished: Path) -> None:
    folder = Folder(str(finished))
    kinds = {
        "matches": tables.MATCHES,
        "images": tables.IMAGES,
        "failures": tables.FAILURES,
        "plan": tables.SHARDS,
    }
    for place, schema in kinds.items():
        for name in folder.names(place):
            declared = tables.HEADINGS if name == "plan/headings.parquet" else schema
            assert folder.read_table(name).schema.equals(declared, check_metadata=True), name
