"""The documents are tested: links, commands, code, printed output, tables."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from pictures import views, write_views
from synthetic_run import Scene
from test_house import MODULES, RANKS

from benchmarks.pipeline import match_without_ray
from eloftr import EfficientLoFTRConfig, load_model
from eloftr.training.losses import ALPHA, GAMMA, WEIGHTS
from eloftr.training.options import TrainingOptions
from jobs import match_dataset, reconstruct
from pipeline import tables
from pipeline.match.options import MatchingOptions, RunOptions, VerificationOptions
from pipeline.match.run import Run
from pipeline.match.verify import VERIFIED
from pipeline.progress import Progress
from pipeline.store import lease
from pipeline.store.folder import Folder

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
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
    """A job's arguments are accepted."""


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
    """What follows a `$` in the console blocks, continued lines joined, each with the output printed below it."""
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
    """A text with every number and duration replaced, and `…`, which the documents print for some."""
    text = re.sub(
        r"(\d+ h )?(\d+ min )?(\d+|…) s\b", "# s", re.sub(r"[\d,.]*\d", "#", text.replace("…", "0"))
    )
    return re.sub(r"(# h )?(# min )?# s", "# s", text.replace("one cuda", "one cpu"))


def tables(text: str) -> list[list[list[str]]]:
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


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs as in the README: one is cut off."""
    folder = tmp_path_factory.mktemp("readme") / "photos"
    names = write_views(folder, 4)
    (folder / "cut.jpg").write_bytes((folder / names[0]).read_bytes()[:4000])
    return folder


@pytest.fixture(scope="module")
def finished(photos: Path) -> Path:
    """A finished run of them, and its reconstruction."""
    output = photos.parent / "run"
    options = RunOptions(
        str(photos),
        str(output),
        matching=MatchingOptions(LONG_SIDE),
        verification=VerificationOptions(long_side=LONG_SIDE),
    )
    match_without_ray(Run(options, "cpu"))
    assert (
        match_dataset.main(arguments(photos, output)) == 0
    )  # nothing is left to do: it writes the summary
    return output


def arguments(photos: Path, output: Path, *more: str) -> list[str]:
    return ["--images", str(photos), "--output", str(output), "--long-side", str(LONG_SIDE), *more]


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
        return
    script = words.index("python") + 1
    if words[script] == "-m":
        script += 1
        words[script] += ".__main__"
    module = importlib.import_module(words[script].removesuffix(".py").replace("/", "."))
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(
        self: argparse.ArgumentParser, arguments: Any = None, namespace: Any = None
    ) -> None:
        raise Parsed(parse(self, arguments, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        module.main(words[script + 1 :])


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
    found = pairs.read_pairs(tmp_path / "pairs.txt", names)
    assert (found.pairs.tolist(), found.failures.num_rows) == ([[0, 1], [2, 3]], 0)


def test_a_dry_run_prints_what_the_readme_shows(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert match_dataset.main(arguments(photos, photos.parent / "unused", "--dry-run")) == 0
    assert shape(capsys.readouterr().out) == shape(
        shown("python jobs/match_dataset.py --images photos --output run --dry-run")
    )
    assert not (photos.parent / "unused").exists()


def test_a_run_prints_what_the_readme_shows(
    photos: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan, progress, *summary = shown(
        "python jobs/match_dataset.py --images photos --output run"
    ).splitlines()
    monkeypatch.chdir(photos.parent)
    assert match_dataset.main(arguments(Path("photos"), Path("run"))) == 0
    printed = capsys.readouterr().out.splitlines()
    assert shape(printed[0]) == shape(plan) + "; # shard done"
    assert [shape(line) for line in printed[1:]] == [shape(line) for line in summary]
    assert shape(Progress(21).line(time.monotonic())).replace("unknown time", "# s") == shape(
        progress
    )


def test_other_options_are_refused_as_the_readme_shows(
    photos: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = shown("python jobs/match_dataset.py --images photos --output run --long-side 800")
    assert match_dataset.main([*arguments(photos, finished), "--long-side", "800"]) == 2
    printed = capsys.readouterr().err.replace(str(finished), "/home/you/run")
    assert printed == output.replace("was 640", f"was {LONG_SIDE}")


def test_a_reconstruction_prints_what_the_readme_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Scene(cameras=5).write(tmp_path / "run")
    assert reconstruct.main([str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out.replace(str(tmp_path) + "/", "")
    no_colours = re.sub(r"^note: .*\n", "", printed, flags=re.M)  # this scene has no photographs
    assert shape(no_colours) == shape(shown("python jobs/reconstruct.py run"))


def test_the_demo_prints_what_the_readme_shows() -> None:
    source = text_of("jobs/demo.py")
    for label in re.findall(r"^ *([a-z]+(?: [a-z]+)*)(?=[: ]+)", shown("make demo"), re.M):
        assert label.split()[0] in source, label


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
    assert reconstruct.main([str(finished)]) in (0, 1)
    Scene(cameras=4).write(tmp_path / "run")
    assert reconstruct.main([str(tmp_path / "run")]) == 0
    made = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    made |= {
        f"sfm/{path.relative_to(tmp_path / 'run' / 'sfm')}"
        for path in (tmp_path / "run/sfm").rglob("*.*")
    }
    made = {
        re.sub(r"\d{8}\.", "<shard>.", re.sub(r"sparse/\d+/\w+", "sparse/<n>/*", f"run/{name}"))
        for name in made
    }
    listings = {
        block.document: tree(block.text)
        for block in blocks("text")
        if block.text.startswith("run/")
    }
    assert listings["run_folder.md"] == made
    assert listings["README.md"] == {name for name in made if not name.startswith("run/sfm/")}


def test_the_columns_are_those_of_the_schemas() -> None:
    headings = re.findall(r"^### .*: `([A-Z]+)`$", text_of("docs/run_folder.md"), re.M)
    assert set(headings) == {
        name for name, value in vars(schemas).items() if isinstance(value, pa.Schema)
    }
    for name in headings:
        (heading,) = re.findall(rf"^### (.*: `{name}`)$", text_of("docs/run_folder.md"), re.M)
        (table,) = tables(section("docs/run_folder.md", heading))
        assert [tuple(row[:2]) for row in table] == [
            (f.name, said(f.type)) for f in getattr(schemas, name)
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
        dict(table) for table in tables(section("docs/run_folder.md", "Reasons"))
    )
    assert of_images == images.REASONS
    assert of_lines == pairs.REASONS
    assert of_pairs.pop("bad_numbers")
    assert '"bad_numbers"' in text_of("pipeline/verification.py")
    assert of_pairs == matching.REASONS
    (geometries,) = tables(section("docs/run_folder.md", "Geometries"))
    assert [name for name, _ in geometries] == ["none", "degenerate", "undefined", *VERIFIED]


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
    (rows,) = tables(section("docs/run_folder.md", "summary.json"))
    session, stages = dict(rows)["session"], dict(rows)["stage_seconds"]
    assert all(name in session for name in summary["session"])
    assert all(name in stages for name in summary["stage_seconds"])


def described(heading: str) -> set[str]:
    (table,) = tables(section("docs/run_folder.md", heading))
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


def modules_in_tables() -> Iterator[tuple[str, list[list[str]]]]:
    model, pipeline = tables(section("docs/design.md", "Modules"))
    yield "eloftr", model
    yield "pipeline", [row[1:] for row in pipeline]


def test_the_modules_are_those_of_the_project() -> None:
    for package, rows in modules_in_tables():
        found = {
            path.relative_to(PROJECT / package).as_posix()
            for path in MODULES
            if PROJECT / package in path.parents
        }
        assert {row[0] for row in rows} == {
            name for name in found if not name.endswith("__init__.py")
        }
    text = section("docs/design.md", "Modules")
    for path in MODULES:
        if path.parent.name in ("jobs", "benchmarks") and path.stem != "__init__":
            assert f"`{path.name}`" in text


def test_the_ranks_are_those_the_house_enforces() -> None:
    _, rows = tables(section("docs/design.md", "Modules"))
    ranks = [
        {module.removesuffix(".py") for rank, module, _ in rows if int(rank) == k}
        for k in range(len(RANKS))
    ]
    assert ranks == RANKS


def test_the_faults_are_those_of_the_tests_and_the_code() -> None:
    faults = text_of("docs/faults.md")
    tested = "".join(
        path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("test_*.py")
    )
    named = set(re.findall(r"`(test_\w+)`", faults))
    assert len(named) >= 8
    assert not [name for name in named if f"def {name}(" not in tested]
    for row in tables(section("docs/faults.md", "What happens"))[0]:
        expected, present, doubled, lost = map(int, row[3:])
        assert (present, doubled, lost) == (expected, 0, 0)
    assert f"renewed every {lease.BEAT:.0f} seconds" in faults
    assert f"after {lease.EXPIRY:.0f} seconds without" in faults
    assert f"has {Folder('x').patience:.0f} seconds, and four tries" in faults
    assert (Folder("x").attempts, matching.TRIES, matching.SMALLER) == (4, 4, 8)
    codes = {
        row[0] for row in tables(section("docs/faults.md", "Exit codes of `match_dataset.py`"))[0]
    }
    assert codes - {"137"} == set(re.findall(r"(\d+) ", match_dataset.EPILOG))


def test_decisions_are_three_lines_each() -> None:
    entries = re.split(
        r"^\*\*.*\*\*\n",
        re.sub(r"^## .*\n", "", text_of("docs/decisions.md"), flags=re.M),
        flags=re.M,
    )[1:]
    assert len(entries) > 40
    for entry in entries:
        assert [line[:4] for line in entry.strip().splitlines()] == ["- Wh", "- Wh", "- Re"], entry


def test_the_training_options_and_losses_are_those_of_the_recipe() -> None:
    (rows,) = [
        table
        for table in tables(section("docs/training.md", "The run"))
        if table[0][0].startswith("--")
    ]
    defaults = {f"--{f.name.replace('_', '-')}": f.default for f in fields(TrainingOptions)}
    assert {name: value for name, value, _ in rows} == {
        name: "" if value is None else str(value) for name, value in defaults.items()
    }
    (losses,) = tables(section("docs/training.md", "Losses"))
    assert {name: float(weight) for name, weight, _ in losses} == WEIGHTS
    assert f"α {ALPHA}, γ {GAMMA:g}" in text_of("docs/training.md")


def test_the_model_card_is_of_the_bundled_weights() -> None:
    model = load_model("small")
    (facts, *_) = tables(text_of("docs/model_card.md"))
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
            assert folder.read_table(name).schema.equals(schema, check_metadata=True), name
