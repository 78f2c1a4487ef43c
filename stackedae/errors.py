"""Errors that name the argument as typed, the value received, the reason and the cure."""

from __future__ import annotations

from typing import Any

_LONGEST_VALUE = 120


class StackedAEError(Exception):
    """Base of every error that this library raises on purpose."""


class ArgumentError(StackedAEError, ValueError):
    """An argument has a value that cannot be worked with.

    Parameters
    ----------
    name : str
        The argument, as the caller typed it.
    value : object
        What was received.
    reason : str
        Why it cannot be used; continues the phrase ``name=value``.
    cure : str
        What to pass or do instead.

    Examples
    --------
    >>> from stackedae.errors import ArgumentError
    >>> print(ArgumentError("alpha", -1, "is negative", "pass 0 or more"))
    alpha=-1 is negative; pass 0 or more.
    """

    def __init__(self, name: str, value: object, reason: str, cure: str) -> None:
        # All four go to Exception.args, from which an error that crosses
        # process boundaries (a Dask worker's, say) is rebuilt.
        super().__init__(name, _shown(value), reason, cure)

    def __str__(self) -> str:
        name, value, reason, cure = self.args
        return f"{name}={value} {reason}; {cure}."


class DataError(StackedAEError, ValueError):
    """The data themselves (not how they were passed) cannot be worked with."""


class ImageError(StackedAEError, OSError):
    """An image file was not found or cannot be read."""


class StoreError(StackedAEError, OSError):
    """A store is missing, incomplete, of another kind, or of a later version."""


class StoreExistsError(StoreError, FileExistsError):
    """A store is in the way and was not to be overwritten."""


class DamagedChunkError(StoreError):
    """A chunk of a store is missing or does not pass its checksum."""


class ClusterError(StackedAEError, RuntimeError):
    """Workers died or went away, or the scheduler did, and work could not be done without them."""

    def during(self, whereabouts: str) -> ClusterError:
        """Return the error with where training stood, and how to go on."""
        return ClusterError(f"{self}. Training stood {whereabouts}.")


class MemoryPlanError(StackedAEError, MemoryError):
    """What would have to be in memory at once is more than there is."""


class CheckpointError(StackedAEError, ValueError):
    """A checkpoint is of other data, other parameters or another version, or cannot be read."""


class MissingExtraError(StackedAEError, ImportError):
    """A package is not installed that only some of what the library does needs."""


class WaitingWarning(UserWarning):
    """Workers wait, or read, for longer than they compute."""


class _Verbatim(str):
    """Text that `repr` leaves as it is, so that pickling does not add quotes."""

    def __repr__(self) -> str:
        return str(self)


def _shown(value: Any) -> _Verbatim:
    text = value if isinstance(value, _Verbatim) else repr(value)
    return _Verbatim(text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…")
