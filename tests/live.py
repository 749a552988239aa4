"""Small trained runs and processes for the tests of live decoding."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from recordings import ROOT, recording, write_mat73

from bci_decode.runs.checksums import write_checksums
from bci_decode.runs.estimator import train
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun

BIN = 0.02  # s
TINY = [f"data.bin_width={BIN}", "data.window.length=8", "data.window.burn_in=2"]
TINY_RNN = ["model.recurrent.hidden_size=6", "trainer.epochs=1"]


def trained(folder: Path, model: str = "gru") -> LoadedRun:
    """A run on ten seconds of ten units in bins of 20 ms; its channels are M1 001 to M1 004."""
    file = folder / "toy.mat"
    if not file.exists():
        write_mat73(file, recording())
    extra = [] if model in ("wiener", "kalman") else TINY_RNN
    words = [*TINY, *extra, f"output_dir={folder}"]
    return train(session=file, model=model, overrides=words, progress=False)


def with_data(run: LoadedRun, folder: Path, **changes: object) -> LoadedRun:
    """A copy of a run in `folder` whose config has other values in `data`."""
    shutil.copytree(run.folder, folder)
    state = torch.load(run.folder / "best.pt", map_location="cpu", weights_only=True)
    state["data"] |= changes
    torch.save(state, folder / "best.pt")
    write_checksums(folder)
    return load_run(folder)


def counts_for(run: LoadedRun, bins: int, seed: int = 0) -> np.ndarray:
    """Counts (T, N) of live bins."""
    return np.random.default_rng(seed).poisson(0.3, (bins, len(run.units))).astype(float)


def start(*words: object, **environment: str) -> subprocess.Popen:
    """A Python process of this project with pipes for text."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
