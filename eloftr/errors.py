"""Every error that this package raises on purpose: one tree, whose messages are sentences for a person."""

from __future__ import annotations


class EloftrError(Exception):
    """The root of all expected errors. The message says what, where and how to cure it."""


class ArgumentError(EloftrError, ValueError):
    """An argument or option that cannot be used."""


class CheckpointError(EloftrError, ValueError):
    """Weights that cannot be read or do not fit the model."""


class ImageReadError(EloftrError, ValueError):
    """An image that cannot be read."""
