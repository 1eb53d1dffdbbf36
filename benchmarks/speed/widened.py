"""The bundled weights in a network of the published size: the matches of the former at the cost of
the latter.

    python benchmarks/speed/widened.py FOLDER

writes such a checkpoint, for `--weights` of the other benchmarks and of the jobs. The published
weights are not at hand, and untrained ones find some dozens of matches in pairs that show nothing
in common, where trained ones find none.

Channels are repeated where a layer norm follows, which keeps its mean and variance, and else zero
beyond those of the narrow network; every layer reads the first copy alone. Added blocks pass on
what they get, added attention adds none. The options of the fine matching stay those of the narrow
network. After Net2Net (Chen, Goodfellow, Shlens, ICLR 2016).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a script sees its own folder only

from benchmarks.environment import argument_parser
from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, load_model

KEPT = ("fine_matching_slice_dim", "fine_matching_centered", "fine_matching_least_squares_radius")


# Which channel of the narrow network each of the wide one's is, −1 for none: (wide,) int64.


def first(narrow: int, wide: int) -> Tensor:
    channel = torch.arange(wide)
    return torch.where(channel < narrow, channel, -1)


def every(narrow: int, wide: int) -> Tensor:
    return torch.arange(wide) % narrow


def frequencies(narrow: int, wide: int) -> Tensor:
    """Of queries and keys: two channels of the rows and two of the columns share a rotary
    frequency, and a network n times as wide has n − 1 more frequencies between two of the narrow
    one's. Its heads hold the same of them.
    """
    channel, ratio = torch.arange(wide), wide // narrow
    return torch.where(channel // 4 % ratio == 0, channel // (4 * ratio) * 4 + channel % 4, -1)


def stages(narrow: int, wide: int, second: int) -> Tensor:
    """Of fine features, whose last `second` channels are those of the second stage."""
    channel = torch.arange(wide)
    return torch.where(
        channel < narrow - second,
        channel,
        torch.where(channel < wide - second, -1, channel - wide + narrow),
    )


def layouts(
    narrow: EfficientLoFTRConfig, wide: EfficientLoFTRConfig
) -> dict[str, tuple[Tensor, Tensor | None, float | Tensor]]:
    """Of the parameters whose names hold a pattern, the first that fits: rows, columns (None of
    depth-wise ones), and a factor.
    """
    maps = [first(a, b) for a, b in zip(narrow.out_features, wide.out_features, strict=True)]
    _, half, quarter, coarse = maps
    size = narrow.hidden_size, wide.hidden_size
    root = (wide.hidden_size / narrow.hidden_size) ** 0.5
    copies, rotary, hidden = every(*size), frequencies(*size), first(2 * size[0], 2 * size[1])
    joined = torch.cat([coarse, torch.where(coarse < 0, -1, coarse + narrow.hidden_size)])
    second = narrow.fine_matching_slice_dim
    fine = stages(narrow.out_features[1], wide.out_features[1], second)
    factor = torch.full(
        (len(fine), 1, 1, 1), (wide.out_features[1] / narrow.out_features[1]) ** 0.5
    )
    factor[-second:] = 1  # the first stage alone divides a product of features by their channels
    found: dict[str, tuple[Tensor, Tensor | None, float | Tensor]] = {}
    inputs = [torch.tensor([0]), *maps[:3]]
    for stage, (fed, made) in enumerate(zip(inputs, [*maps[:3], copies], strict=True)):
        found[rf"stages\.{stage}\.blocks\.0\."] = made, fed, 1.0
        found[rf"stages\.{stage}\."] = made, maps[stage], 1.0
    return found | {
        r"q_aggregation|aggregation\.norm|layer_norm": (copies, None, 1.0),
        "q_proj": (rotary, coarse, root),  # attention divides by the root of a head's width
        "k_proj|v_proj": (rotary, coarse, 1.0),
        "o_proj": (copies, rotary, 1.0),
        "fc1": (hidden, joined, 1.0),
        "fc2": (copies, hidden, 1.0),
        r"refinement_layer\.out_conv\.": (
            coarse,
            coarse,
            root,
        ),  # its input is divided by the root of its channels
        r"layers\.0\.out_conv1": (coarse, quarter, 1.0),
        r"layers\.0\.out_conv3": (quarter, coarse, 1.0),
        r"layers\.0\.": (coarse, coarse, 1.0),
        r"layers\.1\.out_conv1": (quarter, half, 1.0),
        r"layers\.1\.out_conv3": (fine, quarter, factor),
        r"layers\.1\.": (quarter, quarter, 1.0),
    }


def taken(value: Tensor, rows: Tensor, columns: Tensor | None, beyond: float = 0.0) -> Tensor:
    """The rows and columns of a narrow parameter, `beyond` where there are none."""
    value = torch.where(
        (rows < 0).view(-1, *[1] * (value.ndim - 1)), beyond, value[rows.clamp(min=0)]
    )
    if columns is not None and value.ndim > 1:
        value = torch.where(
            (columns < 0).view(-1, *[1] * (value.ndim - 2)), 0.0, value[:, columns.clamp(min=0)]
        )
    return value


@torch.no_grad()
def widened(narrow: EfficientLoFTRForKeypointMatching) -> EfficientLoFTRForKeypointMatching:
    """A model of the published size that computes what `narrow` computes, whose widths divide the
    published ones.
    """
    options = {name: getattr(narrow.config, name) for name in KEPT}
    wide = EfficientLoFTRForKeypointMatching(EfficientLoFTRConfig(**options)).eval()
    rules, theirs = layouts(narrow.config, wide.config), narrow.state_dict()
    for name, value in wide.state_dict().items():
        if name in theirs and value.ndim:
            rows, columns, factor = next(
                rules[pattern] for pattern in rules if re.search(pattern, name)
            )
            value.copy_(taken(theirs[name], rows, columns, float("running_var" in name)) * factor)
        elif re.search(r"layer_norm|conv[12]\.norm\.(weight|bias)|identity\.(weight|bias)", name):
            value.zero_()
            block = name.rpartition("identity.")[0]
            if name.endswith("identity.weight") and block + "conv1.norm.weight" not in theirs:
                value.fill_((1 + wide.config.batch_norm_eps) ** 0.5)
    return wide


def main(arguments: list[str] | None = None) -> int:
    parser = argument_parser(__doc__, out=None)
    parser.add_argument("folder", type=Path, help="where the checkpoint is written")
    parser.add_argument("--weights", default="small", help="what is widened (default: %(default)s)")
    options = parser.parse_args(arguments)
    widened(load_model(options.weights)).save_pretrained(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
