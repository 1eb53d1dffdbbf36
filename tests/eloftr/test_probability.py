"""Probabilities of matches: what they are for scores, and which weights have them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eloftr import ArgumentError, CheckpointError, match_probabilities
from eloftr.matching.probability import CALIBRATION_FILE, Calibration, file_sha256
from eloftr.weights.locate import find_weights

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with a copy of the bundled weights, without their calibration."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(find_weights("small"), folder)
    return folder


@pytest.mark.parametrize("count", [1, 2, 40, 3000])
def test_probabilities_rise_with_the_score(count: int) -> None:
    scores = np.linspace(0.2, 1, count, dtype=np.float32)
    found = match_probabilities(scores)
    assert (found.shape, found.dtype) == ((count,), np.float32)
    assert ((found > 0) & (found < 1)).all()
    assert (np.diff(found) >= 0).all()
    assert count == 1 or found[-1] > found[0]
    assert np.array_equal(match_probabilities(scores[::-1]), found[::-1])


def test_a_pair_of_a_few_matches_is_trusted_less() -> None:
    one = np.float32(0.6)
    alone, among = (match_probabilities(np.full(count, one))[0] for count in (15, 600))
    assert alone < 0.3 < 0.8 < among


def test_a_pair_without_matches_has_no_probabilities() -> None:
    assert match_probabilities(np.zeros(0, np.float32)).shape == (0,)


def test_the_ends_of_the_scale_are_finite() -> None:
    assert np.isfinite(match_probabilities(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("scores", [[[0.3]], [0.3, 25.4], [np.nan], [-0.1]])
def test_what_is_no_score_is_refused(scores: list) -> None:
    with pytest.raises(ArgumentError, match="numbers from 0 to 1"):
        match_probabilities(np.array(scores))


@pytest.mark.parametrize(
    ("scores", "named"),
    [
        (["a"], "'a'"),
        ([None, 0.5], "nan"),
        ([[0.1], [0.1, 0.2]], "inhomogeneous"),
        ([0.5 + 1j], "complex"),
        (torch.tensor([0.5], requires_grad=True), "requires grad"),
        ([0.3, 25.4], "25.4"),
        ([[0.3]], r"\(1, 1\)"),
    ],
    ids=str,
)
def test_the_sentence_names_what_is_wrong(scores: Any, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        match_probabilities(scores)


def test_weights_without_a_calibration_have_no_probabilities(
    weights: Path, reference_checkpoint: Path
) -> None:
    for model in (weights, weights / "model.safetensors", reference_checkpoint):
        with pytest.raises(CheckpointError, match=r"calibration\.json beside its weights"):
            match_probabilities(np.array([0.5]), model)


def test_a_calibration_lies_beside_its_weights(weights: Path) -> None:
    Calibration(-1.0, 2.0, 0.5, file_sha256(find_weights("small"))).save(weights)
    expected = 1 / (1 + np.exp(1.0 - 2 * np.log(0.8 / 0.2) - 0.5 * np.log(2)))
    for model in (weights, weights / "model.safetensors"):
        found = match_probabilities(np.array([0.8, 0.5]), model)
        assert found[0] == pytest.approx(expected, rel=1e-6)


def test_a_calibration_of_other_weights_is_refused(weights: Path) -> None:
    Calibration(-1.0, 2.0, 0.5, "of others").save(weights)
    with pytest.raises(CheckpointError, match=r"other weights than model\.safetensors"):
        match_probabilities(np.array([0.5]), weights)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"intercept": null, "score": 1, "matches": 1}'])
def test_a_file_that_is_no_calibration_is_named(weights: Path, text: str) -> None:
    (weights / CALIBRATION_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=CALIBRATION_FILE):
        match_probabilities(np.array([0.5]), weights)


def test_the_bundled_calibration_is_that_of_the_bundled_weights_and_of_the_results() -> None:
    found = Calibration.load("small")  # refuses other weights
    results = json.loads((PROJECT / "benchmarks/results/calibration.json").read_text())
    assert found == Calibration(**results["calibration"])
