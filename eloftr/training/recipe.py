"""The recipe of the bundled weights: synthetic views of photographs, three losses, AdamW; resumable and seeded.

A run folder holds `model.safetensors` and `config.json` (the latest weights), `state.pt` (all that a resumed run needs)
and `log.jsonl` (the curve: a line of losses every LOG_EVERY steps, a line of held-out measures every evaluation).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from eloftr.config import NetworkConfig
from eloftr.errors import ArgumentError
from eloftr.model import MatchingNetwork
from eloftr.training.losses import compute_losses
from eloftr.training.synthetic.views import Pair, Views, list_photographs, split
from eloftr.weights.locate import find_weights
from eloftr.weights.reading import load_strictly, read_state
from eloftr.weights.writing import save_model

LOG_EVERY = 50
HELD_OUT_PAIRS = 64  # of an evaluation
STATE_FILE, LOG_FILE = "state.pt", "log.jsonl"

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


@dataclass(frozen=True)
class TrainingOptions:
    """Knobs of a run.

    steps: optimiser steps in all; the learning rate rises over `warmup`, stays, and falls to zero over the last
    `decay` steps, so a run can be cut short by resuming it with fewer steps. size: side of the views, pixels.
    easy: share of the pairs, 0 to 1, that are easier than all others. only: "fine" trains the refinement alone.
    Raises ArgumentError for a number out of range, another autocast type or part, a part without weights to start from
    and a device this machine lacks."""

    steps: int = 20_000
    batch: int = 8
    size: int = 224
    learning_rate: float = 1e-3
    warmup: int = 300
    decay: int = 5_000
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    autocast: str | None = None  # "bfloat16" where the hardware has it
    evaluate_every: int = 1_000
    workers: int = 1
    threads: int | None = None
    device: str = "cpu"
    start: str | None = (
        None  # weights a new run starts from, of the same configuration; default random ones
    )
    easy: float = 0.0
    only: str | None = (
        None  # "fine": backbone and transformer stay as they are, norms too, so coarse matches do
    )

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "batch": 1,
            "size": 32,
            "warmup": 0,
            "decay": 0,
            "evaluate_every": 1,
            "workers": 0,
        }
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ArgumentError(f"{name}={getattr(self, name)}: must be at least {number}.")
        if not 0 <= self.easy <= 1:
            raise ArgumentError(f"easy={self.easy}: a share, from 0 to 1.")
        if self.only not in (None, "fine"):
            raise ArgumentError(f"only={self.only!r}: the part that can be trained alone is fine.")
        if self.only and not self.start:
            raise ArgumentError(
                f"only={self.only}: the other parts need weights; name them with start."
            )
        if self.autocast not in (None, "bfloat16"):
            raise ArgumentError(
                f"autocast={self.autocast!r}: only bfloat16 trains without scaled gradients."
            )
        if self.device != "cpu" and not (
            self.device.startswith("cuda") and torch.cuda.is_available()
        ):
            raise ArgumentError(
                f"device={self.device!r} is not on this machine; use cpu, or cuda where it has a GPU."
            )


def learning_rate(step: int, options: TrainingOptions) -> float:
    rise = min(1.0, (step + 1) / max(1, options.warmup))
    fall = min(1.0, (options.steps - step) / max(1, options.decay))
    return options.learning_rate * rise * fall


class Batches(Dataset[Pair]):
    """Batch n of the training stream, made from (seed, n) alone: any process, any order, after any restart."""

    def __init__(self, views: Views, options: TrainingOptions) -> None:
        self.views = views
        self.options = options

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> Pair:
        return self.views.batch(range(step * self.options.batch, (step + 1) * self.options.batch))


def _tensors(pairs: Pair, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = [
        torch.from_numpy(image).to(device).float()[:, None] / 255
        for image in (pairs.image0, pairs.image1)
    ]
    return (
        images[0],
        images[1],
        torch.from_numpy(pairs.flow).to(device),
        torch.from_numpy(pairs.visible).to(device),
    )


@torch.inference_mode()
def evaluate(model: MatchingNetwork, views: Views, pairs: int) -> dict[str, float]:
    """Match the first `pairs` of `views`: matches a pair, share of right ones (3 px), median error of those (px)."""
    model.eval()
    device = next(model.parameters()).device
    errors, total = [], 0
    for start in range(0, pairs, 8):
        batch = views.batch(range(start, min(start + 8, pairs)))
        images0, images1, flow, visible = _tensors(batch, device)
        found = model.match(model.encode(images0), model.encode(images1))
        total += len(found.scores)
        # Keypoints lie half-way between pixels of the image: the flow there is the mean of its four neighbours.
        x, y = found.keypoints0.floor().long().unbind(1)
        x, y, pair = x.clamp(0, flow.shape[2] - 2), y.clamp(0, flow.shape[1] - 2), found.cells[:, 0]
        target = (
            flow[pair, y, x]
            + flow[pair, y, x + 1]
            + flow[pair, y + 1, x]
            + flow[pair, y + 1, x + 1]
        ) / 4
        error = (found.keypoints1 - target).norm(dim=1)
        errors.append(torch.where(visible[pair, y, x], error, torch.inf).cpu())
    model.train()
    error = torch.cat(errors)
    right = error[error < 3]
    return {
        "matches": total / pairs,
        "right": len(right) / max(1, total),
        "median_error": float(right.median()) if len(right) else math.nan,
    }


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On the CPU, add gradients up in a fixed order: threads would add those of overlapping windows as they come."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Run:
    """A training run and all of its state."""

    def __init__(self, folder: Path, config: NetworkConfig, options: TrainingOptions) -> None:
        torch.manual_seed(options.seed)
        self.folder = folder
        self.options = options
        self.device = torch.device(options.device)
        self.model = MatchingNetwork(config).to(self.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.only == "fine":
            self.model.efficientloftr.requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        others = [p for p in trained if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
        )
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step = 0
        if (folder / STATE_FILE).exists():
            state = torch.load(folder / STATE_FILE, weights_only=True)
            load_strictly(self.model, state["model"], str(folder / STATE_FILE))
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])
            self.step = state["step"]
        elif options.start:
            file = find_weights(options.start)
            load_strictly(self.model, read_state(file), file)

    def save(self) -> None:
        """Write the weights and the state, each whole or not at all."""
        part = self.folder / ".part"
        save_model(self.model, part)
        for file in part.iterdir():
            file.replace(self.folder / file.name)
        part.rmdir()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        part = self.folder / f"{STATE_FILE}.part"
        torch.save(state, part)
        part.replace(self.folder / STATE_FILE)

    def log(self, entry: dict[str, float]) -> None:
        with (self.folder / LOG_FILE).open("a") as file:
            file.write(
                json.dumps({k: v if math.isfinite(v) else None for k, v in entry.items()}) + "\n"
            )
        print("  ".join(f"{name} {value:.4g}" for name, value in entry.items()), flush=True)

    def begin(self) -> None:
        """Training mode, of the parts that are trained."""
        self.model.train()
        if self.options.only == "fine":
            self.model.efficientloftr.eval()

    def update(self, pairs: Pair) -> dict[str, float]:
        """One optimiser step; returns the losses."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, options)
        images0, images1, flow, visible = _tensors(pairs, self.device)
        dtype = getattr(torch, options.autocast) if options.autocast else torch.float32
        losses = compute_losses(self.model, images0, images1, flow, visible, self.generator, dtype)
        self.optimizer.zero_grad(set_to_none=True)
        total = losses.total
        with _repeatable(self.device):
            total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {name: value.item() for name, value in vars(losses).items()}


def train(
    photographs: Sequence[Path] | Path,
    folder: str | Path,
    config: NetworkConfig,
    options: TrainingOptions,
) -> MatchingNetwork:
    """Train, or go on with the run in `folder`; returns the model after `options.steps` steps.

    photographs: a folder of photographs or a list of files; every 20th is held out for evaluation.
    Raises ArgumentError, before anything is written, for a size the network cannot take and for fewer than 2 photographs,
    and for a run in `folder` of another configuration.
    """
    folder = Path(folder)
    if options.size % config.divisor:
        raise ArgumentError(
            f"size={options.size}: the network takes multiples of {config.divisor} pixels only."
        )
    paths = list_photographs(photographs) if isinstance(photographs, Path) else list(photographs)
    if len(paths) < 2:
        raise ArgumentError(
            f"{len(paths)} photographs: give at least 2, as one is held out for evaluation."
        )
    training, held_out = split(paths)
    folder.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    run = Run(folder, config, options)
    held_out_views = Views(held_out, options.size, options.seed + 1, easy=options.easy)
    run.log({"step": run.step, "parameters": float(sum(p.numel() for p in run.model.parameters()))})
    (folder / "options.json").write_text(json.dumps(asdict(options), indent=2) + "\n")

    stream = Batches(Views(training, options.size, options.seed, easy=options.easy), options)
    loader = DataLoader(
        stream,
        batch_size=None,
        sampler=range(run.step, options.steps),
        num_workers=options.workers,
        prefetch_factor=8 if options.workers else None,
    )
    run.begin()
    sums: dict[str, list[float]] = {}
    started, first_step = time.monotonic(), run.step
    for pairs in loader:
        for name, value in run.update(pairs).items():
            sums.setdefault(name, []).append(value)
        if run.step % LOG_EVERY == 0:
            means = {name: float(np.mean(values)) for name, values in sums.items()}
            speed = (run.step - first_step) * options.batch / (time.monotonic() - started)
            run.log({"step": run.step, **means, "pairs_per_second": speed})
            sums.clear()
        if run.step % options.evaluate_every == 0 or run.step == options.steps:
            run.save()
            run.log({"step": run.step, **evaluate(run.model, held_out_views, HELD_OUT_PAIRS)})
            run.begin()
    return run.model.eval()
