"""What a pair costs: our matcher, the plain forward of our model and transformers' class, with the
same weights.

    python benchmarks/speed/matcher.py [--quick] [--device cuda] [--dtype bfloat16] [--out
    results.json]

Two lists of pairs of images cut from photographs (`--photographs`, else generated textures)
multiples of 32 pixels apart, so that even untrained weights match what overlaps:

exhaustive   all pairs of ten images, two from each of five photographs: most pairs have nothing in
             common; on a GPU of 48, from 24
overlapping  eight images of one photograph, each with its four nearest: every pair overlaps by more
             than half; on a GPU of each of 16 photographs

ours          every image encoded once; the pairs then matched from the encodings
bfloat16      the same in that type, only where `--methods` names it
plain         the documented `forward` of our model, pair by pair, not fused
transformers  its class, pair by pair; missing where the package is absent

Methods take turns, `--rounds` times; a figure is the median of the rounds, with the fastest and
slowest; a ratio is the median of those of each round, whose methods met the same neighbours on the
machine. Images are in memory and resized before the clock starts. Peak memory is that of a process
of its own that does one pair.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import PROJECT, argument_parser, commit, peak_memory, versions
from benchmarks.speed.images import Pairs, all_pairs, near_pairs, windows
from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, load_model
from eloftr.matching.matcher import DTYPES, Matcher, pairs_at_once
from eloftr.model import ImageFeatures

LISTS = {
    "cpu": {"exhaustive": all_pairs(5), "overlapping": near_pairs(8, 4)},
    "cuda": {
        "exhaustive": all_pairs(24),
        "overlapping": near_pairs(8, 4, pictures=16),
    },  # full batches
}
QUICK_LISTS = {"exhaustive": all_pairs(2), "overlapping": near_pairs(4, 3)}


METHODS = ("ours", "bfloat16", "plain", "transformers")
OWN = METHODS[:2]


class Ours:
    """Every image encoded once."""

    def __init__(self, weights: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.matcher = Matcher(load_model(weights), device, dtype)

    def __call__(self, images: np.ndarray, pairs: Pairs) -> int:
        size = pairs_at_once(self.matcher.device, images.shape[1:])
        batches = (images[n : n + size] for n in range(0, len(images), size))
        encoded = (self.matcher.encode(batch) for batch in batches)
        features = [batch[n : n + 1] for batch in encoded for n in range(len(batch))]
        total = 0
        for start in range(0, len(pairs), size):
            sides = zip(*pairs[start : start + size], strict=True)
            joined = (ImageFeatures.cat([features[n] for n in side]) for side in sides)
            total += sum(len(found) for found in self.matcher.match_features(*joined))
        return total


class Forward:
    """The documented forward pass of a class with this interface, pair by pair."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model = model.eval().to(device, dtype)
        self.device, self.dtype = device, dtype

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, pairs: Pairs) -> int:
        total = 0
        for pair in pairs:
            pixels = (
                torch.from_numpy(images[list(pair)]).to(self.device, self.dtype)[None, :, None]
                / 255
            )
            scores: Tensor = self.model(pixels.expand(-1, -1, 3, -1, -1)).matching_scores
            total += int((scores[:, 0] > 0).sum())
        return total


def method(
    name: str, weights: Path, device: torch.device, dtype: torch.dtype
) -> Callable[[np.ndarray, Pairs], int]:
    """Raises ImportError for transformers where that is absent."""
    if name in OWN:
        return Ours(weights, device, torch.bfloat16 if name == "bfloat16" else dtype)
    if name == "plain":
        return Forward(load_model(weights), device, dtype)
    from transformers import EfficientLoFTRForKeypointMatching as Theirs

    return Forward(Theirs.from_pretrained(weights), device, dtype)


def seconds(
    run: Callable[[np.ndarray, Pairs], int], images: np.ndarray, pairs: Pairs, device: torch.device
) -> float:
    start = time.perf_counter()
    run(images, pairs)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def speeds(
    methods: dict[str, Callable[[np.ndarray, Pairs], int]],
    images: np.ndarray,
    pairs: Pairs,
    options: Any,
) -> dict[str, Any]:
    """Pairs per second of every method on one list: each round times all of them, one after
    another.

    The pair-by-pair methods cost the same for every pair, whatever it shows, and run a sample of
    `--sample` pairs.
    """
    device = torch.device(options.device)
    sample = {
        name: pairs if name in OWN else pairs[:: max(1, len(pairs) // options.sample)]
        for name in methods
    }
    matches = {
        name: run(images, sample[name]) / len(sample[name]) for name, run in methods.items()
    }  # also warms up
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(options.rounds):
        for name, run in methods.items():
            rates[name].append(len(sample[name]) / seconds(run, images, sample[name], device))
    return {
        name: {
            "pairs_per_second": statistics.median(rates[name]),
            "rounds": rates[name],
            "matches": matches[name],
        }
        for name in methods
    }


def peak(name: str, options: Any, weights: Path, height: int, width: int) -> float | None:
    """Bytes of a process of its own that matches one pair by this method; None where it does not
    get through.
    """
    command = [
        sys.executable,
        __file__,
        "--peak-of",
        name,
        "--weights",
        str(weights),
        "--size",
        f"{width}x{height}",
    ]
    command += ["--device", options.device, "--dtype", options.dtype]
    command += ["--photographs", str(options.photographs)] if options.photographs else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def print_peak(options: Any) -> None:
    device = torch.device(options.device)
    width, height = options.size[0]
    run = method(options.peak_of, Path(options.weights), device, DTYPES[options.dtype])
    pair = near_pairs(2, 1)
    run(windows(options.photographs, height, width, pair), pair.pairs)
    print(torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_memory())


def flop_counter() -> FlopCounterMode:
    """PyTorch's, which does not know that a product that is added to in place is one."""

    def product(y: Any, x: Any, weight: Any, **others: Any) -> int:
        return 2 * int(x[0]) * int(x[1]) * int(weight[1])  # of shapes

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product})


def operations(weights: Path, height: int, width: int) -> dict[str, float]:
    """Floating-point operations of each stage, of one image or one pair: multiplications and
    additions of products.
    """
    model = load_model(weights).eval().fuse()
    image = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    network = model.efficientloftr

    def count(run: Callable[[], Any]) -> tuple[float, Any]:
        with flop_counter() as counter, torch.no_grad():
            result = run()
        return float(counter.get_total_flops()), result

    backbone, (half, quarter, coarse) = count(lambda: network.backbone(image))
    first, encoded = count(lambda: network.local_feature_transformer.encode(coarse))
    rest, _ = count(lambda: network.local_feature_transformer(encoded, encoded))
    fusion, _ = count(lambda: model.refinement_layer(encoded, quarter, half))
    cells = coarse.shape[2] * coarse.shape[3]
    return {
        "image: backbone": backbone,
        "image: first self-attention": first,
        "pair: transformer": rest,
        "pair: coarse similarity": 2.0 * cells**2 * coarse.shape[1],
        "pair: fusion of both images": 2 * fusion,
    }


def published(folder: Path) -> Path:
    """Weights of the published size: the reference checkpoint where it is at hand, else random
    ones.
    """
    source = Path(os.environ.get("ELOFTR_REFERENCE", PROJECT.parent / "shared" / "reference"))
    if (source / "reference_checkpoint.py").exists():
        from safetensors.numpy import save_file

        module = run_path(str(source / "reference_checkpoint.py"))
        save_file(module["checkpoint"](), folder / "reference.safetensors")
        load_model(folder / "reference.safetensors").save_pretrained(folder / "published")
    else:
        torch.manual_seed(0)
        EfficientLoFTRForKeypointMatching(EfficientLoFTRConfig()).save_pretrained(
            folder / "published"
        )
    return folder / "published"


def shape_of(text: str) -> tuple[int, int]:
    """ "640x480" → (640, 480)."""
    width, height = (int(side) for side in text.split("x"))
    if width % 32 or height % 32:
        raise argparse.ArgumentTypeError(f"{text}: sides must be multiples of 32")
    return width, height


def environment(options: Any) -> dict[str, Any]:
    on_gpu = options.device.startswith("cuda")
    return {
        "versions": versions("torch", "transformers", "numpy"),
        "device": torch.cuda.get_device_name()
        if on_gpu
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "weights": str(options.weights or "published size"),
        "commit": commit(),
    }


def print_rates(title: str, rates: dict[str, Any]) -> None:
    """A line for each method: pairs a second, matches a pair, and how much faster ours is."""
    for way, rate in rates.items():
        spread = f"{min(rate['rounds']):.3f} to {max(rate['rounds']):.3f}"
        ratios = [
            f"{own} is {ratio(rates[own]['rounds'], rate['rounds']):.2f} times as fast"
            for own in OWN
            if own in rates
        ]
        print(
            f"{title} {way:13} {rate['pairs_per_second']:8.3f} pairs/s ({spread})  "
            f"{rate['matches']:6.0f} matches a pair  {', '.join(ratios)}",
            flush=True,
        )


def ratio(rates: list[float], others: list[float]) -> float:
    """The median of how many times as fast one method is as another, round by round."""
    return statistics.median(rate / other for rate, other in zip(rates, others, strict=True))


def measure(options: Any, weights: Path) -> dict[str, Any]:
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    methods: dict[str, Callable[[np.ndarray, Pairs], int]] = {}
    for name in options.methods:
        try:
            methods[name] = method(name, weights, device, dtype)
        except ImportError:
            print(f"{name}: left out, its package is absent", file=sys.stderr)
    sizes: dict[str, Any] = {}
    for width, height in options.size:
        found: dict[str, Any] = {
            "operations": operations(weights, height, width),
            "lists": {},
            "peak_bytes": {},
        }
        for name, what in (QUICK_LISTS if options.quick else LISTS[device.type]).items():
            images = windows(options.photographs, height, width, what)
            rates = speeds(methods, images, what.pairs, options)
            found["lists"][name] = {
                "images": len(images),
                "pairs": len(what.pairs),
                "methods": rates,
            }
            print_rates(f"{width}x{height}  {name:12}", rates)
        for name in methods:
            found["peak_bytes"][name] = bytes_ = peak(name, options, weights, height, width)
            print(
                f"{width}x{height}  peak memory  {name:13} "
                + (f"{bytes_ / 1e9:.2f} GB" if bytes_ else "failed")
            )
        for stage, count in found["operations"].items():
            print(f"{width}x{height}  {stage:32} {count / 1e9:8.1f} GFLOP")
        sizes[f"{width}x{height}"] = found
    return sizes


def timing_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with --weights, --device, --dtype, --photographs and --out."""
    parser = argument_parser(doc)
    add = parser.add_argument
    add(
        "--weights",
        help="checkpoint folder with Hugging Face keys (default: of the published size)",
    )
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="(default: %(default)s)",
    )
    add("--dtype", choices=DTYPES, default="float32", help="(default: %(default)s)")
    add(
        "--photographs",
        type=Path,
        help="folder of what the images are cut from (default: generated textures)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = timing_parser(__doc__)
    add = parser.add_argument
    add(
        "--size",
        type=shape_of,
        nargs="+",
        default=[(640, 480)],
        help="WIDTHxHEIGHT … (default: 640x480)",
    )
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=[name for name in METHODS if name != "bfloat16"],
        help="(default: all but bfloat16)",
    )
    add("--rounds", type=int, default=5, help="turns of every method (default: %(default)s)")
    add(
        "--sample",
        type=int,
        default=4,
        help="pairs of a list that pair-by-pair methods run (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help="fewer images, one round, one pair for pair-by-pair methods",
    )
    add("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak_of:
        print_peak(options)
        return 0
    if options.quick:
        options.rounds = options.sample = 1
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(options.weights) if options.weights else published(Path(scratch))
        results = {
            "environment": environment(options),
            "quick": options.quick,
            "sizes": measure(options, weights),
        }
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
