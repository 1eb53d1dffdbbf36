"""What every stage of a pair costs, without the exact savings and with them, and how near the
chip's limit it runs.

    python benchmarks/speed/stages.py [--quick] [--device cuda] [--out results.json]

One pair of overlapping images, both encoded and then matched: by the product, and by itself without
all the savings of savings.py. On a GPU the figures are of a pair of a batch of 64. Seconds are
medians of `--rounds` turns; operations are the counted floating-point ones of the product on a CPU;
the limit is the rate of a product of two large matrices on the same device, measured in the same
run.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.speed.images import Pairs, near_pairs, windows
from benchmarks.speed.matcher import environment, flop_counter, published
from benchmarks.speed.savings import SAVINGS, Side, Variant, sides_parser
from eloftr import backbone, model, transformer
from eloftr.fast import sparse_fusion
from eloftr.matching.matcher import DTYPES, pairs_at_once

STAGES: dict[str, tuple[Any, str]] = {
    "backbone": (backbone.RepVGG, "forward"),
    "first self-attention": (transformer.LocalFeatureTransformer, "encode"),
    "transformer": (transformer.LocalFeatureTransformer, "forward"),
    "coarse matching": (model, "match_coarse"),
    "fusion": (sparse_fusion.FineFusion, "around"),
    "refinement": (model, "refine"),
}
WITHOUT = Variant([change for saving in SAVINGS.values() for change in saving.patches])


def synchronized(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def measured(read: Callable[[], float]) -> Iterator[dict[str, float]]:
    """What every stage adds to the value that `read` returns, while the context is open."""
    spent: dict[str, float] = defaultdict(float)

    def watched(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            before = read()
            result = function(*arguments)
            spent[stage] += read() - before
            return result

        return run

    with ExitStack() as stack:
        for stage, (owner, name) in STAGES.items():
            stack.enter_context(patch.object(owner, name, watched(stage, getattr(owner, name))))
        yield spent


def stage_seconds(side: Side, images: np.ndarray, pairs: Pairs, rounds: int) -> dict[str, float]:
    """Seconds of every stage of a pair."""
    device = side.matcher.matcher.device
    side(images, pairs)  # warms up
    turns = []
    for _ in range(rounds):
        with side.patched(), measured(lambda: synchronized(device)) as spent:
            side.matcher(images, pairs)
        turns.append(spent)
    return {
        stage: statistics.median(turn[stage] for turn in turns) / len(pairs) for stage in STAGES
    }


def stage_operations(weights: Path, images: np.ndarray) -> dict[str, float]:
    """Operations of every stage of the pair of the first two images, counted on the CPU: kernels
    count none.
    """
    side = Side(Variant(), weights, torch.device("cpu"), torch.float32)
    counter = flop_counter()
    with counter, measured(lambda: float(counter.get_total_flops())) as operations:
        side.matcher(images[:2], [(0, 1)])
    return {stage: operations[stage] for stage in STAGES}


def limit(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a product of two matrices: the best of ten."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        start = synchronized(device)
        a @ a
        best = min(best, synchronized(device) - start)
    return 2 * side**3 / best


def main(arguments: list[str] | None = None) -> int:
    parser = sides_parser(__doc__, rounds=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    width, height = options.size
    what = near_pairs(2, 1, pictures=pairs_at_once(device, (height, width)))
    images = windows(options.photographs, height, width, what)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(options.weights) if options.weights else published(Path(scratch))
        without = stage_seconds(Side(WITHOUT, weights, device, dtype), images, what.pairs, rounds)
        product = stage_seconds(Side(Variant(), weights, device, dtype), images, what.pairs, rounds)
        operations = stage_operations(weights, images)
        most = limit(device, dtype)
        results = {"environment": environment(options), "size": [width, height], "limit": most}
    print(f"{'stage':22}  without   product   operations   of the limit, {most / 1e9:,.0f} GFLOP/s")
    for stage in STAGES:
        rate = operations[stage] / product[stage] if product[stage] else 0.0
        before, after = 1000 * without[stage], 1000 * product[stage]
        print(
            f"{stage:22} {before:7.2f} ms {after:7.2f} ms {operations[stage] / 1e9:6.1f} GFLOP"
            f"   {rate / most:8.0%}"
        )
    totals = [1000 * sum(side.values()) for side in (without, product)]
    print(f"{'a pair, both encoded':22} {totals[0]:7.2f} ms {totals[1]:7.2f} ms")
    if options.out:
        options.out.write_text(
            json.dumps(
                results | {"operations": operations, "without": without, "product": product},
                indent=1,
            )
            + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
