"""The image processors: pixel values of the Hugging Face port, and matches in pixels of the
originals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eloftr import (
    EfficientLoFTRImageProcessor,
    EfficientLoFTRImageProcessorFast,
    EfficientLoFTRKeypointMatchingOutput,
)
from eloftr.errors import ArgumentError

SMALL = {"height": 96, "width": 128}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(
        0, 256, (height // 8, width // 8, 3), dtype=np.uint8
    )
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


A, B = picture(200, 330), picture(300, 208, 1)
ARRAYS = [np.asarray(A), np.asarray(B)]
TENSORS = [torch.tensor(array).permute(2, 0, 1) for array in ARRAYS]
RGBA = A.copy()
RGBA.putalpha(B.convert("L").resize(A.size))


@pytest.fixture
def port() -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    return transformers.EfficientLoFTRImageProcessor()


@pytest.mark.parametrize(
    ("images", "options"),
    [
        ([A, B], {}),
        ([[A, B], [B, A]], {}),
        (ARRAYS, {}),
        (TENSORS, {}),
        ([TENSORS, TENSORS[::-1]], {"resample": 3}),
        ([A, B], {"do_grayscale": False}),
        ([A.convert("L"), B.convert("L")], {}),
        ([RGBA, RGBA], {}),
        ([A, A], {"do_resize": False}),
        ([A, B], {"do_rescale": False}),
        ([A, B], {"rescale_factor": 0.5, "resample": 0}),
        ([array / 255 for array in ARRAYS], {"do_rescale": False}),
        ([array.astype(np.float32) for array in ARRAYS], {}),
        (ARRAYS, {"input_data_format": "channels_last"}),
    ],
)
def test_pixel_values_equal_the_ports(port: Any, images: Any, options: dict) -> None:
    options = {"size": SMALL, **options}
    for return_tensors in ("pt", "np"):
        ours = EfficientLoFTRImageProcessor()(
            images, return_tensors=return_tensors, **options
        ).pixel_values
        theirs = port(images, return_tensors=return_tensors, **options).pixel_values
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    ours, theirs = EfficientLoFTRImageProcessor()(images, **options), port(images, **options)
    assert [len(pair) for pair in ours.pixel_values] == [len(pair) for pair in theirs.pixel_values]
    np.testing.assert_array_equal(ours["pixel_values"][0][1], theirs["pixel_values"][0][1])


def test_the_default_size_is_480_by_640(port: Any) -> None:
    ours = EfficientLoFTRImageProcessor()([A, B], return_tensors="pt").pixel_values
    assert ours.shape == (1, 2, 3, 480, 640)
    assert torch.equal(ours, port([A, B], return_tensors="pt").pixel_values)


@pytest.mark.parametrize("images", [[A, B], ARRAYS, TENSORS])
def test_the_fast_processor_is_torchs_antialiased_interpolation(images: Any) -> None:
    fast = EfficientLoFTRImageProcessorFast(size=SMALL)
    values = fast(images, return_tensors="pt").pixel_values
    for n, tensor in enumerate(TENSORS):
        resized = (
            torch.nn.functional.interpolate(
                tensor[None], (96, 128), mode="bilinear", antialias=True
            )[0]
            / 255
        )
        grey = 0.2989 * resized[0] + 0.587 * resized[1] + 0.114 * resized[2]
        torch.testing.assert_close(values[0, n], grey.expand(3, -1, -1))
    slow = EfficientLoFTRImageProcessor(size=SMALL)(images, return_tensors="pt").pixel_values
    assert (values - slow).abs().max() < 1.5 / 255
    floats = [tensor.float() / 255 for tensor in TENSORS]
    from_floats = fast(floats, do_rescale=False, return_tensors="pt", device="cpu").pixel_values
    assert (from_floats - values).abs().max() < 1.5 / 255


def test_the_fast_processor_keeps_its_device_between_calls() -> None:
    fast = EfficientLoFTRImageProcessorFast()
    values = fast([A, B], device="meta", do_grayscale=False, return_tensors="pt").pixel_values
    assert values.device.type == "meta"
    assert fast.device is None
    assert isinstance(fast([A, B], size=SMALL).pixel_values[0], torch.Tensor)


def test_channels_last_and_mixed_images() -> None:
    processor = EfficientLoFTRImageProcessor(size=SMALL)
    first = processor([A, B], return_tensors="np").pixel_values
    last = processor([A, B], return_tensors="np", data_format="channels_last").pixel_values
    np.testing.assert_array_equal(last, first.transpose(0, 1, 3, 4, 2))
    mixed = processor([A, B.convert("L")], return_tensors="pt").pixel_values
    assert mixed.shape == (1, 2, 3, 96, 128)
    assert (
        processor([A, np.asarray(B.convert("L"))], return_tensors="pt").pixel_values.shape
        == mixed.shape
    )


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([A], {}, "come in pairs"),
        ([A, B, A], {}, "come in pairs"),
        (A, {}, "come in pairs"),
        ([A, B], {"size": {"shortest_edge": 480}}, "size="),
        ([A, B], {"do_normalize": True}, "do_normalize: no option"),
        ([A, B], {"return_tensors": "tf"}, "return_tensors"),
        ([A, B], {"do_resize": False, "return_tensors": "pt"}, "make no batch"),
        ([np.zeros((5, 7, 9)), A], {}, "neither the first nor the last"),
        ([np.full((5, 7, 3), -1.0), A], {}, r"with values -1\.0"),
        ([A, "missing.jpg"], {}, "no readable image there"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(images: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientLoFTRImageProcessor()(images, **options)


@pytest.mark.parametrize("of", [EfficientLoFTRImageProcessor, EfficientLoFTRImageProcessorFast])
def test_a_filter_is_a_number_or_a_name(of: type[EfficientLoFTRImageProcessor]) -> None:
    assert of(resample="bicubic").resample == Image.Resampling.BICUBIC
    for given in ("sharp", 99, "3"):
        with pytest.raises(ArgumentError, match=f"resample={given!r}: is no filter; give "):
            of(resample=given)
        with pytest.raises(ArgumentError, match=f"resample={given!r}: is no filter; give "):
            of()([A, B], resample=given)


def test_filters_that_tensors_lack_are_refused() -> None:
    with pytest.raises(ValueError, match="resample=LANCZOS"):
        EfficientLoFTRImageProcessorFast(resample=Image.Resampling.LANCZOS)([A, B])


def test_the_options_are_saved_and_read_as_the_ports(port: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    EfficientLoFTRImageProcessor(size=SMALL, do_grayscale=False, resample=3).save_pretrained(
        tmp_path
    )
    theirs = transformers.EfficientLoFTRImageProcessor.from_pretrained(tmp_path)
    assert dict(theirs.size) == SMALL
    assert theirs.resample == 3
    assert theirs.do_grayscale is False
    theirs.save_pretrained(tmp_path / "port")
    ours = EfficientLoFTRImageProcessor.from_pretrained(tmp_path / "port", do_rescale=False)
    assert ours.size == SMALL
    assert ours.do_grayscale is False
    assert ours.do_rescale is False


def outputs_of(
    matches: list[list[list[int]]], keypoints: Any, **fields: Any
) -> EfficientLoFTRKeypointMatchingOutput:
    index = torch.tensor(matches)
    scores = (index >= 0).float() * torch.tensor([0.9, 0.5, 0.3])
    return EfficientLoFTRKeypointMatchingOutput(
        matches=index, matching_scores=scores, keypoints=torch.tensor(keypoints), **fields
    )


def test_rows_are_aligned_by_the_indices_and_filtered_by_score() -> None:
    outputs = outputs_of(
        [[[2, -1, 0], [2, -1, 0]]],
        [[[[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], [[0.4, 0.4], [0.5, 0.5], [0.6, 0.6]]]],
    )
    processor = EfficientLoFTRImageProcessor()
    for sizes in ([[(100, 200), (50, 100)]], torch.tensor([[[100, 200], [50, 100]]])):
        (found,) = processor.post_process_keypoint_matching(outputs, sizes)
        torch.testing.assert_close(found["keypoints0"], torch.tensor([[20.0, 10], [60, 30]]))
        torch.testing.assert_close(found["keypoints1"], torch.tensor([[60.0, 30], [40, 20]]))
        torch.testing.assert_close(found["matching_scores"], torch.tensor([0.9, 0.3]))
    (strict,) = processor.post_process_keypoint_matching(
        outputs, [[(100, 200), (50, 100)]], threshold=0.5
    )
    assert (
        len(strict["keypoints0"])
        == len(strict["keypoints1"])
        == len(strict["matching_scores"])
        == 1
    )
    with pytest.raises(ValueError, match="for 1 pairs"):
        processor.post_process_keypoint_matching(outputs, [(100, 200)])


def test_the_picture_shows_both_images_and_every_match() -> None:
    matches = [
        {"keypoints0": [[10.5, 20.25]], "keypoints1": [[30.0, 40.0]], "matching_scores": [1.0]}
    ]
    found = [{name: torch.tensor(value) for name, value in pair.items()} for pair in matches]
    processor = EfficientLoFTRImageProcessor()
    for images in ([A, B], ARRAYS, TENSORS, [[A, B]]):
        (drawn,) = processor.visualize_keypoint_matching(images, found)
        assert drawn.size == (A.width + B.width, max(A.height, B.height))
        pixels = np.asarray(drawn)
        np.testing.assert_array_equal(pixels[100 : A.height, : A.width], ARRAYS[0][100:])
        np.testing.assert_array_equal(pixels[100 : B.height, A.width :], ARRAYS[1][100:])
        assert tuple(pixels[30, (10 + A.width + 30) // 2]) == (0, 255, 0)
        assert tuple(pixels[20, 10]) == (0, 0, 0)
    (single,) = processor.visualize_keypoint_matching([A, B], found[0])
    np.testing.assert_array_equal(np.asarray(single), pixels)
    with pytest.raises(ArgumentError, match="outputs is 2, and that of pairs of images 1"):
        processor.visualize_keypoint_matching([A, B], [*found, *found])
    (grey,) = processor.visualize_keypoint_matching([A.convert("L"), B], found)
    assert grey.mode == "RGB"
    empty = {
        name: torch.zeros(0, 2)[:, : 2 if "key" in name else 1].squeeze(-1) for name in found[0]
    }
    (none,) = processor.visualize_keypoint_matching([A, A], [empty])
    np.testing.assert_array_equal(np.asarray(none), np.concatenate([ARRAYS[0]] * 2, axis=1))
