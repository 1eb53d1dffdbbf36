"""How likely each match of a pair is right: a logistic regression on its score and its company.

    logit p = intercept + score · logit(score) + matches · ln(number of matches of the pair)

The number says whether the images have much in common: a pair that shows nothing has a few matches
all the same, and some of them with high scores. benchmarks/quality/calibration.py fits the three
numbers and judges them (Platt, "Probabilistic outputs for support vector machines", 1999).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from eloftr.errors import ArgumentError, CheckpointError
from eloftr.weights.locate import find_weights, read_json, resolve

CALIBRATION_FILE = "calibration.json"  # beside the weights that it is of
LEAST = 1e-4  # of a score and of what it lacks to 1, so that logits are finite


@dataclass(frozen=True)
class Calibration:
    """What the scores of some weights say.

    intercept, score, matches: the numbers of the regression. weights_sha256: of the weights' file.
    """

    intercept: float
    score: float
    matches: float
    weights_sha256: str

    @classmethod
    def load(cls, model: str | Path) -> Calibration:
        """Read the file beside the weights that a name stands for.

        Raises CheckpointError where there is none, it holds something else, or it is of other
        weights.
        """
        resolve(model, [CALIBRATION_FILE])  # of a hub id, it is downloaded
        weights = find_weights(model)
        file = weights.with_name(CALIBRATION_FILE)
        if not file.is_file():
            raise CheckpointError(
                f"{model}: has no {CALIBRATION_FILE} beside its weights, so its scores have no "
                'probabilities; use "small", or measure them with '
                "benchmarks/quality/calibration.py --save."
            )
        values = read_json(file)
        try:
            numbers = {name: float(values[name]) for name in ("intercept", "score", "matches")}
            found = cls(**numbers, weights_sha256=str(values["weights_sha256"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file}: is no calibration ({error!r}); write it again with "
                "benchmarks/quality/calibration.py --save."
            ) from error
        if found.weights_sha256 != file_sha256(weights):
            raise CheckpointError(
                f"{file}: is the calibration of other weights than {weights.name}; write it again "
                "with benchmarks/quality/calibration.py --save."
            )
        return found

    def save(self, folder: Path) -> None:
        """Write the file into the folder of the weights."""
        (folder / CALIBRATION_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(M,) scores of all matches of one pair → (M,) float32."""
        numbers = np.array([self.intercept, self.score, self.matches])
        logits = regressors(scores) @ numbers
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


_load = lru_cache(maxsize=4)(Calibration.load)  # a run has many pairs and one file of weights


def file_sha256(weights: Path) -> str:
    """What a calibration knows its weights by."""
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def regressors(scores: np.ndarray) -> np.ndarray:
    """(M,) scores of all matches of one pair → (M, 3) float64: 1, logit(score), ln(M)."""
    clipped = np.clip(np.asarray(scores, np.float64), LEAST, 1 - LEAST)
    count = np.full(len(clipped), max(len(clipped), 1))
    return np.stack([np.ones(len(clipped)), np.log(clipped / (1 - clipped)), np.log(count)], axis=1)


def match_probabilities(scores: np.ndarray, model: str | Path = "small") -> np.ndarray:
    """How likely each match of one pair is right, within 3 pixels of the original image.

    scores: (M,) of all matches of the pair, as `Matches.scores` or a row of a run's table has them;
    with the default threshold, and not of the variant "opt". A part of the matches gives too low
    probabilities, because their number counts.
    model: the weights that found the matches, as for `load_matcher`.
    Returns (M,) float32, 0…1, in the order of the scores; a higher score has a higher probability.
    Raises ArgumentError for scores that are not (M,) numbers from 0 to 1, CheckpointError for
    weights without a calibration of their own.
    """
    try:
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # what numpy and torch raise
        raise ArgumentError(
            f"Scores that are no real numbers ({error}): give those of one pair, (M,) "
            "numbers from 0 to 1."
        ) from error
    if values.ndim != 1:
        raise ArgumentError(
            f"Scores of shape {values.shape}: give those of one pair, (M,) numbers from 0 to 1."
        )
    wrong = values[~((values >= 0) & (values <= 1))]
    if len(wrong):
        raise ArgumentError(
            f"Scores like {wrong[0]:g}: give numbers from 0 to 1; similarities of the variant opt "
            "have no probabilities."
        )
    return _load(str(model)).probabilities(values)
