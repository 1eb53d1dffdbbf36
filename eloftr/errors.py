"""The errors that this package raises on purpose: one tree, so that a caller needs one `except`.

Each message is one sentence that says what is wrong, where, and how to cure it. Anything else that
is raised is a bug.
"""

from __future__ import annotations


class EloftrError(Exception):
    """The root of the tree."""


class ArgumentError(EloftrError, ValueError):
    """An argument, an option or a configuration that this package cannot work with."""


class CheckpointError(EloftrError, ValueError):
    """Weights that cannot be found or read, or that do not fit the model."""


class ImageReadError(EloftrError, ValueError):
    """A file or URL that holds no readable image."""


class DecoderMissingError(ImageReadError):
    """A file of a format whose decoder is not installed; the message has the command for it."""


class ExportError(EloftrError, RuntimeError):
    """An exported graph that does not compute what the model does."""
