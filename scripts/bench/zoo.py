"""Measure the project's recurrent layers against its GRU: one layer, forward and backward.

All in float32 on the CPU. In each round the sides take turns; a side's time is its median over the
rounds. With one thread it is the processor time of that thread, with more wall time. Ratios below 1
mean: faster than `GRU` with its compiled kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from layers import machine
from timing import check_positive, clock_of, interleaved, parse_shapes, row, training_step
from torch import nn

from bci_decode.errors import run_cli
from bci_decode.layers import (
    GRU,
    HGRN,
    LRU,
    LSTM,
    RNN,
    LayerNormLSTM,
    LayerNormRNN,
    MinGRU,
)

LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "GRU": GRU,
    "LRU": LRU,
    "LRU with GLU": partial(LRU, glu=True),
    "minGRU": MinGRU,
    "HGRN": HGRN,
    "LSTM": LSTM,
    "LN-LSTM": LayerNormLSTM,
    "RNN": RNN,
    "LN-RNN": LayerNormRNN,
}


def main() -> None:
    arguments = parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{machine(arguments.threads)}\n")
    heads = ["B, T, H, I, layers", "GRU ms", *(f"{name} / GRU" for name in list(LAYERS)[1:])]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for shape in arguments.shapes:
        batch, bins, hidden, inputs, _ = shape
        x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)
        sides = {name: step(make(inputs, hidden), x, dy) for name, make in LAYERS.items()}
        times = interleaved(sides, arguments.rounds, clock_of(arguments.threads))
        ratios = [f"{times[name] / times['GRU']:.2f}" for name in list(LAYERS)[1:]]
        print(row(shape, [f"{times['GRU'] * 1e3:.2f}", *ratios]), flush=True)


def step(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> Callable[[], None]:
    """A training step of one layer."""
    return training_step(lambda x: layer(x)[0], list(layer.parameters()), x, dy)


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    default = "32,64,128,96"
    parser.add_argument("shapes", nargs="*", help=f"B,T,H,I; default: {default}")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.shapes = parse_shapes(arguments.shapes or [default])
    check_positive(threads=arguments.threads, rounds=arguments.rounds)
    return arguments


if __name__ == "__main__":
    run_cli(main)
