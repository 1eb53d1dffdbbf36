"""What differs between two photographs of one place besides geometry.

That is light, exposure, lens, sensor and file. What happens to a view is drawn on the CPU, one view
at a time; it happens to all views of a batch at once, on their device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eloftr.training.synthetic.cameras import linear, on_device
from eloftr.training.synthetic.noise import random_nodes, smooth_fields

REACH = 5  # pixels, of the widest blur
BLOCK = 8  # pixels, of JPEG
# Share of the views whose grey levels follow a curve of their own, which may fall where it should
# rise, and the number of its nodes.
RESTYLED = 0.25
TONES = 6
STRONG_LIGHT = 0.2  # share of the views in uneven light where it is far more uneven
# JPEG's table for luminance at quality 50 (ITU-T T.81, annex K.1).
QUANTISATION = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


@dataclass(frozen=True)
class Glare:
    """A bright or dark spot: its centre and radius as shares of the view, and how it covers it."""

    x: float
    y: float
    radius: float
    cover: float
    brightness: float


@dataclass(frozen=True, eq=False)
class Appearance:
    """What happens to a view, whose grey levels are 0 to 1 here. None: that does not happen.

    faint: share of the contrast that haze leaves. tone: grey levels that evenly spaced ones become.
    shade: nodes of the logarithm of uneven light. shadow: nodes that are positive where
    `shadow_gain` is added to the light. gamma, contrast and exposure: of the camera. blur: sigma in
    pixels. noise: its deviation, drawn by `seed`. quality: of JPEG.
    """

    faint: float
    tone: np.ndarray | None
    shade: np.ndarray | None
    shadow: np.ndarray | None
    shadow_gain: float
    glare: Glare | None
    gamma: float
    contrast: float
    exposure: float
    blur: float | None
    noise: float | None
    seed: int
    quality: int | None


def random_appearance(rng: np.random.Generator, difficulty: float, faint: bool) -> Appearance:
    """What one camera and its light make of a view.

    difficulty: 0 to 1; how often it is blurred and compressed, and how noisy it is. faint: whether
    it has little contrast, as haze, fields and water have.
    """
    kept = math.exp(rng.uniform(math.log(0.1), math.log(0.5))) if faint else 1.0
    tone = shade = shadow = glare = blur = noise = quality = None
    if rng.random() < RESTYLED:  # another season, lamps at night, another film
        bend = rng.uniform(0.1, 0.3) * rng.standard_normal(TONES)
        tone = (np.linspace(0, 1, TONES) + bend).clip(0, 1).astype(np.float32)
    if rng.random() < 0.5:  # uneven light
        strongest = 1.0 if rng.random() < STRONG_LIGHT else 0.35
        shade = rng.uniform(0, strongest) * random_nodes(rng, int(rng.integers(2, 5)))
    if rng.random() < 0.2:  # a cast shadow, or a patch of sun
        shadow = rng.uniform(4, 40) * random_nodes(rng, int(rng.integers(3, 6)))
    if rng.random() < 0.1:  # glare or a spot on the lens
        glare = Glare(
            x=rng.uniform(0, 1),
            y=rng.uniform(0, 1),
            radius=rng.uniform(0.04, 0.15),
            cover=rng.uniform(0.3, 0.9),
            brightness=float(rng.choice([0.0, 1.0], p=[0.4, 0.6])),
        )
    strength = 2.0 if rng.random() < 0.15 else 1.0
    gamma, contrast, exposure = np.exp(strength * rng.normal(0, [0.25, 0.17, 0.15])).tolist()
    if rng.random() < 0.4 * difficulty:
        blur = rng.uniform(0.3, 1.4)
    if rng.random() < 0.8:
        # What sees little contrast is mostly held still in good light.
        noise = kept * difficulty * rng.exponential(0.012)
    if rng.random() < 0.35 * difficulty:
        quality = int(rng.integers(25, 95))
    return Appearance(
        faint=kept,
        tone=tone,
        shade=shade,
        shadow=shadow,
        shadow_gain=rng.uniform(-0.6, 0.4),
        glare=glare,
        gamma=gamma,
        contrast=contrast,
        exposure=exposure,
        blur=blur,
        noise=noise,
        seed=int(rng.integers(2**62)),
        quality=quality,
    )


def develop(images: Tensor, appearances: Sequence[Appearance]) -> Tensor:
    """Views as their cameras might have taken them.

    images: (V, H, W) float32 grey levels, 0 to 255, in and out.
    """
    images = (images / 255).clamp(0, 1)
    images = _spread(images, _column(images, [a.faint for a in appearances]), None)
    _change(images, appearances, "tone", _restyle)
    _change(images, appearances, "shade", _shade)
    _change(images, appearances, "shadow", _cast)
    _change(images, appearances, "glare", _glare)
    images = images.clamp(min=0) ** _column(images, [a.gamma for a in appearances])
    images = _spread(
        images,
        _column(images, [a.contrast for a in appearances]),
        _column(images, [a.exposure for a in appearances]),
    )
    _change(images, appearances, "blur", _blur)
    _change(images, appearances, "noise", _add_noise)
    images = images.clamp(0, 1) * 255
    _change(images, appearances, "quality", _compress)
    return images


def _change(
    images: Tensor,
    appearances: Sequence[Appearance],
    name: str,
    change: Callable[[Tensor, list[Appearance]], Tensor],
) -> None:
    """Change, in place, the images to which what `name` says happens."""
    wanted = [
        view for view, appearance in enumerate(appearances) if getattr(appearance, name) is not None
    ]
    if wanted:
        at = torch.tensor(wanted, device=images.device)
        images[at] = change(images[at], [appearances[view] for view in wanted])


def _column(images: Tensor, values: Sequence[float]) -> Tensor:
    """(V, 1, 1), on the images' device."""
    return on_device(np.array(values)[:, None, None], images.device)


def _spread(images: Tensor, contrast: Tensor, exposure: Tensor | None) -> Tensor:
    """Scale contrast about the mean, and scale the mean."""
    # Of some pixels: a sum so short is added up in one order in batches of any size.
    mean = images[:, ::4, ::4].flatten(1).mean(1)[:, None, None]
    if exposure is None:
        return (images - mean) * contrast + mean
    # A photographer does not burn most of the picture out.
    exposure = exposure.minimum(0.75 / mean.clamp(min=0.01))
    return (images - mean) * contrast + mean * exposure


def _restyle(images: Tensor, appearances: list[Appearance]) -> Tensor:
    """Grey levels by the views' tone curves, straight between their nodes."""
    tones = on_device(np.stack([a.tone for a in appearances if a.tone is not None]), images.device)
    place = images.clamp(0, 1) * (TONES - 1)
    lower = place.long().clamp(max=TONES - 2)
    below = tones.gather(1, lower.flatten(1)).view_as(images)
    above = tones.gather(1, lower.flatten(1) + 1).view_as(images)
    return below + (place - lower) * (above - below)


def _shade(images: Tensor, appearances: list[Appearance]) -> Tensor:
    return (
        images * smooth_fields([a.shade for a in appearances if a.shade is not None], images).exp()
    )


def _cast(images: Tensor, appearances: list[Appearance]) -> Tensor:
    gain = _column(images, [a.shadow_gain for a in appearances])
    nodes = [a.shadow for a in appearances if a.shadow is not None]
    return images * (1 + gain * smooth_fields(nodes, images).sigmoid())


def _glare(images: Tensor, appearances: list[Appearance]) -> Tensor:
    height, width = images.shape[1:]
    spots = [a.glare for a in appearances if a.glare]
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    y = y - height * _column(images, [spot.y for spot in spots])
    x = x - width * _column(images, [spot.x for spot in spots])
    radius = min(height, width) * _column(images, [spot.radius for spot in spots])
    cover = torch.exp(-(x**2 + y**2) / (2 * radius**2))
    cover = cover * _column(images, [spot.cover for spot in spots])
    return images + cover * (_column(images, [spot.brightness for spot in spots]) - images)


def _blur(images: Tensor, appearances: list[Appearance]) -> Tensor:
    """Gaussian blur with mirrored borders."""
    sigma = np.array([a.blur for a in appearances])[:, None]
    kernels = np.exp(-(np.arange(-REACH, REACH + 1) ** 2) / (2 * sigma**2))
    weights = on_device(kernels / kernels.sum(1, keepdims=True), images.device)[..., None, None]
    for _ in range(2):  # along the rows, then along the columns
        padded = F.pad(images[:, None], (REACH, REACH, 0, 0), mode="reflect")[:, 0]
        width = images.shape[2]
        taps = [weights[:, k] * padded[..., k : k + width] for k in range(2 * REACH + 1)]
        images = sum(taps[1:], taps[0]).transpose(1, 2)
    return images


def _add_noise(images: Tensor, appearances: list[Appearance]) -> Tensor:
    generator = torch.Generator(images.device)
    noise = torch.empty_like(images)
    for view, appearance in enumerate(appearances):
        noise[view].normal_(generator=generator.manual_seed(appearance.seed))
    return images + _column(images, [a.noise or 0.0 for a in appearances]) * noise


def _compress(images: Tensor, appearances: list[Appearance]) -> Tensor:
    """What JPEG loses: its blocks' cosine transform is rounded to multiples of its table."""
    quality = np.array([a.quality for a in appearances])[:, None, None]
    scale = np.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    table = ((QUANTISATION * scale + 50) // 100).clip(1, 255)
    height, width = images.shape[1:]
    padding = (0, -width % BLOCK, 0, -height % BLOCK)
    padded = F.pad(images[:, None].round() - 128, padding, mode="replicate")[:, 0]
    frequency, place = np.mgrid[:BLOCK, :BLOCK]
    cosines = np.cos((2 * place + 1) * frequency * math.pi / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    cosines[0] /= math.sqrt(2)
    forward = on_device(cosines[None], images.device)
    repeats = padded.shape[1] // BLOCK, padded.shape[2] // BLOCK
    quantum = on_device(np.tile(table, (1, *repeats)), images.device)
    coefficients = (_on_blocks(forward, padded) / quantum).round() * quantum
    restored = _on_blocks(forward.mT, coefficients) + 128
    return restored[:, :height, :width].round().clamp(0, 255)


def _on_blocks(matrix: Tensor, images: Tensor) -> Tensor:
    """`matrix` (1, 8, 8) from the left and from the right on every block of images (V, H, W)."""
    for _ in range(2):
        rows = images.unflatten(1, (-1, BLOCK)).transpose(1, 2)
        images = linear(matrix, rows).transpose(1, 2).flatten(1, 2).transpose(1, 2)
    return images
