"""Every form of images, sizes and files that processors and pipeline take, next to transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eloftr
from eloftr import (
    BatchFeature,
    EfficientLoFTRForKeypointMatching,
    EfficientLoFTRImageProcessor,
    EfficientLoFTRImageProcessorFast,
    EfficientLoFTRKeypointMatchingOutput,
    KeypointMatchingPipeline,
    load_image,
    pipeline,
)

SIZE = {"height": 96, "width": 128}
BOTH = [EfficientLoFTRImageProcessor, EfficientLoFTRImageProcessorFast]


def picture(height: int, width: int, seed: int) -> Image.Image:
    small = (height // 8, width // 8, 3)
    values = np.random.default_rng(seed).integers(0, 256, small, dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


A, B = picture(112, 144, 0), picture(128, 120, 1)
C = A.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
ARRAYS = [np.asarray(A), np.asarray(C)]  # of one size
FIRST = [array.transpose(2, 0, 1) for array in ARRAYS]
TENSORS = [torch.tensor(array) for array in FIRST]


@pytest.fixture
def port() -> Any:
    return pytest.importorskip("transformers").EfficientLoFTRImageProcessorPil


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for name, image in (("a", A), ("b", B)):
        image.save(tmp_path / f"{name}.png")
    return [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


PAIRS: list[tuple[str, Any]] = [
    ("tuple", (A, B)),
    ("tuples in a list", [(A, B), (B, A)]),
    ("tuples in a tuple", ((A, B), (B, A))),
    ("arrays, channels first", FIRST),
    ("tensors, channels last", [torch.tensor(array) for array in ARRAYS]),
    ("grey arrays with an axis", [array[..., :1] for array in ARRAYS]),
    ("grey images", [A.convert("L"), B.convert("L")]),
    ("an image and an array", [A, ARRAYS[1]]),
    ("whole numbers", [array.astype(np.int64) for array in ARRAYS]),
    ("whole numbers of a tensor", [tensor.int() for tensor in TENSORS]),
    ("fractions", [array / 255 for array in ARRAYS]),
    ("half precision", [(tensor / 255).half() for tensor in TENSORS]),
]


@pytest.mark.parametrize("images", [pair for _, pair in PAIRS], ids=[name for name, _ in PAIRS])
def test_every_form_gives_the_pixels_of_transformers(port: Any, images: Any) -> None:
    for options in ({"return_tensors": "pt"}, {"return_tensors": "np"}, {}):
        ours = EfficientLoFTRImageProcessor(size=SIZE)(images, **options).pixel_values
        theirs = port(size=SIZE)(images, **options).pixel_values
        assert type(ours) is type(theirs)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_paths_are_images_as_in_transformers(port: Any, paths: list[str]) -> None:
    for given in (paths, [paths, paths[::-1]]):
        ours, theirs = (of(size=SIZE)(given, return_tensors="pt") for of in (BOTH[0], port))
        assert torch.equal(ours.pixel_values, theirs.pixel_values)
    assert torch.equal(
        BOTH[0]()([Path(path) for path in paths], return_tensors="pt").pixel_values,
        BOTH[0]()([A, B], return_tensors="pt").pixel_values,
    )


@pytest.mark.parametrize("of", BOTH)
def test_arrays_of_four_and_five_axes_are_pairs(of: Any) -> None:
    processor = of(size=SIZE)
    pair = processor(ARRAYS, return_tensors="pt").pixel_values
    two = processor([ARRAYS, ARRAYS[::-1]], return_tensors="pt").pixel_values
    assert two.shape == (2, 2, 3, 96, 128)
    for given in (np.stack(ARRAYS), np.stack(FIRST), torch.stack(TENSORS)):
        assert torch.equal(processor(given, return_tensors="pt").pixel_values, pair)
        pairs = np.stack([given, given[[1, 0]]]) if isinstance(given, np.ndarray) else None
        pairs = torch.stack([given, given.flip(0)]) if pairs is None else pairs
        assert torch.equal(processor(pairs, return_tensors="pt").pixel_values, two)


@pytest.mark.parametrize(
    "images",
    [
        FIRST[0],
        [FIRST[0]],
        np.stack(FIRST)[:1],
        [[FIRST[0]]],
        [[FIRST[0]], [FIRST[1]]],
        [np.stack(FIRST)[:1]] * 2,
        np.stack(FIRST)[None, :1],
        A,
        [A],
        [A, B, A],
        [A, B, A, B],
        [[A, B], [A]],
        [[[A, B]]],
        [[]],
        None,
        (image for image in (A, B)),
    ],
)
def test_what_is_no_pair_is_refused_as_in_transformers(port: Any, images: Any) -> None:
    for of in (*BOTH, port):
        with pytest.raises((ValueError, TypeError)) as raised:
            of(size=SIZE)(images, return_tensors="pt")
        assert of is port or "Images come in pairs" in str(raised.value)


def test_grey_levels_of_more_than_eight_bits_are_scaled(tmp_path: Path) -> None:
    levels = np.asarray(A.convert("L"))
    expected = np.repeat(levels[..., None], 3, axis=2)
    # 255 · 257 needs 16 bits, and 255 · 16 + 15 needs 12.
    for deep in (levels.astype(np.uint16) * 257, levels.astype(np.int32) * 257):
        image = Image.fromarray(deep)
        np.testing.assert_array_equal(np.asarray(load_image(image)), expected)
    Image.fromarray(levels.astype(np.uint16) * 16 + 15).save(tmp_path / "deep.png")
    difference = np.asarray(load_image(tmp_path / "deep.png")).astype(int) - expected
    assert abs(difference).max() <= 1
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    values = BOTH[0]()([deep, deep], do_resize=False, do_rescale=False, return_tensors="np")
    np.testing.assert_allclose(values.pixel_values[0, 0, 0], levels, atol=0.1)
    for wrong in (np.full((8, 8), -1, dtype=np.int32), np.full((8, 8), 300.5, dtype=np.float32)):
        with pytest.raises(ValueError, match="give values 0…255"):
            load_image(Image.fromarray(wrong))


@pytest.mark.parametrize("of", BOTH)
@pytest.mark.parametrize("do_resize", [True, False])
@pytest.mark.parametrize("tensor", [True, False])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((40, 48), 300, np.int32), "values 300 … 300: give whole numbers 0…255"),
        (np.full((40, 48, 3), -1, np.int64), "values -1 … -1: give whole numbers 0…255"),
        (np.full((40, 48), np.nan, np.float32), "not finite"),
        (np.full((40, 48), np.inf, np.float64), "not finite"),
        (np.ones((40, 48), bool), "Image of bool"),
        (np.ones((40, 48), np.complex64), "Image of complex64"),
        (np.zeros((0, 48), np.uint8), "it has no pixels"),
    ],
)
def test_values_that_are_no_pixels_are_refused_by_both_processors(
    of: Any, do_resize: bool, tensor: bool, values: np.ndarray, message: str
) -> None:
    given = torch.from_numpy(values) if tensor else values
    with pytest.raises(eloftr.ArgumentError, match=message):
        of(size=SIZE)([given, given], do_resize=do_resize, return_tensors="pt")


def test_tensors_of_bfloat16_are_read() -> None:
    tensors = [(tensor / 255).bfloat16() for tensor in TENSORS]
    for of in BOTH:
        values = of(size=SIZE)(tensors, do_rescale=False, return_tensors="pt").pixel_values
        expected = of(size=SIZE)(TENSORS, return_tensors="pt").pixel_values
        assert (values - expected).abs().max() < 0.02


@pytest.mark.parametrize("of", BOTH)
def test_a_wrong_format_of_the_channels_is_one_sentence(of: Any) -> None:
    with pytest.raises(eloftr.ArgumentError, match="there are 1, 3 or 4 channels"):
        of()(
            TENSORS if of is BOTH[1] else ARRAYS,
            input_data_format="channels_last" if of is BOTH[1] else "channels_first",
        )


@pytest.mark.parametrize("of", BOTH)
def test_colours_become_grey_and_both_processors_agree(of: Any) -> None:
    values = of(size=SIZE)([[A, B], [B, A]], return_tensors="pt").pixel_values
    assert values.shape == (2, 2, 3, 96, 128)
    assert torch.equal(values[:, :, 0], values[:, :, 1])
    assert torch.equal(values[:, :, 1], values[:, :, 2])
    other = BOTH[0](size=SIZE)([[A, B], [B, A]], return_tensors="pt").pixel_values
    assert (values - other).abs().mean() < 1e-3


def test_the_file_is_that_of_transformers_byte_for_byte(port: Any, tmp_path: Path) -> None:
    options = {"size": SIZE, "do_grayscale": False, "resample": 3, "rescale_factor": 0.5}
    ours, theirs = BOTH[0](**options), port(**options)
    (file,) = ours.save_pretrained(tmp_path / "ours")
    (other,) = theirs.save_pretrained(tmp_path / "theirs")
    assert Path(file).read_bytes() == Path(other).read_bytes()
    assert ours.to_json_string() == theirs.to_json_string()
    assert ours.to_dict() == theirs.to_dict()
    for of, source in ((BOTH[0], other), (BOTH[1], other), (port, file)):
        assert of.from_json_file(source).resample == 3
        again = of.from_pretrained(Path(source).parent)
        assert (again.size.height, again.size.width) == (96, 128)
    ours.to_json_file(tmp_path / "by_name.json")
    assert BOTH[0].from_json_file(tmp_path / "by_name.json").to_dict() == ours.to_dict()
    assert repr(ours) == f"EfficientLoFTRImageProcessor {ours.to_json_string()}"
    assert BOTH[0].model_input_names == theirs.model_input_names


@pytest.mark.parametrize("of", BOTH)
def test_options_are_read_from_dictionaries(of: Any) -> None:
    processor = of.from_dict(of(size=SIZE).to_dict(), do_rescale=False)
    assert processor.size == SIZE
    assert not processor.do_rescale
    processor, unused = of.from_dict({"size": SIZE}, foo=1, resample=0, return_unused_kwargs=True)
    assert unused == {"foo": 1}
    assert processor.resample == 0
    with pytest.raises(ValueError, match="foo: no option"):
        of.from_dict({}, foo=1)


def test_prepared_images_are_moved_and_cast_as_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    values = {"pixel_values": torch.rand(1, 2, 3, 8, 8), "index": torch.arange(3)}
    for batch in (BatchFeature(values), transformers.BatchFeature(dict(values))):
        for arguments in ((torch.float16,), ("cpu", torch.float16)):
            moved = batch.to(*arguments)
            assert moved.pixel_values.dtype == torch.float16
            assert moved["index"].dtype == torch.int64
        with pytest.raises(TypeError):
            batch.to(torch.float16, "cpu")
        assert batch.data.keys() == values.keys()


@pytest.mark.parametrize("of", BOTH)
def test_sizes_of_the_originals_have_every_form(of: Any) -> None:
    """Keypoints lie within their images, and every score is that of a match."""
    torch.manual_seed(0)
    matches = torch.full((2, 2, 50), -1)
    for pair in matches:
        rows, columns = torch.randperm(50)[:20], torch.randperm(50)[:20]
        pair[0, rows], pair[1, columns] = columns, rows
    outputs = EfficientLoFTRKeypointMatchingOutput(
        matches=matches,
        matching_scores=torch.where(matches >= 0, 0.5, 0.0),
        keypoints=torch.rand(2, 2, 50, 2),
    )
    sizes = [((96, 128), (120, 80)), ((64, 32), (256, 512))]
    expected = of().post_process_keypoint_matching(outputs, sizes)
    for given in (
        [[list(s) for s in p] for p in sizes],
        torch.tensor(sizes),
        np.array(sizes),
        tuple(sizes),
    ):
        found = of().post_process_keypoint_matching(outputs, given)
        for pair, other, (size0, size1) in zip(found, expected, sizes, strict=True):
            assert pair.keys() == {"keypoints0", "keypoints1", "matching_scores"}
            assert all(torch.equal(pair[name], other[name]) for name in pair)
            assert len(pair["keypoints0"]) == 20
            assert (pair["matching_scores"] == 0.5).all()
            for name, (height, width) in (("keypoints0", size0), ("keypoints1", size1)):
                assert (pair[name] >= 0).all()
                assert (pair[name] <= torch.tensor([width, height])).all()
    for wrong in (None, sizes[:1], [(96, 128), (96, 128)]):
        with pytest.raises(eloftr.ArgumentError, match="target_sizes"):
            of().post_process_keypoint_matching(outputs, wrong)
    pictures = [
        (Image.new("RGB", (w0, h0)), Image.new("L", (w1, h1))) for (h0, w0), (h1, w1) in sizes
    ]
    drawn, older = (
        getattr(of(), name)(pictures, expected)
        for name in ("visualize_keypoint_matching", "plot_keypoint_matching")
    )
    assert [image.size for image in drawn] == [(208, 120), (544, 256)]
    assert [image.tobytes() for image in drawn] == [image.tobytes() for image in older]


@pytest.fixture(scope="module")
def model() -> EfficientLoFTRForKeypointMatching:
    return EfficientLoFTRForKeypointMatching.from_pretrained("small")


@pytest.fixture
def matcher(model: EfficientLoFTRForKeypointMatching) -> KeypointMatchingPipeline:
    return pipeline(
        "keypoint-matching", model=model, image_processor=EfficientLoFTRImageProcessor(size=SIZE)
    )


def test_the_pipeline_takes_every_form_of_images(
    matcher: KeypointMatchingPipeline, paths: list[str], served: Callable[[Path], str]
) -> None:
    url = served(Path(paths[0]).parent)
    alone = matcher([A, B])
    assert len(alone) > 0
    for given in (
        (A, B),
        paths,
        [Path(path) for path in paths],
        [A, paths[1]],
        [f"{url}/a.png", B],
        [np.asarray(A), np.asarray(B)],
        [torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in (A, B)],
        [[A, B]],
    ):
        assert matcher(given, timeout=10) == alone
    with pytest.raises(eloftr.ImageReadError, match="missing"):
        matcher([A, f"{url}/missing.png"])
    for wrong in (A, [A], [A, B, A], [], None, iter([(A, B)])):
        with pytest.raises(ValueError, match="Images come in pairs"):
            matcher(wrong)


def test_a_batch_of_the_pipeline_changes_no_match(model: EfficientLoFTRForKeypointMatching) -> None:
    processor = EfficientLoFTRImageProcessor(size=SIZE)
    pairs = [(A, A), (A, C), (B, B)]
    single = pipeline(model=model, image_processor=processor)(pairs)
    assert [len(found) > 0 for found in single] == [True] * 3

    def numbers(found: Any) -> np.ndarray:
        ends = ("keypoint_image_0", "keypoint_image_1")
        return np.array([[m[end][axis] for end in ends for axis in "xy"] for m in found])

    for size in (2, 5):
        for batched in (
            pipeline(model=model, image_processor=processor, batch_size=size)(pairs),
            pipeline(model=model, image_processor=processor)(pairs, batch_size=size),
        ):
            for found, expected in zip(batched, single, strict=True):
                assert len(found) == len(expected)
                order = [np.lexsort(numbers(f).round(1).T) for f in (found, expected)]
                np.testing.assert_allclose(
                    numbers(found)[order[0]], numbers(expected)[order[1]], atol=1e-2
                )
    with pytest.raises(ValueError, match="batch_size=0: give a number of pairs"):
        pipeline(model=model, batch_size=0)


@pytest.mark.parametrize("place", [{"device": -1}, {"device": "cpu"}, {"device_map": "cpu"}])
@pytest.mark.parametrize("kind", [{"dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}])
def test_the_pipeline_chooses_device_and_type(
    model: EfficientLoFTRForKeypointMatching, place: dict[str, Any], kind: dict[str, Any]
) -> None:
    for given in ("small", model):
        made = pipeline(model=given, **place, **kind)
        assert (made.device, made.dtype) == (torch.device("cpu"), torch.bfloat16)
        assert made.model.dtype == torch.bfloat16
    assert model.dtype == torch.float32


def test_thresholds_and_arguments_of_the_model_are_handed_on(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    processor = EfficientLoFTRImageProcessor(size=SIZE)
    matcher = pipeline(model=model, image_processor=processor, threshold=0.999)
    strict, loose = matcher([A, A]), matcher([A, A], threshold=0.0)
    assert 0 < len(strict) < len(loose)
    assert min(match["score"] for match in strict) > 0.999
    made = pipeline(model="small", model_kwargs={"attn_implementation": "eager"})
    assert made.model.config.attn_implementation == "eager"
    assert made.task == "keypoint-matching"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cpu", "device_map": "cpu"}, "give one of them alone"),
        ({"device": "abacus"}, "device='abacus': no device"),
        ({"device": 77}, "this machine has [0-9]+ GPUs"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "contradict"),
    ],
)
def test_wrong_arguments_of_the_pipeline_are_one_sentence(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(eloftr.ArgumentError, match=message):
        pipeline(model="absent", **arguments)
