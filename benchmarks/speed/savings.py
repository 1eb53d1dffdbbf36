"""What every exact saving is worth: our matcher as it is against itself without that one, by turns.

    python benchmarks/speed/savings.py [--quick] [--device cuda] [--out results.json]

Two lists of pairs as in matcher.py, smaller. A factor above 1 is how many times longer the list
takes without the saving (or, of a candidate that the product does not have, how many times longer
it takes as it is). `predicted` is the same factor of the counted floating-point operations, which
know nothing of memory traffic. The matches must be the same with and without: the script stops
where they are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.speed.images import Pairs, all_pairs, near_pairs, windows
from benchmarks.speed.matcher import (
    Ours,
    environment,
    flop_counter,
    published,
    seconds,
    shape_of,
    timing_parser,
)
from eloftr import (
    EfficientLoFTRConfig,
    backbone,
    coarse_matching,
    fine_matching,
    model,
    transformer,
)
from eloftr.fast import sparse_fusion
from eloftr.matching.matcher import DTYPES

LISTS = {"exhaustive": all_pairs(2), "overlapping": near_pairs(3, 2)}
QUICK_LISTS = {"exhaustive": all_pairs(1, 3), "overlapping": near_pairs(2, 1)}


def concatenated_fc1(self: transformer.MLP, x: Tensor, message: Tensor) -> Tensor:
    """MLP.forward with the message up-sampled first, and fc1 on both at every cell."""
    message = F.interpolate(
        message.permute(0, 3, 1, 2), scale_factor=self.size, mode="bilinear", align_corners=False
    )
    joined = torch.cat([x, message.permute(0, 2, 3, 1)], dim=-1)
    return x + self.layer_norm(self.fc2(self.activation(self.fc1(joined))))


def fold_projection(matcher: Ours) -> None:
    """Fold the output projection of every attention into the message's half of fc1."""
    for layer in matcher.matcher.model.modules():
        if isinstance(layer, transformer.AggregatedAttention):
            channels = layer.mlp.fc2.out_features
            with torch.no_grad():
                layer.mlp.fc1.weight[:, channels:] @= layer.attention.o_proj.weight
            layer.attention.o_proj = torch.nn.Identity()  # type: ignore[assignment]


def compile_network(matcher: Ours) -> None:
    """torch.compile of the three large networks; they compile when they first run."""
    network = matcher.matcher.model
    networks: list[torch.nn.Module] = [
        network.efficientloftr.backbone,
        network.efficientloftr.local_feature_transformer,
        network.refinement_layer,
    ]
    for module in networks:
        module.forward = torch.compile(module.forward, dynamic=False)


def pairwise_self_attention(
    self: transformer.LocalFeatureTransformer, x0: Tensor, x1: Tensor
) -> tuple[Tensor, Tensor]:
    """LocalFeatureTransformer.forward on the backbone's features, the first self-attention
    included.
    """
    for layer in self.layers:
        assert isinstance(layer, transformer.AttentionRound)
        x0, x1 = layer.cross(layer.self_attention(x0, x0), layer.self_attention(x1, x1))
    return x0, x1


def dense_coarse(
    features0: Tensor, features1: Tensor, config: EfficientLoFTRConfig
) -> tuple[Tensor, Tensor]:
    """match_coarse with the whole similarity and its softmaxes in memory."""
    scores = coarse_matching.similarity(features0, features1, config.coarse_matching_temperature)
    scores = scores.softmax(1) * scores.softmax(2)
    border = config.coarse_matching_border_removal
    kept = (scores == scores.amax(2, keepdim=True)) & (scores == scores.amax(1, keepdim=True))
    kept &= scores > config.coarse_matching_threshold
    kept &= coarse_matching.interior(features0, border)[:, None] & coarse_matching.interior(
        features1, border
    )
    return kept.nonzero(), scores[kept]


def unfolded(fused: Tensor, pair: Tensor, cell: Tensor, centered: bool, border: int = 1) -> Tensor:
    """rings by up-sampling and unfolding the whole map."""
    assert not centered
    full = F.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=False)
    windows = F.unfold(
        full, fine_matching.WINDOW + 2 * border, stride=fine_matching.WINDOW, padding=border
    )
    return windows.unflatten(1, (fused.shape[1], -1)).permute(0, 3, 2, 1)[pair, cell]


def whole_fusion(
    self: sparse_fusion.FineFusion,
    maps0: sparse_fusion.Maps,
    maps1: sparse_fusion.Maps,
    cells: Tensor,
    area: sparse_fusion.Area,
) -> tuple[Tensor, ...]:
    """FineFusion.around of the whole images of every pair that has matches."""
    survivors, pair = cells[:, 0].unique(return_inverse=True)
    fused0, fused1 = (self(*(x[survivors] for x in maps)) for maps in (maps0, maps1))
    nowhere = cells.new_zeros(1, 2)
    return fused0, fused1, torch.stack([pair, cells[:, 1], cells[:, 2]], dim=1), nowhere, nowhere


def all_together(
    maps0: sparse_fusion.Maps, maps1: sparse_fusion.Maps, cells: Tensor
) -> list[tuple[sparse_fusion.Area, Tensor]]:
    """groups that are one."""
    return [(sparse_fusion.Area.RECTANGLE, torch.arange(len(cells), device=cells.device))]


def no_early_exit(
    self: Any,
    features0: model.ImageFeatures,
    features1: model.ImageFeatures,
    kept: model.Kept | None = None,
) -> model.PairMatches:
    """match that fuses the pairs without matches too."""
    found = WHOLE_MATCH(self, features0, features1, kept)
    for pair in set(range(len(features0))) - set(found.cells[:, 0].tolist()):
        for side in (features0[pair : pair + 1], features1[pair : pair + 1]):
            self.refinement_layer(side.coarse, side.quarter, side.half)
    return found


class PerPair(Ours):
    """Both images of every pair encoded again."""

    def __call__(self, images: np.ndarray, pairs: Pairs) -> int:
        return sum(super(PerPair, self).__call__(images[list(pair)], [(0, 1)]) for pair in pairs)


def mixed_encode(self: Any, images: Tensor) -> model.ImageFeatures:
    """encode with the image's half of each fusion block's first 3×3 done: conv2(conv1(fine)), bias
    included.
    """
    features = WHOLE_ENCODE(self, images)
    first, second = self.refinement_layer.out_conv_layers
    quarter, half = (
        b.out_conv2(b.out_conv1(x)) for b, x in ((first, features.quarter), (second, features.half))
    )
    return model.ImageFeatures(images, features.coarse, quarter, half)


def mixed_block(
    self: sparse_fusion.FusionBlock, coarse: Tensor, mixed: Tensor, padding: int = 1
) -> Tensor:
    """FusionBlock.forward of a fused model, on what mixed_encode made."""
    mixed = mixed if padding else mixed[:, :, 1:-1, 1:-1]
    x = self.activation(F.conv2d(coarse, self.out_conv2.weight, padding=padding) + mixed)
    return F.conv2d(x, self.out_conv3.weight, padding=padding)


NETWORK = model.MatchingNetwork
WHOLE_ENCODE, WHOLE_MATCH = NETWORK.encode, NETWORK.match
TRANSFORMER = transformer.LocalFeatureTransformer


@dataclass(frozen=True)
class Variant:
    """The product with one thing changed."""

    patches: Sequence[tuple[Any, str, Any]] = ()
    matcher: type[Ours] = Ours
    prepare: Callable[[Ours], None] = lambda matcher: None
    verdict: str = "kept"
    counted: bool = True  # whether its operations can be


SAVINGS = {  # each taken out
    "an image is encoded once": Variant(matcher=PerPair),
    "its first self-attention too": Variant(
        [
            (TRANSFORMER, "encode", lambda self, x: x),
            (TRANSFORMER, "forward", pairwise_self_attention),
        ]
    ),
    "folded branches and norms": Variant(
        [
            (backbone.RepVGG, "fuse", lambda self: None),
            (sparse_fusion.FineFusion, "fuse", lambda self: None),
        ]
    ),
    "split fc1": Variant([(transformer.MLP, "forward", concatenated_fc1)]),
    "no fusion without matches": Variant([(NETWORK, "match", no_early_exit)]),
    "fusion around the matches only": Variant(
        [(sparse_fusion.FineFusion, "around", whole_fusion), (model, "groups", all_together)]
    ),
    "half resolution in bands": Variant([(sparse_fusion, "BAND", {})]),
    "tiled dual softmax": Variant([(model, "match_coarse", dense_coarse)]),
    "windows of matched cells": Variant([(fine_matching, "rings", unfolded)]),
}
CANDIDATES = {  # each put in
    "output projection in fc1": Variant(
        prepare=fold_projection, verdict="dropped: a product on 1/16 of the cells"
    ),
    "image's half of the fusion": Variant(
        [(NETWORK, "encode", mixed_encode), (sparse_fusion.FusionBlock, "forward", mixed_block)],
        verdict="dropped: a 3×3 an image to save a 1×1 a pair, and encodings of 2.6 times the size",
    ),
}
COMPILED = {  # put in too; compiling takes minutes, so not in a quick run
    "torch.compile": Variant(
        prepare=compile_network,
        counted=False,
        verdict="dropped: every process would compile for minutes first",
    )
}


class Side:
    """One of the two that are compared: a matcher, made and run with its patches."""

    def __init__(
        self, variant: Variant, weights: Path, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.variant = variant
        with self.patched():
            self.matcher = variant.matcher(weights, device, dtype)
            variant.prepare(self.matcher)

    @contextmanager
    def patched(self) -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, replacement in self.variant.patches:
                stack.enter_context(patch.object(owner, name, replacement))
            yield

    def __call__(self, images: np.ndarray, pairs: Pairs) -> int:
        with self.patched():
            return self.matcher(images, pairs)

    def operations(self, images: np.ndarray, pairs: Pairs) -> int:
        with flop_counter() as counter:
            self(images, pairs)
        return int(counter.get_total_flops())


def compare(
    product: Side, other: Side, images: np.ndarray, pairs: Pairs, rounds: int
) -> dict[str, Any]:
    """Seconds of both by turns, and their operations. Raises SystemExit where they find other
    numbers of matches.
    """
    start = time.perf_counter()
    first = other(images, pairs)
    first_seconds = time.perf_counter() - start
    found = product(images, pairs), first
    # A score at the threshold may fall to either side.
    if abs(found[0] - found[1]) > 2e-3 * max(found):
        counts = f"{found[0]} matches with, {found[1]} without"
        raise SystemExit(f"savings: {counts}: the variant computes something else")
    device = product.matcher.matcher.device
    times: dict[str, list[float]] = {"product": [], "variant": []}
    for _ in range(rounds):
        times["product"].append(seconds(product, images, pairs, device))
        times["variant"].append(seconds(other, images, pairs, device))
    ratios = [v / p for v, p in zip(times["variant"], times["product"], strict=True)]
    return {
        "matches": found[0],
        "seconds": times,
        "factor": statistics.median(ratios),
        "first_seconds": first_seconds,
        "predicted": other.operations(images, pairs) / product.operations(images, pairs)
        if other.variant.counted
        else None,
    }


def sides_parser(doc: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser as `timing_parser`, with --size and --rounds of two sides by turns."""
    parser = timing_parser(doc)
    add = parser.add_argument
    add("--size", type=shape_of, default=(640, 480), help="WIDTHxHEIGHT (default: 640x480)")
    add("--rounds", type=int, default=rounds, help="turns of both (default: %(default)s)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = sides_parser(__doc__, rounds=3)
    parser.add_argument("--quick", action="store_true", help="fewer images, one round")
    options = parser.parse_args(arguments)
    rounds = 1 if options.quick else options.rounds
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    width, height = options.size
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(options.weights) if options.weights else published(Path(scratch))
        product = Side(Variant(), weights, device, dtype)
        for name, variant in (SAVINGS | CANDIDATES | ({} if options.quick else COMPILED)).items():
            other = Side(variant, weights, device, dtype)
            for which, what in (QUICK_LISTS if options.quick else LISTS).items():
                images = windows(options.photographs, height, width, what)
                found = compare(product, other, images, what.pairs, rounds)
                if name not in SAVINGS:  # the product is the one without
                    found |= {"factor": 1 / found["factor"]}
                    found |= {"predicted": found["predicted"] and 1 / found["predicted"]}
                rows.append({"saving": name, "list": which, "verdict": variant.verdict, **found})
                print(
                    f"{name:30} {which:12} predicted {found['predicted'] or float('nan'):5.2f}  "
                    f"measured {found['factor']:5.2f}  first run {found['first_seconds']:6.1f} s  "
                    f"{variant.verdict}",
                    flush=True,
                )
        results = {"environment": environment(options), "size": [width, height], "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
