"""Pairs of images → the models' pixel values, and the models' outputs → matches in pixels.

    images of any sizes, B pairs → pixel_values (B, 2, C, height, width) float32, values 0…1
    output of EfficientLoFTRForKeypointMatching, original sizes → B dictionaries of aligned rows

The values equal those of the Hugging Face port's image processor: an image is resized as uint8,
scaled, then made grey.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eloftr.errors import ArgumentError
from eloftr.hf.configuration import refuse_push
from eloftr.hf.drawing import draw_matches
from eloftr.hf.image_loading import check_pixels, flat_pairs, pillow_filter, to_array, to_uint8
from eloftr.hf.outputs import BatchFeature, EfficientLoFTRKeypointMatchingOutput
from eloftr.weights.locate import Hub, bundled_names, find_file, read_json

if TYPE_CHECKING:
    from typing_extensions import Self

PROCESSOR_FILE = "preprocessor_config.json"
OPTIONS = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_grayscale")
OTHER_STEPS = (
    "do_normalize",
    "do_center_crop",
    "do_pad",
    "do_convert_rgb",
)  # the port's, of other models
# Arguments that transformers hands to processors and models alike. No code of a repository is run.
WITHOUT_EFFECT = ("trust_remote_code", "_from_auto", "_from_pipeline", "dtype", "device_map")
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green and blue


class Size(dict[str, int]):
    """A dictionary of `height` and `width` in pixels, which are attributes too."""

    @property
    def height(self) -> int:
        """Of the prepared images."""
        return self["height"]

    @property
    def width(self) -> int:
        """Of the prepared images."""
        return self["width"]


def read_options(name_or_path: str | Path, hub: Hub) -> dict[str, Any]:
    """What `preprocessor_config.json` of a folder, a file or a hub id holds; a bundled name none.

    Raises CheckpointError where there is none.
    """
    if str(name_or_path) in bundled_names() and not Path(name_or_path).exists():
        return {}
    return read_json(find_file(name_or_path, PROCESSOR_FILE, hub))


def height_and_width(size: Any) -> tuple[int, int]:
    """`{"height": h, "width": w}` or (h, w) → (h, w). Raises ArgumentError for anything else."""
    if isinstance(size, Mapping):
        size = size.get("height"), size.get("width")
    whole = (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(isinstance(side, int) for side in size)
    )
    if not whole or min(size) <= 0:
        raise ArgumentError(f'size={size!r}: give {{"height": pixels, "width": pixels}}.')
    height, width = size
    return height, width


class EfficientLoFTRImageProcessor:
    """Prepares images with numpy and Pillow, on the CPU.

    do_resize, size: to (height, width); the models need multiples of 32. resample: by this filter,
    see `pillow_filter`. do_rescale, rescale_factor: multiply the values. do_grayscale: equal
    channels, by the NTSC weights.
    Raises ArgumentError for an option it does not know.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        do_resize: bool = True,
        size: dict[str, int] | None = None,
        resample: int | str = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_grayscale: bool = True,
        **kwargs: Any,
    ) -> None:
        self._refuse(kwargs)
        self.do_resize = do_resize
        height, width = height_and_width(size or (480, 640))
        self.size = Size(height=height, width=width)
        self.resample = pillow_filter(resample)
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_grayscale = do_grayscale

    @staticmethod
    def _refuse(others: dict[str, Any]) -> None:
        asked = sorted(
            name
            for name, value in others.items()
            # Grouping by shape makes others faster, not different.
            if value is not None and value is not False and name != "disable_grouping"
        )
        if asked:
            raise ArgumentError(
                f"{', '.join(asked)}: no option of this image processor; it has "
                f"{', '.join(OPTIONS)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The options, with the type that transformers looks for."""
        return {
            "image_processor_type": type(self).__name__,
            **{name: getattr(self, name) for name in OPTIONS},
            "size": dict(self.size),
        }

    def to_json_string(self) -> str:
        """The text of `preprocessor_config.json`, as transformers writes it."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, file: str | Path) -> None:
        """Write `to_json_string` to a file."""
        Path(file).write_text(self.to_json_string())

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], return_unused_kwargs: bool = False, **overrides: Any
    ) -> Self:
        """From the dictionary of a `preprocessor_config.json`.

        overrides: options that take precedence. return_unused_kwargs: return a pair, the processor
        and those overrides that are no options.
        Raises ArgumentError for a step that is not this processor's.
        """
        options = {
            name: values[name] for name in (*OPTIONS, *OTHER_STEPS) if values.get(name) is not None
        }
        if not return_unused_kwargs:
            return cls(**{**options, **overrides})
        used = {name: value for name, value in overrides.items() if name in OPTIONS}
        unused = {name: value for name, value in overrides.items() if name not in OPTIONS}
        return cast("Self", (cls(**{**options, **used}), unused))

    @classmethod
    def from_json_file(cls, file: str | Path) -> Self:
        """Read a file of options. Raises CheckpointError where there is none."""
        return cls.from_dict(read_json(Path(file)))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Read `preprocessor_config.json` of a folder, a file or a hub id.

        A bundled name has the defaults. revision, token, cache_dir, force_download,
        local_files_only: of a hub id. overrides, return_unused_kwargs: see `from_dict`.
        Raises CheckpointError where there is none.
        """
        hub = Hub(revision, token, cache_dir, force_download, local_files_only)
        asked = {name: value for name, value in overrides.items() if name not in WITHOUT_EFFECT}
        return cls.from_dict(read_options(name_or_path, hub), **asked)

    def save_pretrained(self, folder: str | Path, push_to_hub: bool = False) -> list[str]:
        """Write `preprocessor_config.json` into `folder`, which is made where it is missing.

        Returns the path of the file, in a list.
        """
        refuse_push(push_to_hub)
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = Path(folder) / PROCESSOR_FILE
        self.to_json_file(file)
        return [str(file)]

    def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
        """Not offered. Raises ArgumentError, which says what to do."""
        refuse_push()

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """`preprocess`."""
        return self.preprocess(images, **kwargs)

    def preprocess(
        self,
        images: Any,
        do_resize: bool | None = None,
        size: dict[str, int] | None = None,
        resample: int | str | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_grayscale: bool | None = None,
        return_tensors: str | None = None,
        data_format: str = "channels_first",
        input_data_format: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Resize, scale and make grey the images of one pair or of several.

        images: [image0, image1] or a list of such pairs. An option that is None is the processor's
        own.
        return_tensors: "pt" or "np" for `pixel_values` (B, 2, C, H, W); None for a list of pairs of
        images.
        data_format: "channels_first" or "channels_last", of the result. input_data_format: of
        arrays and tensors; by default their shape decides. Pixel values are 0…255; for 0…1 set
        do_rescale=False.
        Raises ArgumentError for other forms or values, or for images of several sizes to stack.
        """
        self._refuse(kwargs)
        if return_tensors not in (None, "pt", "np"):
            raise ArgumentError(f'return_tensors={return_tensors!r}: give "pt", "np" or None.')
        if data_format not in ("channels_first", "channels_last"):
            raise ArgumentError(
                f'data_format={data_format!r}: give "channels_first" or "channels_last".'
            )
        given = (do_resize, size, resample, do_rescale, rescale_factor, do_grayscale)
        options: dict[str, Any] = {
            n: getattr(self, n) if value is None else value
            for n, value in zip(OPTIONS, given, strict=True)
        }
        prepared = []
        for source in flat_pairs(images):
            image = self._load(source, input_data_format)
            check_pixels(image, options["do_rescale"])
            if options["do_resize"]:
                image = self._resize(
                    image, height_and_width(options["size"]), pillow_filter(options["resample"])
                )
            if options["do_rescale"]:
                image = self._rescale(image, options["rescale_factor"])
            prepared.append(self._grey(image) if options["do_grayscale"] else image)
        channels = max(image.shape[0] for image in prepared)
        prepared = [
            image if image.shape[0] == channels else self._repeat(image, channels)
            for image in prepared
        ]
        if data_format == "channels_last":
            prepared = [self._channels_last(image) for image in prepared]
        pairs = [prepared[n : n + 2] for n in range(0, len(prepared), 2)]
        return BatchFeature(pixel_values=self._batch(pairs, return_tensors))

    # The steps on one image (C, H, W), of the kind that `_load` gives.

    def _load(self, source: Any, input_data_format: str | None) -> Any:
        return to_array(source, input_data_format)

    def _resize(self, image: Any, size: tuple[int, int], resample: Image.Resampling) -> Any:
        whole, undo = to_uint8(image)
        pixels = whole[0] if whole.shape[0] == 1 else np.ascontiguousarray(whole.transpose(1, 2, 0))
        resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], resample))
        resized = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
        return self._rescale(resized, 1 / 255) if undo else resized

    def _rescale(self, image: Any, factor: float) -> Any:
        return (image.astype(np.float64) * factor).astype(np.float32)

    def _grey(self, image: Any) -> Any:
        image = image[:3]  # without the opacity
        if image.shape[0] < 3 or ((image[0] == image[1]).all() and (image[1] == image[2]).all()):
            return image
        return self._repeat(
            (image[0] * GREY_WEIGHTS[0] + image[1] * GREY_WEIGHTS[1] + image[2] * GREY_WEIGHTS[2])[
                None
            ],
            3,
        )

    def _repeat(self, image: Any, channels: int) -> Any:
        return np.repeat(image, channels, axis=0)

    def _channels_last(self, image: Any) -> Any:
        return image.transpose(1, 2, 0)

    def _batch(self, pairs: list[list[Any]], return_tensors: str | None) -> Any:
        if return_tensors is None:
            return pairs
        stacked = np.stack([np.stack(pair) for pair in self._same_shapes(pairs)])
        return torch.from_numpy(stacked) if return_tensors == "pt" else stacked

    @staticmethod
    def _same_shapes(pairs: list[list[Any]]) -> list[list[Any]]:
        shapes = sorted({tuple(image.shape) for pair in pairs for image in pair})
        if len(shapes) > 1:
            raise ArgumentError(
                f"Images of shapes {shapes} make no batch; let the processor resize them "
                "(do_resize)."
            )
        return pairs

    @torch.no_grad()
    def post_process_keypoint_matching(
        self,
        outputs: EfficientLoFTRKeypointMatchingOutput,
        target_sizes: Tensor | Sequence[Any],
        threshold: float = 0.0,
    ) -> list[dict[str, Tensor]]:
        """The matches of every pair, in pixels of the original images, ordered by image 0's cells.

        target_sizes: (height, width) of both original images of every pair, (B, 2, 2). threshold: a
        score must exceed it.
        Returns B dictionaries. `keypoints0` and `keypoints1` (M, 2) float32 are (x, y), sub-pixel,
        centre of the top-left pixel at (0, 0); row n of one is matched to row n of the other.
        `matching_scores` (M,). None carries a gradient.
        Raises ArgumentError for another number of sizes.
        """
        if target_sizes is None:
            raise ArgumentError(
                "target_sizes: give the (height, width) of both images of every pair."
            )
        matches, scores, keypoints = outputs.matches, outputs.matching_scores, outputs.keypoints
        assert matches is not None
        assert scores is not None
        assert keypoints is not None
        sizes = torch.as_tensor(target_sizes).to(keypoints)
        if sizes.shape != (len(matches), 2, 2):
            raise ArgumentError(
                f"target_sizes of shape {tuple(sizes.shape)} for {len(matches)} pairs: give the "
                "(height, width) of "
                f"both images of every pair, ({len(matches)}, 2, 2)."
            )
        pixels = keypoints * sizes.flip(-1)[:, :, None]
        network = getattr(outputs, "image_size", None)
        if network is not None:  # pixel centres: (x + 0.5) · scale − 0.5
            pixels = pixels + (sizes / sizes.new_tensor(network) - 1).flip(-1)[:, :, None] / 2
        results = []
        for (points0, points1), pair, score in zip(
            pixels, matches[:, 0], scores[:, 0], strict=True
        ):
            kept = (pair > -1) & (score > threshold)
            results.append(
                {
                    "keypoints0": points0[kept],
                    "keypoints1": points1[pair[kept]],
                    "matching_scores": score[kept],
                }
            )
        return results

    def visualize_keypoint_matching(
        self, images: Any, keypoint_matching_output: list[dict[str, Tensor]] | dict[str, Tensor]
    ) -> list[Image.Image]:
        """A picture of every pair: the images side by side, a line for every match.

        images: as for `preprocess`, values 0…255. The lines go from red to green by score.
        keypoint_matching_output: of `post_process_keypoint_matching`; one pair's alone may be a
            dictionary.

        Raises ArgumentError where there are other numbers of pairs and of outputs.
        """
        output = keypoint_matching_output
        outputs = [output] if isinstance(output, dict) else output
        pictures = []
        for array in (to_array(source)[:3] for source in flat_pairs(images)):
            colours = np.broadcast_to(array, (3, *array.shape[1:])).transpose(1, 2, 0)
            pictures.append(Image.fromarray(np.ascontiguousarray(colours, dtype=np.uint8)))
        if 2 * len(outputs) != len(pictures):
            raise ArgumentError(
                f"the number of outputs is {len(outputs)}, and that of pairs of images "
                f"{len(pictures) // 2}; give an output a pair."
            )
        drawn = []
        for image0, image1, found in zip(pictures[0::2], pictures[1::2], outputs, strict=True):
            names = ("keypoints0", "keypoints1", "matching_scores")
            points0, points1, scores = (found[name].detach().cpu().numpy() for name in names)
            drawn.append(draw_matches(image0, image1, points0, points1, scores))
        return drawn

    def plot_keypoint_matching(
        self, images: Any, keypoint_matching_output: list[dict[str, Tensor]] | dict[str, Tensor]
    ) -> list[Image.Image]:
        """`visualize_keypoint_matching` under its older name; it opens no window."""
        return self.visualize_keypoint_matching(images, keypoint_matching_output)
