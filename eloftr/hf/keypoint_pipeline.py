"""`pipeline(task="keypoint-matching")`: images in, a plain list of matches out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from eloftr.errors import ArgumentError, CheckpointError
from eloftr.hf.image_loading import load_image
from eloftr.hf.image_processing import PROCESSOR_FILE, EfficientLoFTRImageProcessor, flat_pairs
from eloftr.hf.modeling import EfficientLoFTRForKeypointMatching
from eloftr.model import sharing_weights
from eloftr.weights.locate import find_file

TASK = "keypoint-matching"
Match = dict[str, Any]


class KeypointMatchingPipeline:
    """Loads the images, runs processor and model, and lists the matches. Make one with `pipeline`.

    The model that is handed in keeps its mode; its weights are shared.
    """

    def __init__(
        self,
        model: EfficientLoFTRForKeypointMatching,
        image_processor: EfficientLoFTRImageProcessor,
    ) -> None:
        self.model = sharing_weights(model).eval()
        self.image_processor = image_processor

    def __call__(
        self, inputs: Sequence[Any], threshold: float = 0.0, timeout: float | None = None
    ) -> list[Match] | list[list[Match]]:
        """Match one pair of images or several.

        inputs: a pair of paths, URLs or Pillow images, or a list of pairs. threshold: scores must
        exceed it.
        timeout: seconds to wait for a URL.
        Returns for a pair its matches, best first; for several pairs a list of such lists. A match
        is `{"keypoint_image_0": {"x": …, "y": …}, "keypoint_image_1": {…}, "score": …}`, in pixels
        of the images.
        Raises ImageReadError where an image cannot be read, ArgumentError for images that are no
        pairs.
        """
        images = [load_image(image, timeout) for image in flat_pairs(inputs)]
        results = [self._match(images[n : n + 2], threshold) for n in range(0, len(images), 2)]
        return results[0] if len(results) == 1 else results

    @torch.inference_mode()
    def _match(self, images: list[Image.Image], threshold: float) -> list[Match]:
        features = self.image_processor(images, return_tensors="pt").to(self.model.device)
        outputs = self.model(**features, return_dict=True)
        sizes = [[(image.height, image.width) for image in images]]
        (found,) = self.image_processor.post_process_keypoint_matching(outputs, sizes, threshold)
        order = found["matching_scores"].argsort(descending=True, stable=True)
        columns = [
            found[name][order].tolist() for name in ("keypoints0", "keypoints1", "matching_scores")
        ]
        return [
            {
                "keypoint_image_0": {"x": x0, "y": y0},
                "keypoint_image_1": {"x": x1, "y": y1},
                "score": score,
            }
            for (x0, y0), (x1, y1), score in zip(*columns, strict=True)
        ]


def pipeline(
    task: str = TASK,
    model: EfficientLoFTRForKeypointMatching | str | Path = "small",
    image_processor: EfficientLoFTRImageProcessor | str | Path | None = None,
    device: str | int | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> KeypointMatchingPipeline:
    """A matcher of images as users have them.

    model, image_processor: objects, or what `from_pretrained` takes; the processor by default that
    of the model, or the default one where the model brings none. device: default the CPU, or the
    model's; a number is that GPU.
    Raises ArgumentError for another task, CheckpointError where there is no such model.
    """
    if task != TASK:
        raise ArgumentError(f"task={task!r}: only {TASK!r} is done here.")
    source = model
    if not isinstance(model, EfficientLoFTRForKeypointMatching):
        model = EfficientLoFTRForKeypointMatching.from_pretrained(model)
    elif device is not None or dtype is not None:
        model = copy.deepcopy(model)  # the one that was handed in stays where it is
    if image_processor is None:
        image_processor = _processor_of(source)
    elif not isinstance(image_processor, EfficientLoFTRImageProcessor):
        image_processor = EfficientLoFTRImageProcessor.from_pretrained(image_processor)
    if device is not None:
        model = model.to(f"cuda:{device}" if isinstance(device, int) else device)
    return KeypointMatchingPipeline(model if dtype is None else model.to(dtype), image_processor)


def _processor_of(
    source: EfficientLoFTRForKeypointMatching | str | Path,
) -> EfficientLoFTRImageProcessor:
    """The processor that lies beside the weights, or the default one."""
    if isinstance(source, EfficientLoFTRForKeypointMatching) or Path(source).is_file():
        return EfficientLoFTRImageProcessor()
    try:
        file = find_file(source, PROCESSOR_FILE)
    except CheckpointError:  # there is none
        return EfficientLoFTRImageProcessor()
    return EfficientLoFTRImageProcessor.from_pretrained(file)
