"""RepVGG backbone: a grey image → features at 1/2, 1/4 and 1/8 of its resolution (paper §3.1).

    images (B, 1, H, W) → half (B, C1, H/2, W/2), quarter (B, C2, H/4, W/4), coarse (B, C3, H/8,
    W/8)

Every block trains as three parallel branches (3×3, 1×1, identity), each with its own batch norm,
and folds into one 3×3 convolution for inference (Ding et al., RepVGG, CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eloftr.config import NetworkConfig
from eloftr.fast.forms import Undrawn, kernels_for, slope_of

# In place where there is such a form. Nothing else reads the input, and new memory takes longer to
# get from the system than the activation itself.
ACTIVATION: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),
    "gelu": nn.GELU,
    "silu": partial(nn.SiLU, inplace=True),
}


def fold_norm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold `norm` into the bias-free convolution before it.

    Returns the weight (O, I, k, k) and bias (O,) of one convolution, float64. They are folded in
    float64 so that the product, not the folding, sets the rounding.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return weight.double() * scale[:, None, None, None], bias


class ConvNorm(nn.Module):
    """A convolution without bias, and a batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I, H, W) → (B, O, H / stride, W / stride)."""
        normed: Tensor = self.norm(self.conv(x))
        return normed


class RepVGGBlock(nn.Module):
    """A block as it is trained: 3×3, 1×1 and, where shapes allow, identity branches, added up."""

    def __init__(self, inputs: int, outputs: int, stride: int, config: NetworkConfig) -> None:
        super().__init__()
        eps = config.batch_norm_eps
        self.conv1 = ConvNorm(inputs, outputs, 3, stride, eps)
        self.conv2 = ConvNorm(inputs, outputs, 1, stride, eps)
        self.identity = nn.BatchNorm2d(inputs, eps) if inputs == outputs and stride == 1 else None
        self.activation = ACTIVATION[config.activation_function]()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I, H, W) → (B, O, H / stride, W / stride)."""
        y = self.conv1(x) + self.conv2(x)
        if self.identity is not None:
            y = y + self.identity(x)
        activated: Tensor = self.activation(y)
        return activated


class FusedBlock(nn.Module):
    """A block's 3×3 and 1×1 branches and all norms in one 3×3 convolution, for inference.

    The identity's scale stays outside: inside the kernel's centre it would be the largest term of
    every sum, and the rounding of the others against it moves match scores past 1e-4. Added once,
    it costs one pass over the features.
    """

    @torch.no_grad()
    def __init__(self, block: RepVGGBlock) -> None:
        super().__init__()
        dense = block.conv1.conv
        weight, bias = fold_norm(dense.weight, block.conv1.norm)
        point_weight, point_bias = fold_norm(block.conv2.conv.weight, block.conv2.norm)
        weight[:, :, 1:2, 1:2] += point_weight
        bias += point_bias
        self.scale: nn.Parameter | None = None
        if block.identity is not None:
            ones = weight.new_ones(dense.in_channels, 1, 1, 1)
            scale, shift = fold_norm(ones, block.identity)
            self.scale = nn.Parameter(scale[:, 0].to(dense.weight))
            bias += shift
        # Without its own random weights: these would be drawn from the host's random numbers.
        with Undrawn():
            self.conv = nn.Conv2d(
                dense.in_channels,
                dense.out_channels,
                3,
                dense.stride[0],
                padding=1,
                device=dense.weight.device,
                dtype=dense.weight.dtype,
            )
        self.conv.weight.copy_(weight)
        assert self.conv.bias is not None
        self.conv.bias.copy_(bias)
        self.activation = block.activation

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I, H, W) → (B, O, H / stride, W / stride), equal to the block's up to rounding."""
        slope = slope_of(self.activation)
        if slope is not None and (kernels := kernels_for(x)):
            y = F.conv2d(x, self.conv.weight, None, self.conv.stride, padding=1)
            finished: Tensor = kernels.finish(y, self.conv.bias, slope, x, self.scale)
            return finished
        y = self.conv(x)
        activated: Tensor = self.activation(y if self.scale is None else y.addcmul_(x, self.scale))
        return activated


class RepVGGStage(nn.Module):
    """Blocks of one resolution, of which the first may halve it."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, stride: int, config: NetworkConfig
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            RepVGGBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1, config)
            for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I, H, W) → (B, O, H / stride, W / stride)."""
        for block in self.blocks:
            x = block(x)
        return x


class RepVGG(nn.Module):
    """The four stages. Stage 1 ends at 1/2 of the image, stage 2 at 1/4 and stage 3 at 1/8."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = [1, *config.out_features]
        self.stages = nn.ModuleList(
            RepVGGStage(
                widths[i], widths[i + 1], config.stage_num_blocks[i], config.stage_stride[i], config
            )
            for i in range(len(config.out_features))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, 1, H, W), values 0…1 → features at 1/2, 1/4 and 1/8."""
        outputs = []
        x = images
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        _, half, quarter, coarse = outputs
        return half, quarter, coarse

    def fuse(self) -> None:
        """Replace every block by its folded form, in place. For inference only."""
        for stage in self.stages:
            assert isinstance(stage, RepVGGStage)
            for i, block in enumerate(stage.blocks):
                if isinstance(block, RepVGGBlock):
                    stage.blocks[i] = FusedBlock(block)
