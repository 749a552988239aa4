"""Memory of a training step, and what compiling the kernels costs, each in its own process.

`costs.py SIDE B,T,H,I` prints the MB of one of SIDES (Linux); `layers.py` calls it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from timing import Shape, parse_shapes
from torch import nn

from bci_decode.errors import run_cli
from bci_decode.layers import GRU, LayerNormGRU

SIDES: dict[str, type[nn.Module]] = {
    "LN-GRU kernels": LayerNormGRU,
    "LN-GRU loop": LayerNormGRU,
    "GRU kernels": GRU,
    "nn.GRU": nn.GRU,
}
FIRST_USE = """
import time, torch
from bci_decode.layers import LayerNormGRU
torch.ones(2, requires_grad=True).sum().backward()
layer, x, started = LayerNormGRU(96, 128), torch.ones(2, 2, 96), time.process_time()
layer(x)[0].sum().backward()
print(time.process_time() - started)
"""


def memory(shape: str) -> str:
    """Peak memory of two training steps, each side in its own process."""
    command = [sys.executable, __file__]
    peaks = {
        side: float(subprocess.check_output([*command, side, shape], text=True)) for side in SIDES
    }
    values = ", ".join(f"{side} {peak:.0f} MB" for side, peak in peaks.items())
    ratio = peaks["LN-GRU kernels"] / peaks["LN-GRU loop"]
    return f"memory of a training step, {shape}: {values}; LN-GRU kernels / loop {ratio:.2f}"


def peak_memory(side: str, shape: Shape) -> float:
    """MB that two training steps of this process add to its peak."""
    batch, bins, hidden, inputs, layers = shape
    layer, small = SIDES[side](inputs, hidden, layers), SIDES[side](8, 8)
    if side.endswith("loop"):
        layer.use_fused = small.use_fused = False  # type: ignore[assignment]
    y = small(torch.ones(9, 2, 8))[0]  # loads the kernels
    y.backward(torch.ones_like(y))  # a gradient that is given makes PyTorch import 35 MB
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _megabytes("VmRSS")
    for _ in range(2):
        layer(x)[0].backward(dy)
        layer.zero_grad()
    return _megabytes("VmHWM") - before


def _megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def compiler() -> str:
    """Processor time of the first use ever of the LN-GRU, and of one that finds it compiled."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (first_use(NUMBA_CACHE_DIR=folder) for _ in range(2))
    return (
        f"LN-GRU, forward and backward: the first use ever takes {first:.1f} s of processor time "
        f"to compile, a later one {second:.1f} s to import numba and load"
    )


def first_use(**environment: str) -> float:
    """Processor seconds that the first training step of a process takes."""
    given = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE], check=True, capture_output=True, text=True, env=given
    )
    return float(done.stdout)


def main() -> None:
    side, shape = sys.argv[1:]
    torch.set_num_threads(1)
    print(peak_memory(side, parse_shapes([shape])[0]))


if __name__ == "__main__":
    run_cli(main)
