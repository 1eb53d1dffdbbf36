"""The commands of docs/pairs.md are run, one after another, and print what it shows."""

from __future__ import annotations

import json
import re
import shlex
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import views
from PIL import Image
from synthetic_run import LONG_SIDE, Scene, write_shard
from test_documentation import Command, blocks, commands, section, shape, tables_of, text_of

from pipeline.cli import main
from pipeline.cli.commands.pairs import METHODS
from pipeline.match.options import VerificationOptions
from pipeline.match.verify import VerifyShard
from pipeline.pairs import formats
from pipeline.pairs.descriptors import read_descriptors
from pipeline.vocabulary import LIST_MEANINGS

pytestmark = pytest.mark.usefixtures("kept_processes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of a street, 10 m apart, the sixth where the first was; a seventh that is
    cut off; their positions; a run that matched each image with the next two, and its model.
    """
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "photos").mkdir()
    metres = [0, 10, 20, 30, 40, 0]
    for number, (view, north) in enumerate(zip(views(6), metres, strict=True)):
        exif = Image.Exif()
        exif[0x8825] = {
            1: "N",
            2: (50.0, 5.0, north / 111_229 * 3600),
            3: "E",
            4: (14.0, 24.0, 0.0),
        }
        view.save(folder / "photos" / f"view_{number:02}.jpg", quality=92, exif=exif)
    (folder / "photos" / "cut.jpg").write_bytes(
        (folder / "photos" / "view_00.jpg").read_bytes()[:4000]
    )
    names = [f"view_{number:02}.jpg" for number in range(6)]
    rows = [f"{name},{north},0" for name, north in zip(names, metres, strict=True)]
    (folder / "positions.csv").write_text("\n".join(["image,x,y", *rows]) + "\n")
    around = np.array(metres) / 10
    vectors = np.stack([np.cos(around), np.sin(around)], axis=1)
    np.savez(folder / "descriptors.npz", names=np.array(names), descriptors=vectors)
    scene = Scene(cameras=6)
    scene.write(folder / "run", shards=0)
    near = [(i, j) for i, j in combinations(range(6), 2) if j - i <= 2]
    verify = VerifyShard(VerificationOptions(long_side=LONG_SIDE))
    write_shard(
        folder / "run", "00000", verify(scene.matches_of(near), scene.images()), scene.images()
    )
    assert main(["reconstruct", str(folder / "run")]) == 0
    return folder


def local() -> list[Command]:
    return [
        command
        for command in commands()
        if command.document == "pairs.md" and "s3://" not in command.text
    ]


def test_every_command_prints_what_the_document_shows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    for command in local():
        assert main(shlex.split(command.text)[1:]) == 0, command.text
        printed = capsys.readouterr()
        assert shape(printed.err + printed.out) == shape(command.output), command.text
        for number in (
            "pairs",
            "images",
            "queries",
            "candidates",
        ):  # no seconds: the same everywhere
            assert re.findall(rf"^{number}: .*", printed.out, re.M) == re.findall(
                rf"^{number}: .*", command.output, re.M
            )


def test_every_way_to_choose_pairs_is_shown() -> None:
    assert {shlex.split(command.text)[2] for command in local()} == set(METHODS)


def test_the_formats_and_reasons_are_those_of_the_code() -> None:
    (rows,) = tables_of(section("docs/pairs.md", "Formats"))
    assert [row[0] for row in rows] == list(formats.FORMATS)
    for name, endings, _ in rows:
        known = formats.OF_CANDIDATES if name == "trec" else formats.ENDINGS
        assert all(
            formats.format_of("p" + ending, name, known) for ending in re.findall(r"\.\w+", endings)
        )
    (reasons,) = tables_of(section("docs/pairs.md", "What cannot be used"))
    assert dict(reasons) == LIST_MEANINGS


def test_the_descriptors_of_the_document_s_code_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks("python") if block.document == "pairs.md"]
    exec(compile(block.text, block.document, "exec"), {})
    assert read_descriptors("descriptors.npz").vectors.shape == (2, 512)


def results(name: str) -> dict[str, Any]:
    return json.loads(text_of(f"benchmarks/results/{name}.json"))


def test_the_measured_numbers_are_those_of_the_results() -> None:
    labels, found = tables_of(
        section("benchmarks/results/pairs.md", "How good the own descriptors are")
    )
    measured = results("retrieval")
    names = ("recall@1", "recall@5", "recall@10", "recall@20", "same@20", "mAP")
    rows = {row["descriptor"]: [f"{row[name]:.3f}" for name in names] for row in measured["labels"]}
    assert {row[0].partition(" (")[0]: row[2:] for row in labels} == rows
    lists_of = {(row["k"], row["descriptor"]): row for row in measured["matches"]["lists"]}
    for k, pairs, covariance, pairs_reduced, reduced in found:
        for kind, count, share in (
            ("covariance", pairs, covariance),
            ("reduced", pairs_reduced, reduced),
        ):
            row = lists_of[int(k), kind]
            assert count == f"{row['pairs']} ({row['share_of_pairs']:.0%})"
            assert share == f"{row['share_of_verified']:.0%}"
    text = " ".join(
        section("benchmarks/results/pairs.md", "How good the own descriptors are").split()
    )
    assert f"{measured['matches']['verified']} of the {measured['matches']['pairs']} pairs" in text
    assert f"{measured['matches']['images']} photographs" in text


def test_the_costs_of_planning_are_those_of_the_results() -> None:
    (rows,) = tables_of(section("benchmarks/results/pairs.md", "What planning costs"))
    measured = {(row["list"], row["images"]): row for row in results("pair_lists")["rows"]}
    for name, images, pairs, seconds, memory in rows:
        row = measured[name, int(images.replace(",", ""))]
        assert pairs == f"{row['pairs']:,}"
        assert seconds == f"{row['seconds']:.1f}"
        assert memory == f"{row['memory_bytes'] / 1e6:.0f}"
    assert len(rows) == len(measured)
