"""The recipe of the bundled weights: synthetic views, three losses, AdamW; resumable and seeded.

A run folder holds `model.safetensors` and `config.json` (the latest weights), `state.pt` (all that
a resumed run needs) and `log.jsonl` (the curve: a line of losses every LOG_EVERY steps, a line of
held-out measures every evaluation).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from eloftr.config import NetworkConfig
from eloftr.errors import ArgumentError
from eloftr.model import MatchingNetwork
from eloftr.training.evaluation import evaluate, network_images
from eloftr.training.losses import compute_losses
from eloftr.training.options import COARSE, FINE, TrainingOptions, learning_rate
from eloftr.training.synthetic.views import (
    Draws,
    Pair,
    RandomPair,
    Views,
    list_photographs,
    split,
)
from eloftr.weights.locate import find_weights
from eloftr.weights.reading import load_strictly, read_state
from eloftr.weights.writing import save_model

LOG_EVERY = 50
HELD_OUT_PAIRS = 64  # of an evaluation
STATE_FILE, LOG_FILE, OPTIONS_FILE = "state.pt", "log.jsonl", "options.json"
Report = Callable[[Mapping[str, float]], None]


def entry_text(entry: Mapping[str, float]) -> str:
    """An entry of the log as one line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in entry.items())


def print_entry(entry: Mapping[str, float]) -> None:
    """Print an entry of the log on one line."""
    print(entry_text(entry), flush=True)


class Batches(Dataset[list[RandomPair]]):
    """The training stream. Batch n is drawn from (seed, n) alone.

    So it is the same in any process, in any order and after any restart.
    """

    def __init__(self, draws: Draws, options: TrainingOptions) -> None:
        self.draws = draws
        self.options = options

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> list[RandomPair]:
        first = step * self.options.batch
        return [self.draws.pair(first + number) for number in range(self.options.batch)]


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On the CPU, add gradients up in a fixed order.

    Threads would add those of overlapping windows in the order in which they come.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Nothing reads memory before it is written, and filling it takes a fifteenth of a step.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


@contextmanager
def _host_kept(options: TrainingOptions) -> Iterator[None]:
    """Give the host its random states and its number of threads back when a run ends."""
    threads = torch.get_num_threads()
    device = torch.device(options.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if options.threads:
            torch.set_num_threads(options.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def kept_parts(model: MatchingNetwork, only: str | None) -> list[nn.Module]:
    """What stays as it is, its norms too, where one part is trained alone."""
    if only == FINE:
        return [model.efficientloftr]
    if only == COARSE:
        # The first stages see edges of all directions, and half of the work is done there.
        return [*model.efficientloftr.backbone.stages[:2], model.refinement_layer]
    return []


class Run:
    """A training run and all of its state."""

    def __init__(self, folder: Path, config: NetworkConfig, options: TrainingOptions) -> None:
        self.folder = folder
        self.options = options
        self.device = torch.device(options.device)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(options.seed)
            self.model = MatchingNetwork(config).to(self.device)
            self.random_state = torch.get_rng_state()  # a dropout goes on from here
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.kept = kept_parts(self.model, options.only)
        for part in self.kept:
            part.requires_grad_(False)
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
        self.earlier, self.started = 0.0, time.monotonic()  # seconds; of the monotonic clock
        if (folder / STATE_FILE).exists():
            state = torch.load(folder / STATE_FILE, weights_only=True)
            load_strictly(self.model, state["model"], str(folder / STATE_FILE))
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])
            self.step = state["step"]
            self.earlier = state.get("seconds", 0.0)
        elif options.start:
            file = find_weights(options.start)
            load_strictly(self.model, read_state(file), file)

    @property
    def seconds(self) -> float:
        """The time that the run has taken since its first step, evaluations and all."""
        return self.earlier + time.monotonic() - self.started

    @property
    def ended(self) -> bool:
        """Whether all steps are taken, or all minutes gone."""
        if self.options.minutes is not None:
            return self.seconds >= 60 * self.options.minutes
        return self.step >= self.options.steps

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
            "seconds": self.seconds,
        }
        part = self.folder / f"{STATE_FILE}.part"
        torch.save(state, part)
        part.replace(self.folder / STATE_FILE)

    def log(self, entry: Mapping[str, float]) -> None:
        """Add a line to the log, in which a value that is not finite is null."""
        with (self.folder / LOG_FILE).open("a") as file:
            file.write(
                json.dumps({k: v if math.isfinite(v) else None for k, v in entry.items()}) + "\n"
            )

    def begin(self) -> None:
        """Training mode, of the parts that are trained."""
        self.model.train()
        for part in self.kept:
            part.eval()

    def update(self, pairs: Pair) -> dict[str, float]:
        """One optimiser step. Returns the losses."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, options, self.seconds)
        images0, images1 = network_images(pairs)
        dtype = getattr(torch, options.autocast) if options.autocast else torch.float32
        losses = compute_losses(
            self.model,
            images0,
            images1,
            pairs.flow,
            pairs.visible,
            self.generator,
            dtype,
            fine=options.only != COARSE,
        )
        self.optimizer.zero_grad(set_to_none=True)
        total = losses.total
        with _repeatable(self.device):
            total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {name: value.item() for name, value in vars(losses).items() if value is not None}


def train(
    photographs: Sequence[Path] | Path,
    folder: str | Path,
    config: NetworkConfig,
    options: TrainingOptions,
    report: Report = lambda entry: None,
) -> MatchingNetwork:
    """Train, or go on with the run in `folder`, until its steps are taken or its minutes gone.

    photographs: a folder of photographs or a list of files; every 20th is held out for evaluation.
    report: called with every entry of the log when it is written.
    PyTorch's random states and number of threads are as before when it returns.
    `load_model(folder)` reads the weights as the documented model.
    Raises ArgumentError, before anything is written, for a size that the network cannot take and
    for fewer than 2 photographs, and CheckpointError for a run in `folder` of another
    configuration.
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
    with _host_kept(options):
        run = Run(folder, config, options)
        views, held_out_views = (
            Views(paths, options.size, seed, easy=options.easy, device=run.device)
            for paths, seed in ((training, options.seed), (held_out, options.seed + 1))
        )
        for entry in _entries(run, views, held_out_views):
            run.log(entry)
            report(entry)
    return run.model.eval()


def _entries(run: Run, views: Views, held_out: Views) -> Iterator[dict[str, float]]:
    """Go through the steps that are left, and yield every entry of the log."""
    options = run.options
    run.started = time.monotonic()
    torch.set_rng_state(run.random_state)
    if run.device.type == "cuda":
        with torch.cuda.device(run.device):
            torch.cuda.manual_seed(options.seed)
    yield {"step": run.step, "parameters": float(sum(p.numel() for p in run.model.parameters()))}
    (run.folder / OPTIONS_FILE).write_text(json.dumps(asdict(options), indent=2) + "\n")
    if run.ended:
        return
    loader = DataLoader(
        Batches(views.draws, options),
        batch_size=None,
        sampler=range(run.step, options.steps if options.minutes is None else sys.maxsize),
        num_workers=options.workers,
        prefetch_factor=8 if options.workers else None,
    )
    run.begin()
    sums: dict[str, list[float]] = {}
    run.started, first_step = time.monotonic(), run.step  # as late as it can be
    for drawn in loader:
        for name, value in run.update(views.render(drawn)).items():
            sums.setdefault(name, []).append(value)
        if run.step % LOG_EVERY == 0:
            means = {name: float(np.mean(values)) for name, values in sums.items()}
            speed = (run.step - first_step) * options.batch / (time.monotonic() - run.started)
            yield {"step": run.step, **means, "pairs_per_second": speed}
            sums.clear()
        ended = run.ended
        if run.step % options.evaluate_every == 0 or ended:
            run.save()
            yield {"step": run.step, **evaluate(run.model, held_out, HELD_OUT_PAIRS)}
            run.begin()
        if ended:
            return
