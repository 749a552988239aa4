"""Memory of training on 47 sessions of 25 minutes: `python scripts/bench/multi_session_memory.py`.

Makes the binned sessions as they are stored, trains one epoch with a tiny core and prints the
largest resident memory of the process, which counts mapped pages of files too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bci_decode.config import DataConfig, SplitConfig, TrainerConfig, WindowConfig
from bci_decode.data.binned_store import StoredSession, read_entry, write_entry
from bci_decode.data.binning import BinnedSession
from bci_decode.data.dataset import preparation
from bci_decode.data.many_sessions import ManySessions, PreparedSession
from bci_decode.models.decoder import Decoder
from bci_decode.models.multi_session import MultiSessionDecoder, ReadIn
from bci_decode.training.multi_session import MultiSessionTrainer

DATA = DataConfig(
    split=SplitConfig(train=0.8, val=0.0), window=WindowConfig(burn_in=20, grids=4)
)  # as in experiment=multi_session


def main() -> None:
    """Make, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=47)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--units", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        stored = [
            _stored(home / f"session{number}", number, arguments.minutes, arguments.units)
            for number in range(arguments.sessions)
        ]
        size = sum(path.stat().st_size for path in home.rglob("*.npy"))
        started = time.perf_counter()
        _train(home, stored)
        seconds = time.perf_counter() - started
        print(
            f"{arguments.sessions} sessions of {arguments.minutes:g} min, {arguments.units} units: "
            f"{size / 1e9:.2f} GB on disk, {peak_gb():.2f} GB of memory at most, "
            f"{seconds:.0f} s for an epoch and two evaluations"
        )


def _stored(entry: Path, number: int, minutes: float, units: int) -> StoredSession:
    """A session of noise on all grids, written and read back as any other."""
    rng = np.random.default_rng(number)
    table = pd.DataFrame({"channel": [f"M1 {i:03d}" for i in range(units)], "area": "M1", "row": 1})
    bins, width = round(minutes * 60 / DATA.bin_width), DATA.bin_width

    def grid(length: int) -> BinnedSession:
        edges = width * np.arange(length + 1)
        counts = rng.integers(0, 4, (length, units), np.uint8)
        hand = rng.normal(size=(length, 2))
        return BinnedSession("noise", edges, counts, table, hand, DATA.target, width, 0.0)

    shifted = tuple(grid(bins - 1) for _ in range(DATA.window.grids - 1))
    whole = BinnedSession(**{**vars(grid(bins)), "shifted": shifted})
    write_entry(entry, whole, {"md5": str(number), "seconds": minutes * 60})
    return read_entry(entry, f"session{number}", entry)


def _train(home: Path, stored: list[StoredSession]) -> None:
    data = ManySessions(
        tuple(PreparedSession(one, preparation(one.binned, DATA)) for one in stored)
    )
    decoders = [
        Decoder(
            partial(torch.nn.GRU, hidden_size=8),
            torch.nn.Linear,
            encoder=partial(ReadIn, width=8, unit_dropout=0.1),
            input_size=len(one.prepared.units),
            output_size=2,
        )
        for one in data.sessions
    ]
    config = TrainerConfig(epochs=1, batch_size=16, patience=None, select_on="last", device="cpu")
    decoder, optimizer = MultiSessionDecoder(decoders), partial(torch.optim.AdamW, lr=1e-2)
    MultiSessionTrainer(decoder, data, home, config, optimizer).fit()  # type: ignore[arg-type]


def peak_gb() -> float:
    """The largest resident memory of this process, in GB."""
    if sys.platform == "win32":
        return float("nan")
    import resource  # of POSIX systems

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


if __name__ == "__main__":
    main()
