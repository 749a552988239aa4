"""Rows of numbers that grow on disk: an hour of bins costs the memory of a thousand."""

from __future__ import annotations

import tempfile

import numpy as np

from bci_decode.errors import BciDecodeError

BLOCK = 1024  # rows in memory


class Rows:
    """A table of float64 numbers that grows by a row at a time, in a temporary file.

    Raises `BciDecodeError` where the disk is full; `read` then still gives all rows so far.
    """

    def __init__(self, columns: int) -> None:
        self._block = np.empty((BLOCK, columns))
        self._filled = self._blocks = 0  # rows in memory, blocks in the file
        try:  # unbuffered: after an error the file holds whole blocks, and maybe a part of one
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, `close` closes it
        except OSError as error:
            raise _full(error) from error

    def __len__(self) -> int:
        return self._blocks * BLOCK + self._filled

    def next(self) -> np.ndarray:
        """The next row, to be filled at once."""
        if self._filled == BLOCK:
            self._write()
        self._filled += 1
        return self._block[self._filled - 1]

    def _write(self) -> None:
        content = self._block.data.cast("B")
        try:
            self._file.seek(self._blocks * self._block.nbytes)
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            raise _full(error) from error
        self._blocks, self._filled = self._blocks + 1, 0

    def read(self) -> np.ndarray:
        """All rows so far, in memory."""
        content = bytearray(self._blocks * self._block.nbytes)
        self._file.seek(0)
        left = memoryview(content)
        while left:
            left = left[self._file.readinto(left) :]
        written = np.frombuffer(content).reshape(-1, self._block.shape[1])
        return np.concatenate([written, self._block[: self._filled]])

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()


def _full(error: OSError) -> BciDecodeError:
    return BciDecodeError(
        f"what was decoded cannot be kept ({error.strerror or error})",
        file=tempfile.gettempdir(),
        remedy="free some space, or set TMPDIR to another folder",
    )
