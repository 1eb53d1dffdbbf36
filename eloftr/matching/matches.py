"""The matches of one pair of images, and their picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from eloftr.errors import ArgumentError
from eloftr.hf.drawing import draw_matches


@dataclass(frozen=True)
class Matches:
    """The M matches of one pair of images.

    keypoints0, keypoints1 (M, 2) float32: (x, y), pixels of each array, centre of the top-left
    pixel at (0, 0)
    scores (M,) float32: dual softmax, 0…1 (variant "full"), or raw similarity ("opt");
    `match_probabilities` says how likely a match is right
    images: the two that `match` read, for `draw`; None otherwise
    """

    keypoints0: np.ndarray
    keypoints1: np.ndarray
    scores: np.ndarray
    images: tuple[Image.Image, Image.Image] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def draw(
        self,
        image0: np.ndarray | Image.Image | None = None,
        image1: np.ndarray | Image.Image | None = None,
        most: int | None = 200,
    ) -> Image.Image:
        """The two images side by side, a line for every match, red to green by score.

        image0, image1: the images the matches are of, uint8 (H, W) or (H, W, 3) or Pillow's; not
        needed after `match`.
        most: lines drawn, of more matches a sample; None draws all.
        Raises ArgumentError where there are none.
        """
        given = tuple(image for image in (image0, image1) if image is not None) or self.images or ()
        if len(given) != 2:
            raise ArgumentError(
                "draw needs the two images that were matched; only match() keeps them."
            )
        pictures = [
            image if isinstance(image, Image.Image) else Image.fromarray(image) for image in given
        ]
        picture0, picture1 = (picture.convert("RGB") for picture in pictures)
        return draw_matches(picture0, picture1, self.keypoints0, self.keypoints1, self.scores, most)
