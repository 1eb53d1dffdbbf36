"""The script that trains for some minutes and judges: its result holds what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.training.train_and_judge import judged_sets, main
from eloftr import EfficientLoFTRConfig
from eloftr.training import recipe
from eloftr.training.options import TrainingOptions
from eloftr.training.recipe import train
from eloftr.training.synthetic.views import Views
from pipeline.demo import textures

TINY = EfficientLoFTRConfig(
    stage_num_blocks=[1, 1, 1, 1],
    out_features=[8, 16, 16, 16],
    hidden_size=16,
    num_attention_heads=4,
    num_attention_layers=1,
    coarse_matching_threshold=0.01,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(2):
        picture = textures.leaves((160, 200), rng, (0.3, 0.4, 0.2), 4, 20, 0.3)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def test_a_run_goes_on_for_some_minutes_and_is_judged(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "HELD_OUT_PAIRS", 2)
    run, out = tmp_path / "run", tmp_path / "results.json"
    options = TrainingOptions(
        steps=2, batch=2, size=64, warmup=1, decay=1, workers=0, threads=1, evaluate_every=1000
    )
    train(photographs, run, TINY, options)
    arguments = [
        *("--photographs", str(photographs), "--run", str(run), "--judged-pairs", "2"),
        *("--judged-size", "64"),
        *("--compare", "small", "--out", str(out)),
    ]
    assert main([*arguments, "--minutes", "0.01", "--batch", "1"]) == 0
    result = json.loads(out.read_text(), parse_constant=pytest.fail)  # no NaN
    training = result["training"]
    assert training["first_step"] == 2
    assert training["last_step"] > 2
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["step"] == training["last_step"]
    assert training["pairs_per_second"] > 0
    assert (result["device"], result["device_name"], result["options"]["batch"]) == (
        "cpu",
        "cpu",
        1,
    )
    assert result["versions"]["torch"] == torch.__version__
    assert set(result["judged"]) == {str(run), "small"}
    for measured in result["judged"].values():
        assert set(measured) == set(judged_sets())
        assert all(0 <= found["right"] <= 1 for found in measured.values())

    weights = (run / "model.safetensors").read_bytes()
    assert main([*arguments, "--minutes", "0"]) == 0
    assert "training" not in json.loads(out.read_text())
    assert (run / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("name", "turn", "zoom"),
    [("turn 0", 0, 0), ("turn 45", 45, 0), ("scale 2", 0, 1), ("scale 3", 0, math.log2(3))],
)
def test_judged_views_have_the_turn_or_scale_of_their_set(
    photographs: Path, name: str, turn: float, zoom: float
) -> None:
    paths = sorted(photographs.iterdir())
    views = Views(paths, 64, 0, easy=1.0, change=judged_sets()[name])
    found = []
    for index in range(6):
        flow = views.pair(index).flow.double().numpy()
        right, down = flow[32, 40] - flow[32, 24], flow[40, 32] - flow[24, 32]
        jacobian = np.column_stack([right, down]) / 16
        angle = np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])
        found.append((np.degrees(angle), math.log2(abs(np.linalg.det(jacobian))) / 2))
    angles, zooms = np.median(found, 0)
    assert abs(angles) == pytest.approx(turn, abs=6)
    assert zooms == pytest.approx(zoom, abs=0.2)


def test_weights_that_do_not_exist_are_one_sentence_and_exit_code_2(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--photographs", str(photographs), "--run", str(tmp_path / "none")]
    assert main([*arguments, "--minutes", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_and_judge: ")
    assert error.count("\n") == 1
