"""Measure the LayerNorm GRU against torch.nn.GRU and the usual cell loop: forward and backward.

All in float32 on the CPU. In each round the sides take turns; a side's time is its median over the
rounds. With one thread, rounds in which another process used the processor are repeated. Ratios
below 1 mean: faster than the side in the column's head. After the table come one step at batch 1,
the memory of a training step, and the error of bfloat16 autocast. For a GPU there is gpu.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from timing import (
    GRID,
    KEY,
    Shape,
    check_positive,
    interleaved,
    parse_shapes,
    processor,
    row,
    training_step,
)
from torch import Tensor, nn

from bci_decode.errors import run_cli
from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.layers.cpu.matmul import large_products, use_fast_matmul
from bci_decode.layers.cpu.stepper import Stepper


class CellLoop(nn.Module):
    """The usual LayerNorm GRU: nn.Linear and nn.LayerNorm in a Python loop over bins."""

    def __init__(self, inputs: int, hidden: int, layers: int):
        super().__init__()
        self.hidden = hidden
        sizes = [inputs] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(nn.ModuleDict(self._parts(size)) for size in sizes)

    def _parts(self, inputs: int) -> dict[str, nn.Module]:
        return {
            "x": nn.Linear(inputs, 3 * self.hidden, bias=False),
            "h": nn.Linear(self.hidden, 3 * self.hidden, bias=False),
            **{f"{side}_gates": nn.LayerNorm(2 * self.hidden) for side in "xh"},
            **{f"{side}_candidate": nn.LayerNorm(self.hidden) for side in "xh"},
        }

    def cell(self, layer: nn.ModuleDict, x: Tensor, h: Tensor) -> Tensor:
        sizes = (2 * self.hidden, self.hidden)
        gates_x, candidate_x = layer["x"](x).split(sizes, dim=-1)
        gates_h, candidate_h = layer["h"](h).split(sizes, dim=-1)
        gates = torch.sigmoid(layer["x_gates"](gates_x) + layer["h_gates"](gates_h))
        z, r = gates.chunk(2, dim=-1)
        new_h = r * layer["h_candidate"](candidate_h)
        candidate = torch.tanh(layer["x_candidate"](candidate_x) + new_h)
        return (1 - z) * h + z * candidate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            h, states = x.new_zeros(x.shape[1], self.hidden), []
            for bin_ in x:
                h = self.cell(layer, bin_, h)  # type: ignore[arg-type]
                states.append(h)
            x = torch.stack(states)
        return x, h


def main() -> None:
    arguments = parse_args()
    torch.set_num_threads(arguments.threads)
    fast_product = use_fast_matmul()
    if arguments.memory_of:
        print(peak_memory(arguments.memory_of, arguments.shapes[0]))
    elif arguments.profile:
        print_profile((arguments.shapes or KEY)[0], arguments.plain)
    else:
        print_tables(arguments, fast_product)


def print_tables(arguments: argparse.Namespace, fast_product: bool) -> None:
    where = f"torch {torch.__version__}, {processor()}, {arguments.threads} thread(s)"
    print(f"{where}, oneDNN for float32: {'exact' if fast_product else 'not used'} here\n")
    columns = ["B, T, H, I, layers", "nn.GRU ms", "/ nn.GRU"]
    if not arguments.only:
        columns += ["/ cell loop", "/ nn.GRU, same GEMM", "GRU here / nn.GRU", "GEMM share"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for shape in arguments.shapes or KEY + GRID * (not arguments.key):
        print(row(shape, cells(shape, arguments)), flush=True)
    if not arguments.shapes:
        print()
        for line in (*one_step(), *memory(), *autocast()):
            print(line, flush=True)


def cells(shape: Shape, arguments: argparse.Namespace) -> list[str]:
    """Time and ratios of one shape."""
    batch, bins, hidden, inputs, layers = shape
    torch.manual_seed(0)
    options = norm_options(arguments.plain)
    gru, cell = nn.GRU(inputs, hidden, layers), CellLoop(inputs, hidden, layers)
    fast, plain = LayerNormGRU(inputs, hidden, layers, **options), GRU(inputs, hidden, layers)
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)
    product = batch * 3 * hidden * hidden

    def step(layer: nn.Module) -> Callable[[], None]:
        return training_step(lambda x: layer(x)[0], list(layer.parameters()), x, dy)

    sides: dict[str, Callable[[], object]] = {"gru": step(gru), "fast": step(fast)}
    if not arguments.only:
        sides |= {"cell": step(cell), "same": with_large_products(product, step(gru))}
        sides |= {"plain": step(plain)}
        sides |= {"products": with_large_products(product, lambda: all_products(shape))}
    times = interleaved(sides, arguments.rounds, arguments.threads == 1)
    ratios = [times["fast"] / times[name] for name in ("gru", "cell", "same") if name in times]
    ratios += [times["plain"] / times["gru"]] if "plain" in times else []
    share = [f"{times['products'] / times['fast']:.0%}"] if "products" in times else []
    return [f"{times['gru'] * 1e3:.2f}", *(f"{ratio:.2f}" for ratio in ratios), *share]


def norm_options(plain: bool) -> dict[str, Any]:
    return {"bias": plain, "affine": not plain}


def with_large_products(multiply_adds: int, side: Callable[[], object]) -> Callable[[], None]:
    """The side with the matrix product that the fused layers would choose for this size."""

    def run() -> None:
        with large_products(multiply_adds):
            side()

    return run


def all_products(shape: Shape) -> None:
    """The matrix products of a training step and nothing else: the lower bound of its time."""
    batch, bins, hidden, inputs, layers = shape
    h, dh, wide = (
        torch.ones(batch, hidden),
        torch.ones(batch, hidden),
        torch.ones(batch, 3 * hidden),
    )
    weight = torch.ones(hidden, 3 * hidden)
    back = weight.t().contiguous()
    rows_h, rows = torch.ones(bins * batch, hidden), torch.ones(bins * batch, 3 * hidden)
    for layer in range(layers):
        rows_x = torch.ones(bins * batch, inputs if layer == 0 else hidden)
        torch.mm(rows_x, torch.ones(rows_x.shape[1], 3 * hidden), out=rows)
        for _ in range(bins):
            torch.mm(h, weight, out=wide)
            torch.mm(wide, back, out=dh)
        rows.t() @ rows_h
        rows.t() @ rows_x
        if layer:
            rows @ torch.ones(3 * hidden, rows_x.shape[1])


def one_step() -> list[str]:
    """One bin at batch 1 without gradients, H 128, I 96, as in a live decoder."""
    gru, cell, layer = nn.GRU(96, 128), CellLoop(96, 128, 1), LayerNormGRU(96, 128, bias=False)
    stepper, first = Stepper(layer), cast(nn.ModuleDict, cell.layers[0])
    x, h = torch.randn(1, 1, 96), torch.zeros(1, 1, 128)
    x_array, h_array = x[0, 0].numpy(), h[0].numpy()
    sides: dict[str, Callable[[], object]] = {
        "nn.GRU": lambda: gru(x, h),
        "cell": lambda: cell.cell(first, x[0], h[0]),
        "Stepper": lambda: stepper.step(x_array, h_array),
    }
    with torch.no_grad():
        times = interleaved({name: repeated(side) for name, side in sides.items()}, 9)
    values = ", ".join(f"{name} {seconds * 1e3:.1f} us" for name, seconds in times.items())
    ratios = [
        f"Stepper / {name} {times['Stepper'] / times[name]:.2f}" for name in ("nn.GRU", "cell")
    ]
    return [f"one step, batch 1, H 128, I 96, no gradient: {values}; {', '.join(ratios)}"]


def repeated(side: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(1000):
            side()

    return run


def memory() -> list[str]:
    """Peak memory of two training steps, each side in its own process (Linux)."""
    lines = []
    names = {"fast": "fast path", "loop": "reference loop", "gru": "nn.GRU"}
    for shape in ("128,50,128,96", "64,256,256,192", "16,10,256,96"):
        command = [sys.executable, __file__, shape, "--memory-of"]
        peaks = {
            side: float(subprocess.check_output([*command, side], text=True)) for side in names
        }
        values = ", ".join(f"{names[side]} {peak:.0f} MB" for side, peak in peaks.items())
        ratio = peaks["fast"] / peaks["loop"]
        lines.append(f"memory of a training step, {shape}: {values}; ratio {ratio:.2f}")
    return lines


def peak_memory(side: str, shape: Shape) -> float:
    """MB that two training steps of this process add to its peak."""
    batch, bins, hidden, inputs, layers = shape
    layer: nn.Module = nn.GRU(inputs, hidden, layers)
    if side != "gru":
        layer = LayerNormGRU(inputs, hidden, layers, bias=False)
        layer.use_fused = side == "fast"
    LayerNormGRU(8, 8)(torch.ones(9, 2, 8))[0].sum().backward()  # fills the libraries' own buffers
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)
    before = process_megabytes("VmRSS")
    for _ in range(2):
        layer(x)[0].backward(dy)
        layer.zero_grad()
    return process_megabytes("VmHWM") - before


def process_megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def print_profile(shape: Shape, plain: bool) -> None:
    """Time of a training step by PyTorch's operations; the rest is Python's."""
    batch, bins, hidden, inputs, layers = shape
    layer = LayerNormGRU(inputs, hidden, layers, **norm_options(plain))
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)
    step = training_step(lambda x: layer(x)[0], list(layer.parameters()), x, dy)
    for _ in range(3):
        step()
    with torch.profiler.profile() as profile:
        for _ in range(10):
            step()
    operations = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in operations)
    print("| operation | share of a step | calls a step | us a call |\n|---|---|---|---|")
    for event in operations[:14]:
        share, calls = event.self_cpu_time_total / total, event.count / 10
        microseconds = event.self_cpu_time_total / event.count
        print(f"| {event.key} | {share:.1%} | {calls:.0f} | {microseconds:.1f} |")


def autocast() -> list[str]:
    """Error of outputs under bfloat16 autocast, which runs the loop, and the time of a step."""
    layer = LayerNormGRU(96, 128, bias=False)
    reference = LayerNormGRU(96, 128, bias=False, dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    reference.use_fused = False
    x, dy = torch.randn(50, 128, 96), torch.randn(50, 128, 128)

    def run_cast() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)[0]
        y.backward(dy.to(y.dtype))

    true = reference(x.double())[0]
    errors = {"float32": (layer(x)[0] - true).norm() / true.norm()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors["bfloat16 autocast"] = (layer(x)[0] - true).norm() / true.norm()
    times = interleaved({"cast": run_cast, "fast": lambda: layer(x)[0].backward(dy)}, 5)
    values = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    ratio = times["cast"] / times["fast"]
    return [f"relative error of 50 bins' outputs: {values}; time of an autocast step {ratio:.2f}"]


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    default = "default: the tables of docs/speed.md"
    parser.add_argument("shapes", nargs="*", help=f"B,T,H,I or B,T,H,I,layers; {default}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--key", action="store_true", help="only the first seven shapes")
    parser.add_argument("--only", action="store_true", help="only nn.GRU and the LayerNorm GRU")
    plain = "norms without gain and bias, maps with bias, as in the source study"
    parser.add_argument("--plain", action="store_true", help=plain)
    parser.add_argument("--profile", action="store_true", help="time of one shape by operation")
    parser.add_argument("--memory-of", choices=("fast", "loop", "gru"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.shapes = parse_shapes(arguments.shapes)
    check_positive(threads=arguments.threads, rounds=arguments.rounds)
    return arguments


if __name__ == "__main__":
    run_cli(main)
