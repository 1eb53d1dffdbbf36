"""`eloftr train`: weights that a program can load, or one sentence and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from job_process import eloftr
from PIL import Image

from eloftr import EfficientLoFTRConfig, load_matcher
from eloftr.training import recipe
from eloftr.training.options import TrainingOptions
from pipeline.cli import main
from pipeline.demo import textures

SHORT = (
    "--steps",
    "2",
    "--batch",
    "1",
    "--size",
    "64",
    "--warmup",
    "1",
    "--decay",
    "1",
    "--workers",
    "0",
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = (
        tmp_path_factory.mktemp("photographs") / "some" / "where"
    )  # the folder is read recursively
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(2):
        picture = textures.leaves((120, 160), rng, (0.3, 0.4, 0.2), 4, 20, 0.3)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder.parents[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file of a tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"stage_num_blocks": [1, 1, 1, 1], "out_features": [8, 16, 16, 16], "hidden_size": 16}
    EfficientLoFTRConfig(**sizes, num_attention_heads=4, num_attention_layers=1).save_pretrained(
        folder
    )  # type: ignore[arg-type]
    return folder / "config.json"


@pytest.fixture(autouse=True)
def _short_evaluations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    monkeypatch.setattr(recipe, "HELD_OUT_PAIRS", 2)
    yield
    torch.set_num_threads(threads)


def test_a_short_run_writes_weights_that_load_and_is_resumed(
    photographs: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "deep" / "run"
    arguments = [
        "--photographs",
        str(photographs),
        "--output",
        str(run),
        "--config",
        str(tiny),
        *SHORT,
    ]
    assert main(["train", *arguments, "--threads", "1", "--seed", "5"]) == 0
    matcher = load_matcher(run, device="cpu")
    assert matcher.model.config.out_features == [8, 16, 16, 16]
    image = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    [matches] = matcher.match([image], [image])
    assert matches.keypoints0.shape == matches.keypoints1.shape == (len(matches), 2)
    written = json.loads((run / "options.json").read_text())
    assert (written["steps"], written["seed"], written["learning_rate"]) == (
        2,
        5,
        TrainingOptions().learning_rate,
    )

    assert main(["train", *arguments, "--seed", "5", "--steps", "3"]) == 0
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 2, 2, 3]
    assert "step 3  matches" in capsys.readouterr().out

    assert main(["train", *arguments, "--seed", "5", "--steps", "4", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"output": str(run), "steps": 4}
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["event"] for event in events} == {"training"}
    assert events[-1]["step"] == 4


def test_a_folder_without_photographs_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = eloftr("train", "--photographs", "nowhere", "--output", "run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "eloftr train: nowhere: no photographs found; give a folder with "
    )
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--size", "100"), "multiples of 32"),
        (("--batch", "0"), "batch=0"),
        (("--device", "abacus"), "abacus"),
        (("--autocast", "float16"), "float16"),
        (("--config", "missing.json"), "missing.json"),
    ],
)
def test_an_option_that_cannot_work_is_one_sentence_and_exit_code_2(
    options: tuple[str, ...],
    reason: str,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(
            [
                "train",
                "--photographs",
                str(photographs),
                "--output",
                str(tmp_path / "run"),
                *SHORT,
                *options,
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("eloftr train: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_photograph_that_is_none_is_named(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photographs").mkdir()
    for number, source in enumerate(sorted(photographs.rglob("*.png"))):
        (tmp_path / "photographs" / f"{number}.png").write_bytes(source.read_bytes())
    (tmp_path / "photographs" / "broken.jpg").write_text("not a picture")
    assert (
        main(
            [
                "train",
                "--photographs",
                str(tmp_path / "photographs"),
                "--output",
                str(tmp_path / "run"),
                *SHORT,
            ]
        )
        == 2
    )
    assert "broken.jpg: not a readable photograph" in capsys.readouterr().err


def test_help_names_every_training_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"--{option.name.replace('_', '-')} " in text for option in fields(TrainingOptions))
