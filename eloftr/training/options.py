"""The options of a training run, its learning rate, and the sizes of the bundled model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from eloftr.config import NetworkConfig
from eloftr.errors import ArgumentError

COARSE, FINE = "coarse", "fine"  # the parts that `only` can name
# The bundled "small" model: the published architecture, thinner and shallower.
SMALL = NetworkConfig(
    stage_num_blocks=[1, 2, 2, 6],
    out_features=[16, 48, 32, 64],
    hidden_size=64,
    num_attention_layers=2,
    fine_matching_slice_dim=16,
    fine_matching_centered=True,
    fine_matching_least_squares_radius=5,
)


LEAST = {
    "steps": 1,
    "batch": 1,
    "size": 32,
    "warmup": 0,
    "decay": 0,
    "evaluate_every": 1,
    "workers": 0,
}


@dataclass(frozen=True)
class TrainingOptions:
    """Knobs of a run.

    steps: optimiser steps in all. The learning rate rises over `warmup` steps, stays, and falls to
    zero over the last `decay` steps, so a run can be cut short by resuming it with fewer steps.
    minutes: of training in all. They end the run in place of `steps`, and the learning rate falls
    over as large a share of them as `decay` is of `steps`.
    batch: pairs a step. size: side of the views, pixels. easy: share of the pairs, 0 to 1, that are
    easier than all others.
    autocast: "bfloat16" where the hardware has it, else "float32", as None is. threads: of PyTorch,
    while the run lasts; None leaves them as they are.
    start: weights of the same configuration that a new run starts from; None draws random ones.
    only: "fine" trains the refinement alone. Backbone and transformer stay as they are, norms too,
    so coarse matches do. "coarse" trains the transformer and the stages of the backbone below half
    of the resolution, by the coarse loss alone.
    Raises ArgumentError for a number out of range, another autocast type or part, a part without
    weights to start from and a device this machine lacks.
    """

    steps: int = 20_000
    minutes: float | None = None
    batch: int = 8
    size: int = 224
    learning_rate: float = 1e-3
    warmup: int = 300
    decay: int = 5_000
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    autocast: str | None = None
    evaluate_every: int = 1_000
    workers: int = 1
    threads: int | None = None
    device: str = "cpu"
    start: str | None = None
    easy: float = 0.0
    only: str | None = None

    def __post_init__(self) -> None:
        for name, number in LEAST.items():
            if getattr(self, name) < number:
                raise ArgumentError(f"{name}={getattr(self, name)}: must be at least {number}.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ArgumentError(f"minutes={self.minutes}: must be more than 0.")
        if not 0 <= self.easy <= 1:
            raise ArgumentError(f"easy={self.easy}: a share, from 0 to 1.")
        if self.only not in (None, COARSE, FINE):
            raise ArgumentError(
                f"only={self.only!r}: the parts that can be trained alone are coarse and fine."
            )
        if self.only and not self.start:
            raise ArgumentError(
                f"only={self.only}: the other parts need weights; name them with start."
            )
        if self.autocast not in (None, "float32", "bfloat16"):
            raise ArgumentError(
                f"autocast={self.autocast!r}: only bfloat16 and float32 need no scaled gradients."
            )
        if self.device != "cpu" and not (
            self.device.startswith("cuda") and torch.cuda.is_available()
        ):
            raise ArgumentError(
                f"device={self.device!r} is not on this machine; use cpu, or cuda where it has a "
                "GPU."
            )


def learning_rate(step: int, options: TrainingOptions, seconds: float = 0.0) -> float:
    """The learning rate of a step, counted from 0, which begins after `seconds` of training."""
    rise = min(1.0, (step + 1) / max(1, options.warmup))
    left: float = options.steps - step
    if options.minutes is not None:
        left = options.steps * max(0.0, 1 - seconds / (60 * options.minutes))
    fall = min(1.0, left / max(1, options.decay))
    return options.learning_rate * rise * fall
