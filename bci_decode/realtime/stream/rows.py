"""Rows of numbers that grow on disk: an hour of bins costs the memory of a thousand."""

from __future__ import annotations

import tempfile

import numpy as np

BLOCK = 1024  # rows in memory


class Rows:
    """A table of float64 numbers that grows by a row at a time, in a temporary file."""

    def __init__(self, columns: int) -> None:
        self._block = np.empty((BLOCK, columns))
        self._filled = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, `close` closes it

    def __len__(self) -> int:
        return self._file.tell() // self._block[0].nbytes + self._filled

    def next(self) -> np.ndarray:
        """The next row, to be filled at once."""
        if self._filled == BLOCK:
            self._file.write(self._block.data)
            self._filled = 0
        self._filled += 1
        return self._block[self._filled - 1]

    def read(self) -> np.ndarray:
        """All rows so far, in memory."""
        end = self._file.tell()
        self._file.seek(0)
        written = np.frombuffer(self._file.read(), np.float64)
        self._file.seek(end)
        written = written.reshape(-1, self._block.shape[1])
        return np.concatenate([written, self._block[: self._filled]])

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()
