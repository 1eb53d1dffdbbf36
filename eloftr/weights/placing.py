"""Where loaded weights are put: their type and their device, as users of transformers name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eloftr.errors import ArgumentError

DTYPES_OF_WEIGHTS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
Dtype = torch.dtype | str


def weights_dtype(given: Dtype) -> torch.dtype:
    """A floating type of torch, or its name ("float16"). Raises ArgumentError for another."""
    name = str(given).removeprefix("torch.")
    if name not in DTYPES_OF_WEIGHTS:
        raise ArgumentError(
            f'dtype={given!r}: give "auto", or one of {", ".join(DTYPES_OF_WEIGHTS)} as its name '
            "or as torch's."
        )
    return DTYPES_OF_WEIGHTS[name]


def asked_dtype(dtype: Dtype | None, torch_dtype: Dtype | None) -> torch.dtype | None:
    """The type that `dtype` or its older name asks for; None for "auto", or where none is given.

    Raises ArgumentError for an unknown type, and where the two contradict each other.
    """
    known = [
        None if given == "auto" else weights_dtype(given)
        for given in (dtype, torch_dtype)
        if given is not None
    ]
    if len(set(known)) > 1:
        raise ArgumentError(
            f"dtype={dtype!r} and torch_dtype={torch_dtype!r} contradict each other: give dtype "
            "alone."
        )
    return known[0] if known else None


def saved_dtype(state: Mapping[str, Tensor], saved: Mapping[str, Any] | None) -> torch.dtype:
    """The type that weights were saved in, by their configuration or else by themselves."""
    named = (saved or {}).get("dtype") or (saved or {}).get("torch_dtype")
    if named is not None:
        return weights_dtype(named)
    return next(value.dtype for value in state.values() if value.is_floating_point())


def weights_device(device_map: Any) -> torch.device:
    """The one device that a `device_map` puts the model on.

    device_map: "auto" for the first GPU or, without one, the CPU; a name, a number of a GPU, a
    torch.device; or any of these for the whole model, `{"": device}`. None is the CPU.
    Raises ArgumentError for maps that spread a model, and for a device that is not there.
    """
    whole = device_map
    if isinstance(whole, Mapping):
        if list(whole) != [""]:
            raise ArgumentError(
                f'device_map={device_map!r}: the model goes to one device as a whole; give "auto", '
                'a device, or {"": device}.'
            )
        whole = whole[""]
    if whole is None:
        return torch.device("cpu")
    if isinstance(whole, str) and whole == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return existing_device(whole, f"device_map={device_map!r}")


def existing_device(given: Any, what: str) -> torch.device:
    """A name, a number of a GPU, or a torch.device; a negative number is the CPU.

    what: how the argument is named in the sentence. Raises ArgumentError for something else, and
    for a device that this machine lacks.
    """
    try:
        if isinstance(given, bool) or not isinstance(given, str | int | torch.device):
            raise TypeError
        if isinstance(given, int):
            device = torch.device("cuda", given) if given >= 0 else torch.device("cpu")
        else:
            device = torch.device(given)
    except (RuntimeError, TypeError) as error:  # what torch says of a name that it does not know
        raise ArgumentError(
            f'{what}: no device; give "auto", "cpu", "cuda", "cuda:0" or the number of a GPU.'
        ) from error
    if device.type == "cuda":  # counting starts no GPU, and a tensor would
        if (device.index or 0) >= torch.cuda.device_count():
            raise ArgumentError(
                f"{what}: this machine has {torch.cuda.device_count()} GPUs that torch can use; "
                'give "cpu" or "auto".'
            )
        return device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own differ
        raise ArgumentError(
            f'{what}: torch cannot use it on this machine; give "cpu" or "auto".'
        ) from error
    return device
