"""What transformers asks of every one of its models, asked of ours.

The cases follow those of its tests for EfficientLoFTR: signature, shapes and numbers of outputs,
gradients, saving and loading, initialisation, batching, tuples, types and devices.
"""

from __future__ import annotations

import copy
import inspect
import tempfile
from typing import Any

import pytest
import torch
from torch import Tensor

import eloftr
from eloftr import EfficientLoFTRConfig, EfficientLoFTRForKeypointMatching, EfficientLoFTRModel

CLASSES = [EfficientLoFTRForKeypointMatching, EfficientLoFTRModel]
HEIGHT, WIDTH, HEADS, ROUNDS = 64, 96, 8, 2
both = pytest.mark.parametrize("of", CLASSES, ids=lambda of: of.__name__)


def configuration(**values: Any) -> EfficientLoFTRConfig:
    sizes = {
        "stage_num_blocks": [1, 1, 1, 1],
        "out_features": [8, 16, 16, 32],
        "hidden_size": 32,
        "num_attention_layers": ROUNDS,
        "coarse_matching_threshold": 0.0,
        "coarse_matching_border_removal": 0,
    }
    return EfficientLoFTRConfig(**{**sizes, **values})


def made(of: Any, **values: Any) -> Any:
    torch.manual_seed(0)
    return of(configuration(**values)).eval()


@pytest.fixture
def pixel_values() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 2, 1, HEIGHT, WIDTH).repeat(1, 1, 3, 1, 1)


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of an output, at any depth."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if hasattr(output, "values") else output
    return [tensor for part in parts for tensor in tensors(part)]


@both
def test_the_first_two_arguments_are_those_of_transformers(of: Any) -> None:
    transformers = pytest.importorskip("transformers")
    ours, theirs = (
        list(inspect.signature(getattr(package, of.__name__).forward).parameters)
        for package in (eloftr, transformers)
    )
    assert ours[:3] == theirs[:3] == ["self", "pixel_values", "labels"]


def test_every_output_has_a_row_for_every_keypoint(pixel_values: Tensor) -> None:
    with torch.no_grad():
        found = made(EfficientLoFTRForKeypointMatching)(pixel_values)
    keypoints = found.matches.shape[-1]
    assert found.matches.shape == found.matching_scores.shape == (2, 2, keypoints)
    assert found.keypoints.shape == (2, 2, keypoints, 2)


@both
@pytest.mark.parametrize("by_configuration", [False, True])
def test_hidden_states_are_the_images_and_a_map_a_block(
    of: Any, by_configuration: bool, pixel_values: Tensor
) -> None:
    asked = {"output_hidden_states": True}
    model = made(of, **(asked if by_configuration else {}))
    with torch.no_grad():
        states = model(pixel_values, **({} if by_configuration else asked)).hidden_states
    assert len(states) == 1 + sum(model.config.stage_num_blocks)
    scales = [1, 2, 2, 4, 8]
    assert [tuple(state.shape[-2:]) for state in states] == [
        (HEIGHT // scale, WIDTH // scale) for scale in scales
    ]


@both
@pytest.mark.parametrize("by_configuration", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attentions_are_weights_between_all_tokens(
    of: Any, by_configuration: bool, implementation: str, pixel_values: Tensor
) -> None:
    asked = {"output_attentions": True}
    config = configuration(**(asked if by_configuration else {}))
    config._attn_implementation = implementation
    with torch.no_grad():
        model = of(config).eval()
        attentions = model(pixel_values, **({} if by_configuration else asked)).attentions
    tokens = HEIGHT // 32 * (WIDTH // 32)
    assert len(attentions) == 3 * ROUNDS
    for weights in attentions:
        assert weights.shape[-3:] == (HEADS, tokens, tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def test_recorded_states_hold_gradients(pixel_values: Tensor) -> None:
    output = made(EfficientLoFTRModel)(
        pixel_values, output_hidden_states=True, output_attentions=True
    )
    kept = [output.hidden_states[1]]
    for tensor in kept:
        tensor.retain_grad()
    output.feature_maps[0].flatten()[0].backward()
    assert all(tensor.grad is not None for tensor in kept)
    assert output.attentions[0].requires_grad


@both
def test_a_call_changes_nothing_and_gives_the_same_again(of: Any, pixel_values: Tensor) -> None:
    model = made(of)
    before, given = copy.deepcopy(model.state_dict()), pixel_values.clone()
    with torch.no_grad():
        first, second = (tensors(model(pixel_values)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(given, pixel_values)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


@both
def test_a_saved_model_gives_the_same(of: Any, pixel_values: Tensor) -> None:
    model = made(of)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        again = of.from_pretrained(folder)
        before, after = (tensors(m(pixel_values)) for m in (model, again))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert again.config == model.config


@both
def test_tuples_and_objects_hold_the_same(of: Any, pixel_values: Tensor) -> None:
    asked = {"output_hidden_states": True, "output_attentions": True}
    model = made(of)
    with torch.no_grad():
        for arguments in ({}, asked):
            as_object = tensors(model(pixel_values, **arguments))
            as_tuple = tensors(model(pixel_values, return_dict=False, **arguments))
            assert all(torch.equal(a, b) for a, b in zip(as_object, as_tuple, strict=True))


@both
def test_a_pair_is_the_same_alone_and_in_a_batch(of: Any, pixel_values: Tensor) -> None:
    model = made(of)
    with torch.no_grad():
        batched, alone = model(pixel_values), model(pixel_values[1:])
    if of is EfficientLoFTRModel:
        pairs = zip(batched.feature_maps, alone.feature_maps, strict=True)
        parts = [(b[-len(a) :], a) for b, a in pairs]
    else:
        assert torch.equal(batched.matches[1:], alone.matches)
        parts = [(batched[name][1:], alone[name]) for name in ("matching_scores", "keypoints")]
    for part, expected in parts:
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-5)


@both
def test_random_weights_are_finite_and_follow_the_seed(of: Any) -> None:
    first, second = (made(of).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(value.isfinite().all() for value in first.values())
    narrow = made(of, initializer_range=1e-10)
    for name, parameter in narrow.named_parameters():
        mean = ((parameter.mean() * 1e9).round() / 1e9).item()
        assert mean in (0.0, 1.0), name


@both
def test_a_model_is_made_without_memory_and_then_filled(of: Any, pixel_values: Tensor) -> None:
    with torch.device("meta"):
        empty = of(configuration())
    assert all(parameter.is_meta for parameter in empty.parameters())
    full = made(of)
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(full.state_dict())
    with torch.no_grad():
        pairs = zip(tensors(filled(pixel_values)), tensors(full(pixel_values)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(of: Any, dtype: torch.dtype, pixel_values: Tensor) -> None:
    with torch.no_grad():
        outputs = made(of).to(dtype)(pixel_values.to(dtype))
    assert all(tensor.isfinite().all() for tensor in tensors(outputs))


@both
def test_eager_and_fused_attention_agree(of: Any, pixel_values: Tensor) -> None:
    with torch.no_grad():
        eager, fused = (
            tensors(made(of, attn_implementation=name)(pixel_values)) for name in ("eager", "sdpa")
        )
    for a, b in zip(eager, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@both
def test_labels_of_another_shape_are_refused(of: Any, pixel_values: Tensor) -> None:
    with pytest.raises(ValueError, match="labels"), torch.no_grad():
        made(of)(pixel_values, labels=torch.rand(128, 128))


@both
def test_the_configuration_of_a_model_is_the_one_it_was_made_with(of: Any) -> None:
    config = configuration()
    model = of(config)
    assert model.config is config
    assert model.base_model.config is config


def test_a_part_of_the_weights_missing_or_too_large_is_named(tmp_path: Any) -> None:
    model = made(EfficientLoFTRForKeypointMatching)
    model.save_pretrained(tmp_path)
    with pytest.raises(eloftr.CheckpointError, match="of another shape"):
        EfficientLoFTRForKeypointMatching.from_pretrained(tmp_path, out_features=[8, 16, 24, 32])
    with pytest.raises(eloftr.CheckpointError):
        EfficientLoFTRForKeypointMatching.from_pretrained(tmp_path / "nothing")
