"""The commands of docs/reranking.md before matching are run, and print what it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pictures import write_views
from test_documentation import PROJECT, Command, commands, section, shape, tables_of

from benchmarks.quality import reranking, screening
from pipeline.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six photographs, two queries, and what a model says of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rng = np.random.default_rng(0)
    for folder, count in (("photos", 6), ("queries", 2)):
        names = np.array(write_views(tmp_path / folder, count))
        np.savez(f"{folder}.npz", names=names, descriptors=rng.normal(size=(count, 16)))
    return tmp_path


def without_matching() -> list[Command]:
    """Those that make lists, then the dry run of one of them."""
    mine = [command for command in commands() if command.document == "reranking.md"]
    return [c for word in ("eloftr pairs", "--dry-run") for c in mine if word in c.text]


def test_every_command_before_matching_prints_what_the_document_shows(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(without_matching()) == 3
    for command in without_matching():
        assert main(shlex.split(command.text)[1:]) == 0, command.text
        printed = capsys.readouterr()
        assert shape(printed.err + printed.out) == shape(command.output), command.text
        counts = r"^(?:queries:|candidates:|partners:|\d+ queries|\d+ images|round).*"
        assert re.findall(counts, printed.out, re.M) == re.findall(counts, command.output, re.M)
    assert sorted(
        path.name for path in here.iterdir() if path.name not in ("photos", "queries")
    ) == [*("candidates.parquet", "candidates.trec", "photos.npz", "queries.npz")]


@pytest.mark.parametrize(
    ("script", "title"), [(reranking, "Measured"), (screening, "Long lists")], ids=str
)
def test_the_measured_numbers_are_those_of_the_results(
    script: ModuleType, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = script.__name__.rpartition(".")[2]
    results = PROJECT / "benchmarks" / "results" / f"{name}.json"
    assert script.main(["--table", str(results)]) == 0
    assert tables_of(section("benchmarks/results/reranking.md", title)) == tables_of(
        capsys.readouterr().out
    )
