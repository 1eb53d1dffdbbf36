"""`pipeline(task="keypoint-matching")`: images in, a plain list of matches out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from eloftr.errors import ArgumentError, CheckpointError
from eloftr.hf.image_loading import flat_pairs, load_image, to_array
from eloftr.hf.image_processing import PROCESSOR_FILE, EfficientLoFTRImageProcessor
from eloftr.hf.modeling import EfficientLoFTRForKeypointMatching
from eloftr.model import sharing_weights
from eloftr.weights.locate import Hub, find_file
from eloftr.weights.placing import Dtype, asked_dtype, existing_device, weights_device

TASK = "keypoint-matching"
Match = dict[str, Any]


class KeypointMatchingPipeline:
    """Loads the images, runs processor and model, and lists the matches. Make one with `pipeline`.

    The model that is handed in keeps its mode; its weights are shared.
    batch_size: pairs that the model is given at once. threshold, timeout: of calls that give none.
    """

    task = TASK

    def __init__(
        self,
        model: EfficientLoFTRForKeypointMatching,
        image_processor: EfficientLoFTRImageProcessor,
        batch_size: int = 1,
        threshold: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        self.model = sharing_weights(model).eval()
        self.image_processor = image_processor
        self.batch_size = _checked(batch_size)
        self.threshold = threshold
        self.timeout = timeout

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that it computes with."""
        return self.model.dtype

    def __call__(
        self,
        inputs: Any,
        threshold: float | None = None,
        timeout: float | None = None,
        batch_size: int | None = None,
    ) -> list[Match] | list[list[Match]]:
        """Match one pair of images or several.

        inputs: a pair of paths, URLs, Pillow images, arrays or tensors, or a list of pairs. Arrays
        are as for the image processor. threshold: scores must exceed it. timeout: seconds to wait
        for a URL.
        batch_size: pairs that the model is given at once; a pair's matches do not depend on it.
        Returns for a pair its matches, best first; for several pairs a list of such lists. A match
        is `{"keypoint_image_0": {"x": …, "y": …}, "keypoint_image_1": {…}, "score": …}`, in pixels
        of the images.
        Raises ImageReadError where an image cannot be read, ArgumentError for images that are no
        pairs.
        """
        images = flat_pairs(inputs)
        size = 2 * (self.batch_size if batch_size is None else _checked(batch_size))
        threshold = self.threshold if threshold is None else threshold
        timeout = self.timeout if timeout is None else timeout
        results = []
        for start in range(0, len(images), size):
            loaded = [
                image if hasattr(image, "ndim") else load_image(image, timeout)
                for image in images[start : start + size]
            ]
            pairs = [loaded[n : n + 2] for n in range(0, len(loaded), 2)]
            results += self._match(pairs, threshold)
        return results[0] if len(results) == 1 else results

    @torch.inference_mode()
    def _match(self, pairs: list[list[Any]], threshold: float) -> list[list[Match]]:
        features = self.image_processor(pairs, return_tensors="pt").to(self.model.device)
        outputs = self.model(**features, return_dict=True)
        sizes = [[_height_and_width(image) for image in pair] for pair in pairs]
        found = self.image_processor.post_process_keypoint_matching(outputs, sizes, threshold)
        return [_listed(matches) for matches in found]


def _checked(batch_size: int) -> int:
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size!r}: give a number of pairs, 1 or more.")
    return batch_size


def _height_and_width(image: Any) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.height, image.width
    height, width = to_array(image).shape[1:]
    return height, width


def _listed(found: Mapping[str, torch.Tensor]) -> list[Match]:
    """The matches of a pair in plain numbers, best first."""
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
    dtype: Dtype | None = None,
    *,
    torch_dtype: Dtype | None = None,
    device_map: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 1,
    threshold: float = 0.0,
    timeout: float | None = None,
) -> KeypointMatchingPipeline:
    """A matcher of images as users have them.

    model, image_processor: objects, or what `from_pretrained` takes; the processor by default that
    of the model, or the default one where the model brings none.
    device, or device_map: where it computes; a number is that GPU, −1 the CPU. Default the CPU, or
    the model's. dtype, torch_dtype: see `EfficientLoFTRForKeypointMatching.from_pretrained`.
    revision, token: of a hub id. model_kwargs: further arguments of `from_pretrained`.
    batch_size, threshold, timeout: of its calls, unless they give their own.
    Raises ArgumentError for another task or argument, CheckpointError where there is no such model.
    """
    if task != TASK:
        raise ArgumentError(f"task={task!r}: only {TASK!r} is done here.")
    if device is not None and device_map is not None:
        raise ArgumentError(
            f"device={device!r} and device_map={device_map!r}: give one of them alone."
        )
    place = None if device_map is None else weights_device(device_map)
    if device is not None:
        place = existing_device(device, f"device={device!r}")
    chosen = asked_dtype(dtype, torch_dtype)
    hub = Hub(revision, token)
    source = model
    if isinstance(model, EfficientLoFTRForKeypointMatching):
        if place is not None or chosen is not None:
            model = copy.deepcopy(model)  # the one that was handed in stays where it is
        loaded = model
    else:
        further = dict(model_kwargs or {})
        loaded = EfficientLoFTRForKeypointMatching.from_pretrained(
            model, revision=revision, token=token, **further
        )
    if image_processor is None:
        image_processor = _processor_of(source, hub)
    elif not isinstance(image_processor, EfficientLoFTRImageProcessor):
        image_processor = EfficientLoFTRImageProcessor.from_pretrained(image_processor)
    moved = loaded.to(place or loaded.device, chosen or loaded.dtype)
    return KeypointMatchingPipeline(moved, image_processor, batch_size, threshold, timeout)


def _processor_of(
    source: EfficientLoFTRForKeypointMatching | str | Path, hub: Hub
) -> EfficientLoFTRImageProcessor:
    """The processor that lies beside the weights, or the default one."""
    if isinstance(source, EfficientLoFTRForKeypointMatching) or Path(source).is_file():
        return EfficientLoFTRImageProcessor()
    try:
        file = find_file(source, PROCESSOR_FILE, hub)
    except CheckpointError:  # there is none
        return EfficientLoFTRImageProcessor()
    return EfficientLoFTRImageProcessor.from_pretrained(file)
