"""Small runs and recordings that the tests of live decoding use."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composing import compose

from bci_decode.data.simulate import simulated_file
from bci_decode.runs.run import run

SMALL = ("trainer.epochs=1", "session.minutes=1", "session.channels=24")


def small_run(home: Path, *words: str, name: str = "run") -> Path:
    """The folder of a run of a few units, trained for a moment."""
    places = (f"output_dir={home / name}", f"data_dir={home / 'data'}")
    model = () if any(word.startswith("model") for word in words) else ("model=wiener",)
    return run(compose(*places, *SMALL, *model, *words), progress=False)


def other_recording(home: Path) -> Path:
    """Half a minute of other spikes of an array of as many channels."""
    return simulated_file(home / "other.mat", seed=7, minutes=0.5, channels=24)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Any file that would become larger is refused, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
