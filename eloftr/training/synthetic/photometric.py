"""What differs between two photographs of one place besides geometry.

That is light, exposure, lens, sensor and file.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from eloftr.training.synthetic.noise import smooth_noise


def photometric(
    rng: np.random.Generator, image: np.ndarray, difficulty: float = 1.0, faint: bool = False
) -> np.ndarray:
    """`image` as one camera might have taken it: (H, W) float32 grey levels, 0 to 255, in and out.

    difficulty: 0 to 1; how often it is blurred and compressed, and how noisy it is. faint: whether
    it has little contrast, as haze, fields and water have.
    """
    image = np.clip(image / 255, 0, 1)
    contrast = _faint_contrast(rng) if faint else 1.0
    if faint:
        image = image.mean() + contrast * (image - image.mean())
    image = _expose(rng, _light(rng, image))
    if rng.random() < 0.4 * difficulty:
        image = _blur(image, rng.uniform(0.3, 1.4))
    if rng.random() < 0.8:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        # Sensors that see little contrast are mostly held still in good light.
        image = image + difficulty * contrast * rng.exponential(0.012) * noise
    image = np.clip(image, 0, 1) * 255
    return (
        _compress(image, int(rng.integers(25, 95))) if rng.random() < 0.35 * difficulty else image
    )


def _faint_contrast(rng: np.random.Generator) -> float:
    """The share of contrast that haze leaves: 0.1 to 0.5, evenly by ratio."""
    return float(np.exp(rng.uniform(math.log(0.1), math.log(0.5))))


def _light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, a shadow and glare, each in some images only; (H, W) reflectances 0 to 1."""
    height, width = shape = image.shape
    if rng.random() < 0.5:  # uneven light
        image = image * np.exp(
            rng.uniform(0, 0.35) * smooth_noise(rng, int(rng.integers(2, 5)), shape)
        )
    if rng.random() < 0.2:  # a cast shadow, or a patch of sun
        edge = smooth_noise(rng, int(rng.integers(3, 6)), shape) * rng.uniform(4, 40)
        image = image * (1 + rng.uniform(-0.6, 0.4) / (1 + np.exp(-edge.clip(-30, 30))))
    if rng.random() < 0.1:  # glare or a spot on the lens
        y, x = np.ogrid[:height, :width]
        squared = (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2
        spot = np.exp(-squared / (2 * (rng.uniform(0.04, 0.15) * min(shape)) ** 2)).astype(
            np.float32
        )
        image = image + spot * rng.uniform(0.3, 0.9) * (
            rng.choice([0.0, 1.0], p=[0.4, 0.6]) - image
        )
    return image


def _expose(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Gamma, contrast and exposure, strong in one image of seven."""
    strength = 2.0 if rng.random() < 0.15 else 1.0
    image = np.maximum(image, 0) ** np.float32(math.exp(strength * rng.normal(0, 0.25)))
    mean = float(image.mean())
    contrast, exposure = np.exp(strength * rng.normal(0, [0.17, 0.15])).tolist()
    exposure = min(
        exposure, 0.75 / max(mean, 0.01)
    )  # a photographer does not burn most of the picture out
    exposed: np.ndarray = (image - mean) * contrast + mean * exposure
    return exposed


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with mirrored borders."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None, None]
    padded = F.pad(
        torch.from_numpy(image.astype(np.float32))[None, None], [reach] * 4, mode="reflect"
    )
    return F.conv2d(F.conv2d(padded, kernel), kernel.mT)[0, 0].numpy()


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    """`image` after JPEG, float32 again."""
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG", quality=quality)
    with Image.open(file) as decoded:
        return np.asarray(decoded, dtype=np.float32)
