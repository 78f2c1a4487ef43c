"""Rows that come in any order and are asked for in theirs, on the disk if they are many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stackedae.memory as memory
from stackedae.windows import Integers


class Scattered:
    """Rows by number, which may come in parts that add up; zero as long as nothing has come.

    Up to 64 MiB of them are in memory, or twice that while they are sorted; more go to files in a
    folder.

    Parameters
    ----------
    row_shape : tuple of int
        Shape of a row.
    dtype : dtype
        Of the entries.
    folder : Path
        For the files.
    """

    def __init__(self, row_shape: tuple[int, ...], dtype: np.dtype[Any], folder: Path) -> None:
        self.row_shape, self.dtype, self.folder = row_shape, dtype, folder
        self.waiting: list[tuple[Integers, NDArray[Any]]] = []
        self.waiting_bytes, self.sorted = 0, True
        self.files: list[tuple[Integers, Path]] = []

    def add(self, numbers: Integers, rows: NDArray[Any]) -> None:
        """Take rows, or parts of them; the same number may come again, here and later."""
        self.waiting.append((numbers, rows))
        self.waiting_bytes, self.sorted = self.waiting_bytes + rows.nbytes, False
        if 2 * self.waiting_bytes >= memory.BUFFER_BYTES:
            self._write_down()

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows with these numbers."""
        out = np.zeros((stop - start, *self.row_shape), self.dtype)
        self._sort()
        stored = ((numbers, np.load(path, mmap_mode="r")) for numbers, path in self.files)
        for numbers, rows in (*self.waiting, *stored):
            first, last = np.searchsorted(numbers, (start, stop))
            _add(out, numbers[first:last] - start, rows[first:last])
        return out

    def _sort(self) -> None:
        """Make one of what waits, in the order of its numbers."""
        if self.sorted:
            return
        numbers = np.concatenate([numbers for numbers, _ in self.waiting])
        order = np.argsort(numbers, kind="stable")
        place, begin = np.argsort(order), 0
        rows = np.empty((len(numbers), *self.row_shape), self.dtype)
        for some, values in self.waiting:
            rows[place[begin : begin + len(some)]] = values
            begin += len(some)
        self.waiting, self.sorted = [(numbers[order], rows)], True

    def _write_down(self) -> None:
        self._sort()
        ((numbers, rows),) = self.waiting
        path = self.folder / f"{len(self.files)}.npy"
        np.save(path, rows)
        self.files.append((numbers, path))
        self.waiting, self.waiting_bytes = [], 0


def _add(out: NDArray[Any], numbers: Integers, rows: NDArray[Any]) -> None:
    """Add rows to those with these numbers, which are sorted, and some of them the same."""
    again = np.zeros(len(numbers), bool)
    again[1:] = numbers[1:] == numbers[:-1]
    out[numbers[~again]] += rows[~again]
    np.add.at(out, numbers[again], rows[again])


@contextmanager
def scattered(
    row_shape: tuple[int, ...], dtype: np.dtype[Any], scratch: str
) -> Iterator[Scattered]:
    """Yield room for rows; files are in a folder in `scratch` until the block ends."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="stackedae-") as folder:
        yield Scattered(row_shape, dtype, Path(folder))
