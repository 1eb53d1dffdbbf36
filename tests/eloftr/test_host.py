"""The package is a guest: it leaves its host's objects and settings alone, and serves several
threads at once.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import eloftr
from eloftr import (
    ArgumentError,
    CheckpointError,
    EfficientLoFTRConfig,
    EfficientLoFTRForKeypointMatching,
    EfficientLoFTRImageProcessor,
    EloftrError,
    ImageReadError,
    KeypointMatchingPipeline,
    Matcher,
    Matches,
    load_image,
    load_matcher,
    load_model,
    match,
    pipeline,
)
from eloftr.__main__ import main
from eloftr.matching.matcher import float32_convolutions
from eloftr.training.options import TrainingOptions
from eloftr.training.recipe import train

CPU = torch.device("cpu")
SIZE = (96, 128)
THREADS, TURNS = 4, 3
TINY = EfficientLoFTRConfig(
    stage_num_blocks=[1, 1, 1, 1],
    out_features=[8, 16, 16, 16],
    hidden_size=16,
    num_attention_heads=4,
    num_attention_layers=2,
    coarse_matching_threshold=0.0,
)


def picture(seed: int, side: int = 160) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def shifted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping parts of one picture."""
    whole = picture(seed)
    return whole[:96, :128], whole[8:104, 16:144]


@pytest.fixture
def model() -> EfficientLoFTRForKeypointMatching:
    torch.manual_seed(0)
    return EfficientLoFTRForKeypointMatching(TINY)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[list[Path]]:
    folder = tmp_path_factory.mktemp("pairs")
    pairs = []
    for seed in range(THREADS):
        pairs.append([folder / f"{seed}_{n}.png" for n in (0, 1)])
        for path, image in zip(pairs[-1], shifted(seed), strict=True):
            Image.fromarray(image).save(path)
    return pairs


def at_once(work: Callable[[int], Any]) -> list[list[Any]]:
    """What `work` returns for each thread's number in each of its turns; all threads begin
    together.
    """
    barrier = threading.Barrier(THREADS)

    def turns(number: int) -> list[Any]:
        barrier.wait()
        return [work(number) for _ in range(TURNS)]

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(turns, range(THREADS)))


def same(found: Matches, expected: Matches) -> bool:
    names = ("keypoints0", "keypoints1", "scores")
    return all(np.array_equal(getattr(found, name), getattr(expected, name)) for name in names)


def described(module: nn.Module) -> list[tuple[str, bool, Any]]:
    """Everything of a model that its owner can see: modules, modes, weights, devices, types,
    layouts, hooks.
    """
    modules = [
        (name, part.training, (type(part), len(part._forward_hooks), len(part._forward_pre_hooks)))
        for name, part in module.named_modules()
    ]
    weights = [
        (name, value.requires_grad, (value.device, value.dtype, value.stride(), value.tolist()))
        for name, value in module.state_dict(keep_vars=True).items()
    ]
    return modules + weights


@pytest.fixture
def host() -> Iterator[None]:
    """Fails where a test leaves a process-wide setting other than it was."""

    def settings() -> dict[str, Any]:
        return {
            "random numbers": torch.get_rng_state().tolist(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "tf32": torch.backends.cudnn.allow_tf32,
            "benchmark": torch.backends.cudnn.benchmark,
            "gradients": torch.is_grad_enabled(),
            "dtype": torch.get_default_dtype(),
            "pixels": Image.MAX_IMAGE_PIXELS,
            "numpy's random numbers": np.random.get_state()[1].tolist(),  # noqa: NPY002
        }

    before = settings()
    yield
    assert settings() == before


@pytest.mark.usefixtures("host")
def test_matching_leaves_every_setting_as_it_was(files: list[list[Path]]) -> None:
    assert len(match(*files[0], size=128, device="cpu")) > 20
    assert len(load_matcher("small", "cpu").match([shifted(1)[0]], [shifted(1)[1]])[0]) > 20
    assert pipeline(
        image_processor=EfficientLoFTRImageProcessor(size={"height": 96, "width": 128})
    )(files[0])


@pytest.mark.usefixtures("host")
def test_training_leaves_every_setting_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    for n in range(2):
        Image.fromarray(picture(n, 192)).save(tmp_path / "photographs" / f"{n}.png")
    seen: list[dict[str, float]] = []
    options = TrainingOptions(steps=2, batch=1, size=64, warmup=0, decay=0, workers=0, threads=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        train(tmp_path / "photographs", tmp_path / "run", TINY, options, seen.append)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert [entry["step"] for entry in seen] == [0, 2]


@pytest.mark.parametrize("training", [True, False])
def test_a_model_handed_to_a_matcher_stays_as_it_was(
    model: EfficientLoFTRForKeypointMatching, training: bool
) -> None:
    model.train(training)
    before = described(model)
    Matcher(model, CPU, torch.bfloat16).match([shifted(0)[0]], [shifted(0)[1]])
    assert described(model) == before


def test_a_matcher_that_takes_a_model_over_matches_like_one_that_copies_it(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    both = [shifted(0)[0]], [shifted(0)[1]]
    copying = Matcher(model, CPU, torch.float32)
    taking = Matcher(copy.deepcopy(model), CPU, torch.float32, keep=False)
    (expected,), (found,) = copying.match(*both), taking.match(*both)
    assert len(expected.scores)
    np.testing.assert_array_equal(found.keypoints1, expected.keypoints1)
    assert Matcher(model, CPU, torch.float32, keep=False).model is model


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_handed_to_the_pipeline_stays_as_it_was(
    model: EfficientLoFTRForKeypointMatching, dtype: torch.dtype | None, files: list[list[Path]]
) -> None:
    model.train()
    before = described(model)
    processor = EfficientLoFTRImageProcessor(size={"height": 96, "width": 128})
    assert pipeline(model=model, image_processor=processor, device="cpu", dtype=dtype)(files[0])
    KeypointMatchingPipeline(model, processor)
    assert described(model) == before


def test_a_forward_pass_with_labels_leaves_frozen_parts_in_their_mode(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    model.train()
    model.efficientloftr.eval()
    modes = [module.training for module in model.modules()]
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    outputs = model(
        torch.rand(1, 1, 1, 64, 96).repeat(1, 2, 1, 1, 1), labels=torch.stack([x, y], -1)[None]
    )
    outputs.loss.backward()
    assert [module.training for module in model.modules()] == modes
    assert model.refinement_layer.out_conv.weight.grad is not None


def test_images_handed_in_stay_as_they_are(files: list[list[Path]]) -> None:
    arrays = [np.ascontiguousarray(image) for image in shifted(0)]
    before = copy.deepcopy(arrays)
    matcher = load_matcher("small", "cpu")
    matcher.match([arrays[0]], [arrays[1]], size=64)
    stack = torch.from_numpy(np.stack(arrays))
    matcher.encode(stack)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
    assert np.array_equal(stack.numpy(), np.stack(before))
    with pytest.raises(ArgumentError, match="uint8"):  # would be divided in place
        matcher.encode(stack.float())
    image = Image.open(files[0][0])
    load_image(image).putpixel((0, 0), (1, 2, 3))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), before[0])


@pytest.mark.usefixtures("host")
def test_one_matcher_serves_threads_at_once() -> None:
    matcher = load_matcher("small", "cpu")
    pairs = [shifted(seed) for seed in range(THREADS)]
    expected = [matcher.match([a], [b])[0] for a, b in pairs]
    assert min(map(len, expected)) > 20

    def work(number: int) -> bool:
        a, b = pairs[number]
        return same(matcher.match([a], [b])[0], expected[number])

    assert at_once(work) == [[True] * TURNS] * THREADS


@pytest.mark.usefixtures("host")
def test_match_and_load_matcher_work_in_threads_at_once(files: list[list[Path]]) -> None:
    expected = [match(*pair, size=128, device="cpu") for pair in files]

    def work(number: int) -> bool:
        # Different thresholds, so that more models are asked for than stay loaded.
        found = match(*files[number], size=128, device="cpu", threshold=(0.2, 0.3, 0.4)[number % 3])
        alone = load_matcher("small", "cpu").match(
            *([np.asarray(Image.open(p))] for p in files[number]), size=128
        )
        return bool(
            same(alone[0], expected[number]) and (number % 3 > 0 or same(found, expected[number]))
        )

    assert at_once(work) == [[True] * TURNS] * THREADS


@pytest.mark.usefixtures("host")
def test_the_pipeline_serves_threads_at_once(files: list[list[Path]]) -> None:
    matcher = pipeline(
        image_processor=EfficientLoFTRImageProcessor(size={"height": 96, "width": 128})
    )
    expected = [matcher(pair) for pair in files]
    found = at_once(lambda number: matcher(files[number]) == expected[number])
    assert found == [[True] * TURNS] * THREADS


def test_threads_that_record_one_model_at_once_do_not_mix(
    model: EfficientLoFTRForKeypointMatching,
) -> None:
    model.eval()
    torch.manual_seed(1)
    batches = torch.rand(THREADS, 1, 2, 1, 64, 96)

    def states(number: int) -> tuple[Tensor, ...]:
        recorded = number % 2 == 0  # the others run the same model meanwhile, unrecorded
        with torch.inference_mode():
            outputs = model(
                batches[number], output_hidden_states=recorded, output_attentions=recorded
            )
        assert (outputs.hidden_states is None) is not recorded
        return (
            *(outputs.hidden_states or ()),
            *(outputs.attentions or ()),
            outputs.matching_scores,
        )

    expected = [states(number) for number in range(THREADS)]
    before = described(model)

    def work(number: int) -> bool:
        found = states(number)
        return len(found) == len(expected[number]) and all(
            torch.equal(a, b) for a, b in zip(found, expected[number], strict=True)
        )

    assert at_once(work) == [[True] * TURNS] * THREADS
    assert described(model) == before


@pytest.mark.usefixtures("host")
def test_threads_with_float32_convolutions_give_the_setting_back() -> None:
    """The setting is read and written without a GPU too."""
    cuda = torch.device("cuda")

    def work(number: int) -> tuple[bool, bool]:
        with float32_convolutions(cuda, torch.float32):
            inside = torch.backends.cudnn.allow_tf32
        with float32_convolutions(cuda, torch.float16), float32_convolutions(CPU, torch.float32):
            pass
        return inside, True

    assert at_once(work) == [[(False, True)] * TURNS] * THREADS
    with float32_convolutions(cuda, torch.float16):
        assert torch.backends.cudnn.allow_tf32


@pytest.mark.usefixtures("host")
def test_loading_draws_no_random_numbers_and_fills_every_weight() -> None:
    first, second = load_model("small"), load_model("small")
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not any(value.is_meta for value in first.state_dict().values())
    assert all(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize(
    "module",
    [
        *("eloftr", "eloftr.errors", "eloftr.hf.image_loading"),
        *("eloftr.matching.probability", "eloftr.matching.resizing"),
    ],
)
def test_what_needs_no_network_does_not_load_torch(module: str) -> None:
    used = "eloftr.EloftrError, eloftr.__version__"
    code = f"import sys, {module}; import eloftr; {used}; sys.exit('torch' in sys.modules)"
    folder = Path(eloftr.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, check=False).returncode == 0


def test_every_error_of_the_package_is_one_tree_and_still_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    wrong: list[tuple[Callable[[], Any], type[EloftrError]]] = [
        (lambda: load_model("nonexistent"), CheckpointError),
        (lambda: EfficientLoFTRConfig.from_pretrained(tmp_path), CheckpointError),
        (lambda: load_model(tmp_path), CheckpointError),
        (lambda: load_image(tmp_path / "image.png"), ImageReadError),
        (lambda: load_image("http://[nowhere"), ImageReadError),
        (lambda: load_matcher("small", "abacus"), ArgumentError),
        (lambda: load_matcher("small", variant="best"), ArgumentError),
        (lambda: EfficientLoFTRConfig(hidden_size=7), ArgumentError),
        (lambda: EfficientLoFTRImageProcessor(size={"height": 0, "width": 32}), ArgumentError),
        (lambda: pipeline(task="translation"), ArgumentError),
    ]
    for call, kind in wrong:
        with pytest.raises(kind) as caught:
            call()
        assert isinstance(caught.value, EloftrError)
        assert isinstance(caught.value, ValueError)


def test_a_broken_processor_file_is_not_taken_for_none(tmp_path: Path) -> None:
    load_model("small").save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no readable JSON"):
        pipeline(model=tmp_path)


def test_the_command_says_by_its_exit_code_how_it_went(
    files: list[list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(path) for path in files[0]]
    rest = ["--size", "128", "--device", "cpu"]
    assert main([*pair, "--out", str(tmp_path / "a.png"), *rest]) == 0
    assert main([*pair, "--out", str(tmp_path / "b.png"), *rest, "--threshold", "0.99999"]) == 1
    assert (tmp_path / "b.png").exists()
    assert "0 matches" in capsys.readouterr().out
    assert main([*pair, "--out", str(tmp_path / "c.png"), *rest, "--threshold", "1.5"]) == 2
    assert not (tmp_path / "c.png").exists()
    assert "no score exceeds it" in capsys.readouterr().err
    assert main([*pair, "--out", str(tmp_path / "missing" / "c.png"), *rest]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main([*pair, "--out", str(tmp_path / "d.png"), "--device", "abacus"]) == 2
    with pytest.raises(SystemExit) as caught:
        main([*pair, "--out", str(tmp_path / "e.png"), "--lines", "-1"])
    assert caught.value.code == 2


def test_a_bug_is_not_made_a_sentence_by_the_command(
    files: list[list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ValueError("a bug")

    monkeypatch.setattr("eloftr.matching.loading.match", broken)
    with pytest.raises(ValueError, match="a bug"):
        main([*map(str, files[0]), "--out", str(tmp_path / "a.png")])
