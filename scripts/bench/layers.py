"""Measure the recurrent layers against torch.nn.GRU and the usual cell loop: forward and backward.

All in float32 on the CPU. In each round the sides take turns; a side's time is its median over the
rounds. With one thread it is the processor time of that thread. With more it is wall time, which
needs an idle machine: threads of PyTorch that wait for each other take many times as long beside
another process. Ratios below 1 mean: faster than the side after the stroke. "LN of the sum" is
place="sum"; "products" are a step's matrix products alone by PyTorch: a lower bound with that
library. After the table come windows that share bins, one step at batch 1, the memory of a training
step, the error of bfloat16 autocast, and the cost of compiling. For a GPU there is gpu.py.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from costs import compiler, memory
from timing import (
    GRID,
    KEY,
    Shape,
    check_positive,
    clock_of,
    interleaved,
    parse_shapes,
    processor,
    row,
    training_step,
)
from torch import nn
from yardsticks import CellLoop, NumpyStepper, products

from bci_decode.errors import run_cli
from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.layers.cpu.stepper import Stepper

MKL = "MKL_ENABLE_INSTRUCTIONS"
COLUMNS = (
    "B, T, H, I, layers", "nn.GRU ms", "LN-GRU / nn.GRU", "LN-GRU / cell loop",
    "LN of the sum / nn.GRU", "GRU / nn.GRU", "products / nn.GRU",
)  # fmt: skip


def main() -> None:
    arguments = parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"{machine(arguments.threads)}\n")
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for shape in arguments.shapes or KEY + GRID * (not arguments.key):
        print(row(shape, cells(shape, arguments)), flush=True)
    if not arguments.shapes:
        print()
        for line in lines(arguments.rounds, arguments.threads):
            print(line, flush=True)


def machine(threads: int) -> str:
    try:
        from numba import __version__ as numba
    except ImportError:
        numba = "absent"
    what = "processor time of the thread" if threads == 1 else "wall time"
    set_ = f", {MKL}={os.environ[MKL]}" if MKL in os.environ else ""
    versions = f"torch {torch.__version__}, numba {numba}"
    return f"{processor()}, {versions}, {threads} thread(s), {what}{set_}"


def cells(shape: Shape, arguments: argparse.Namespace) -> list[str]:
    """Time of nn.GRU and ratios of one shape."""
    batch, bins, hidden, inputs, layers = shape
    options = norm_options(arguments.plain)
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)

    def step(layer: nn.Module) -> Callable[[], None]:
        return training_step(lambda x: layer(x)[0], list(layer.parameters()), x, dy)

    sides = {
        "nn.GRU": step(nn.GRU(inputs, hidden, layers)),
        "LN-GRU": step(LayerNormGRU(inputs, hidden, layers, **options)),
    }
    if not arguments.only:
        sides |= {
            "cell loop": step(CellLoop(inputs, hidden, layers)),
            "LN of the sum": step(LayerNormGRU(inputs, hidden, layers, place="sum", **options)),
            "GRU": step(GRU(inputs, hidden, layers)),
            "products": products(shape),
        }
    times = interleaved(sides, arguments.rounds, clock_of(arguments.threads))
    return [f"{times['nn.GRU'] * 1e3:.2f}", *(ratio(times, head) for head in COLUMNS[2:])]


def ratio(times: dict[str, float], head: str) -> str:
    """The quotient that a column's head names, "-" if a side was not measured."""
    side, other = head.split(" / ")
    known = side in times and other in times
    return f"{times[side] / times[other]:.2f}" if known else "-"


def norm_options(plain: bool) -> dict[str, Any]:
    return {"bias": plain, "affine": not plain}


def lines(rounds: int, threads: int) -> Iterator[str]:
    """What a full measurement prints after its table."""
    yield from (windows(inputs, rounds, threads) for inputs in (96, 480))
    yield from (one_step(*sizes, rounds, threads) for sizes in ((128, 96, 1), (256, 192, 2)))
    yield from map(memory, ("128,50,128,96", "64,256,256,192", "16,10,256,96"))
    yield autocast(rounds, threads)
    yield compiler()


def windows(inputs: int, rounds: int, threads: int, hidden: int = 256) -> str:
    """A training step over the source study's windows: B 16, T 10, each one bin after the other.

    nn.GRU has its windows in memory, with one copy of a bin for each of its windows.
    """
    batch, length = 16, 10
    bins = torch.randn(batch + length - 1, inputs)
    index = torch.arange(length)[:, None] + torch.arange(batch)  # (T, B)
    dy = torch.randn(length, batch, hidden)
    gru = nn.GRU(inputs, hidden, 2)
    sides = {"nn.GRU": training_step(lambda x: gru(x)[0], [*gru.parameters()], bins[index], dy)}
    for name, layer in {
        "LN-GRU": LayerNormGRU(inputs, hidden, 2, **norm_options(plain=True)),
        "GRU": GRU(inputs, hidden, 2),
    }.items():
        outputs = _window_outputs(layer, index)
        sides[name] = training_step(outputs, [*layer.parameters()], bins, dy)
    times = interleaved(sides, rounds, clock_of(threads))
    ratios = ", ".join(f"{head} {ratio(times, head)}" for head in (COLUMNS[2], COLUMNS[5]))
    sizes = f"B {batch}, T {length}, H {hidden}, I {inputs}, 2 layers"
    milliseconds = times["nn.GRU"] * 1e3
    return f"windows that share bins, {sizes}: nn.GRU {milliseconds:.2f} ms; {ratios}"


def _window_outputs(layer: Any, index: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda bins: layer.forward_windows(bins, index)[0]


def one_step(hidden: int, inputs: int, layers: int, rounds: int, threads: int) -> str:
    """One bin at batch 1 without gradients, as in a live decoder."""
    gru, cell = nn.GRU(inputs, hidden, layers), CellLoop(inputs, hidden, layers)
    layer = LayerNormGRU(inputs, hidden, layers, bias=False)
    stepper, plain = Stepper(layer), NumpyStepper(layer)
    x, h = torch.randn(1, 1, inputs), torch.randn(layers, 1, hidden)
    given = x[0, 0].numpy(), h[:, 0].numpy()
    np.testing.assert_allclose(plain.step(*given), stepper.step(*given), rtol=0, atol=1e-5)
    sides: dict[str, Callable[[], object]] = {"nn.GRU": lambda: gru(x, h)}
    if layers == 1:
        first = cast(nn.ModuleDict, cell.layers[0])
        sides["cell loop"] = lambda: cell.cell(first, x[0], h[0])
    sides["NumPy"] = lambda: plain.step(*given)
    sides["Stepper"] = lambda: stepper.step(*given)
    with torch.no_grad():
        repeated = {name: _repeated(side, 500) for name, side in sides.items()}
        times = interleaved(repeated, rounds, clock_of(threads))
    ratios = ", ".join(
        f"/ {name} {times['Stepper'] / times[name]:.2f}" for name in list(times)[:-1]
    )
    microseconds = times["Stepper"] / 500 * 1e6
    sizes = f"H {hidden}, I {inputs}, {layers} layer(s)"
    return f"one step, batch 1, {sizes}: Stepper {microseconds:.1f} us; {ratios}"


def _repeated(side: Callable[[], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            side()

    return run


def autocast(rounds: int, threads: int, shape: Shape = (128, 50, 128, 96)) -> str:
    """Error of outputs under bfloat16 autocast, which runs the loop, and the time of a step."""
    batch, bins, hidden, inputs = shape
    layer = LayerNormGRU(inputs, hidden, bias=False)
    reference = LayerNormGRU(inputs, hidden, bias=False, dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    reference.use_fused = False
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)

    def run_cast() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)[0]
        y.backward(dy.to(y.dtype))

    true = reference(x.double())[0]
    errors = {"float32": (layer(x)[0] - true).norm() / true.norm()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors["bfloat16 autocast"] = (layer(x)[0] - true).norm() / true.norm()
    sides = {"cast": run_cast, "float32": lambda: layer(x)[0].backward(dy)}
    times = interleaved(sides, rounds, clock_of(threads))
    values = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    quotient = ratio(times, "cast / float32")
    return (
        f"relative error of {bins} bins' outputs: {values}; time of a step, cast / not {quotient}"
    )


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    epilog = f"On an Intel processor, {MKL}=AVX2 gives nn.GRU the MKL that AMD processors get."
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=raw)
    default = "default: the tables of docs/speed.md"
    parser.add_argument("shapes", nargs="*", help=f"B,T,H,I or B,T,H,I,layers; {default}")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument("--key", action="store_true", help=f"only the first {len(KEY)} shapes")
    parser.add_argument("--only", action="store_true", help="only nn.GRU and the LayerNorm GRU")
    plain = "norms without gain and bias, maps with bias, as in the source study"
    parser.add_argument("--plain", action="store_true", help=plain)
    arguments = parser.parse_args()
    arguments.shapes = parse_shapes(arguments.shapes)
    check_positive(threads=arguments.threads, rounds=arguments.rounds)
    return arguments


if __name__ == "__main__":
    run_cli(main)
