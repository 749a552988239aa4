"""Measure the LayerNorm GRU against torch.nn.GRU and the public cell loop: forward and backward, float32, CPU.

A round runs every side a few times in a row, one side after the other; a side's time is the median over the rounds.
Rounds in which another process held the processor are dropped (one thread only, where that can be seen).
Ratios below 1 are faster than the side they are held against. After the table: one step at batch 1, the memory of a
training step, and how far bfloat16 autocast is off. For a GPU there is `bench_gpu.py`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, cast

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bci_decode.layers import GRU, LayerNormGRU
from bci_decode.layers.cpu.matmul import gemm_backend, onednn_is_exact
from bci_decode.layers.cpu.stepper import Stepper

KEY = [
    (128, 50, 128, 96, 1), (64, 256, 256, 192, 1), (64, 256, 256, 192, 2), (16, 10, 256, 96, 1),
    (16, 10, 256, 480, 1), (32, 50, 128, 96, 1), (1, 1000, 128, 96, 1),
]  # fmt: skip
GRID = [
    (1, 50, 128, 96, 1), (32, 1000, 128, 96, 1), (128, 20, 128, 96, 1), (32, 20, 64, 96, 1), (1024, 50, 128, 96, 1),
    (128, 50, 512, 96, 1), (128, 50, 128, 960, 1), (16, 10, 256, 256, 1),
]  # fmt: skip


class CellLoop(nn.Module):
    """The usual public LayerNorm GRU: nn.Linear and nn.LayerNorm, bin by bin, in a Python loop under autograd."""

    def __init__(self, inputs: int, hidden: int, layers: int):
        super().__init__()
        self.hidden = hidden
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "x": nn.Linear(inputs if layer == 0 else hidden, 3 * hidden, bias=False),
                    "h": nn.Linear(hidden, 3 * hidden, bias=False),
                    **{f"{side}_gates": nn.LayerNorm(2 * hidden) for side in "xh"},
                    **{f"{side}_candidate": nn.LayerNorm(hidden) for side in "xh"},
                }
            )
            for layer in range(layers)
        )

    def cell(self, layer: nn.ModuleDict, x: Tensor, h: Tensor) -> Tensor:
        gates_x, candidate_x = layer["x"](x).split((2 * self.hidden, self.hidden), dim=-1)
        gates_h, candidate_h = layer["h"](h).split((2 * self.hidden, self.hidden), dim=-1)
        z, r = torch.sigmoid(layer["x_gates"](gates_x) + layer["h_gates"](gates_h)).chunk(2, dim=-1)
        candidate = torch.tanh(layer["x_candidate"](candidate_x) + r * layer["h_candidate"](candidate_h))
        return (1 - z) * h + z * candidate

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            h, states = x.new_zeros(x.shape[1], self.hidden), []
            for x_t in x:
                h = self.cell(layer, x_t, h)  # type: ignore[arg-type]
                states.append(h)
            x = torch.stack(states)
        return x, h


def main() -> None:
    arguments = _arguments()
    if min(arguments.threads, arguments.rounds) < 1:
        _refuse("--threads and --rounds are whole numbers of 1 or more")
    torch.set_num_threads(arguments.threads)
    try:
        shapes = [tuple(map(int, shape.split(","))) for shape in arguments.shapes]
        if any(len(shape) not in (4, 5) or min(shape) < 1 for shape in shapes):
            raise ValueError
    except ValueError:
        _refuse("a shape is B,T,H,I or B,T,H,I,layers, whole numbers of 1 or more")
    if arguments.memory_of:
        _print_peak(arguments.memory_of, shapes[0])
        return
    if arguments.profile:
        _print_profile((shapes or KEY)[0], arguments.plain)
        return
    exact = "exact here" if onednn_is_exact() else "not used here"
    print(f"torch {torch.__version__}, {processor()}, {arguments.threads} thread(s), oneDNN for float32: {exact}\n")
    columns = ["B, T, H, I, layers", "nn.GRU ms", "/ nn.GRU", "/ cell loop", "/ nn.GRU, same GEMM", "GRU here / nn.GRU"]
    columns += ["GEMM share"]
    columns = columns[:3] if arguments.only else columns
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for shape in shapes or KEY + GRID * (not arguments.key):
        print(_row(shape, arguments), flush=True)
    if not shapes:
        print()
        for line in (*one_step(), *memory(), *autocast()):
            print(line, flush=True)


def _refuse(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def _row(shape: tuple[int, ...], arguments: argparse.Namespace) -> str:
    batch, bins, hidden, inputs, layers = (*shape, 1)[:5]
    torch.manual_seed(0)
    options = {"bias": arguments.plain, "affine": not arguments.plain}
    gru, cell = nn.GRU(inputs, hidden, layers), CellLoop(inputs, hidden, layers)
    fast, plain = LayerNormGRU(inputs, hidden, layers, **options), GRU(inputs, hidden, layers)
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)

    def step(layer: nn.Module) -> Callable[[], None]:
        def run() -> None:
            layer(x)[0].backward(dy)
            for parameter in layer.parameters():
                parameter.grad = None

        return run

    def with_same_backend() -> None:
        with gemm_backend(multiply_adds=batch * 3 * hidden * hidden):
            step(gru)()

    def products() -> None:
        with gemm_backend(multiply_adds=batch * 3 * hidden * hidden):
            _products(batch, bins, hidden, inputs, layers)

    sides = {"gru": step(gru), "fast": step(fast), "cell": step(cell), "same": with_same_backend}
    sides |= {"plain": step(plain), "products": products}
    if arguments.only:
        sides = {name: sides[name] for name in ("gru", "fast")}
    times = interleaved(sides, arguments.rounds, arguments.threads == 1)
    fast_time = times["fast"]
    ratios = [fast_time / times[name] for name in ("gru", "cell", "same") if name in times]
    ratios += [times["plain"] / times["gru"]] if "plain" in times else []
    cells = [", ".join(map(str, (batch, bins, hidden, inputs, layers))), f"{times['gru'] * 1e3:.2f}"]
    cells += [f"{ratio:.2f}" for ratio in ratios]
    if "products" in times:
        cells.append(f"{times['products'] / fast_time:.0%}")
    return f"| {' | '.join(cells)} |"


def _products(batch: int, bins: int, hidden: int, inputs: int, layers: int) -> None:
    """The matrix products of a training step alone, and nothing else: the floor."""
    h, dh, wide = torch.ones(batch, hidden), torch.ones(batch, hidden), torch.ones(batch, 3 * hidden)
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
    """A bin at batch 1 without gradients, H 128, I 96: what a live decoder does."""
    gru, cell, layer = nn.GRU(96, 128), CellLoop(96, 128, 1), LayerNormGRU(96, 128, bias=False)
    stepper, first = Stepper(layer), cast(nn.ModuleDict, cell.layers[0])
    x, h = torch.randn(1, 1, 96), torch.zeros(1, 1, 128)
    x_array, h_array = x[0, 0].numpy(), h[0].numpy()
    with torch.no_grad():
        sides = {
            "nn.GRU": lambda: gru(x, h),
            "cell": lambda: cell.cell(first, x[0], h[0]),
            "Stepper": lambda: stepper.step(x_array, h_array),
        }
        times = interleaved({name: _often(side) for name, side in sides.items()}, 9, one_thread=False)
    values = ", ".join(f"{name} {seconds * 1e3:.1f} us" for name, seconds in times.items())
    ratios = ", ".join(f"Stepper / {name} {times['Stepper'] / times[name]:.2f}" for name in ("nn.GRU", "cell"))
    return [f"one step, batch 1, H 128, I 96, no gradient: {values}; {ratios}"]


def _often(side: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(1000):
            side()

    return run


def memory() -> list[str]:
    """Peak memory of two training steps, each side in a process of its own (Linux)."""
    lines = []
    for shape in ("128,50,128,96", "64,256,256,192", "16,10,256,96"):
        command = [sys.executable, __file__, shape, "--memory-of"]
        sides = {"fast": "fast path", "loop": "reference loop", "gru": "nn.GRU"}
        peaks = {side: float(subprocess.check_output([*command, side], text=True)) for side in sides}
        values = ", ".join(f"{sides[side]} {peak:.0f} MB" for side, peak in peaks.items())
        lines.append(f"memory of a training step, {shape}: {values}; ratio {peaks['fast'] / peaks['loop']:.2f}")
    return lines


def _print_profile(shape: tuple[int, ...], plain: bool) -> None:
    """What a training step's time goes to, by PyTorch's own operations; the rest of it is Python's."""
    batch, bins, hidden, inputs, layers = (*shape, 1)[:5]
    layer = LayerNormGRU(inputs, hidden, layers, bias=plain, affine=not plain)
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)

    def step() -> None:
        layer(x)[0].backward(dy)
        layer.zero_grad()

    for _ in range(3):
        step()
    with torch.profiler.profile() as profile:
        for _ in range(10):
            step()
    found = sorted(profile.key_averages(), key=lambda operation: -operation.self_cpu_time_total)
    whole = sum(operation.self_cpu_time_total for operation in found)
    print("| operation | share of a step | calls a step | us a call |\n|---|---|---|---|")
    for operation in found[:14]:
        share, calls = operation.self_cpu_time_total / whole, operation.count / 10
        print(
            f"| {operation.key} | {share:.1%} | {calls:.0f} | {operation.self_cpu_time_total / operation.count:.1f} |"
        )


def _print_peak(side: str, shape: tuple[int, ...]) -> None:
    batch, bins, hidden, inputs, layers = (*shape, 1)[:5]
    layer = nn.GRU(inputs, hidden, layers) if side == "gru" else LayerNormGRU(inputs, hidden, layers, bias=False)
    layer._fast = side == "fast"  # type: ignore[assignment]
    LayerNormGRU(8, 8)(torch.ones(9, 2, 8))[0].sum().backward()  # the libraries' own buffers
    x, dy = torch.randn(bins, batch, inputs), torch.randn(bins, batch, hidden)
    before = _megabytes("VmRSS")
    for _ in range(2):
        layer(x)[0].backward(dy)
        layer.zero_grad()
    print(_megabytes("VmHWM") - before)


def _megabytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def autocast() -> list[str]:
    """bfloat16 autocast runs the loop; how far its outputs are off, and a training step's time to the fast path's."""
    layer, reference = LayerNormGRU(96, 128, bias=False), LayerNormGRU(96, 128, bias=False, dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    reference._fast = False
    x, dy = torch.randn(50, 128, 96), torch.randn(50, 128, 128)

    def run_cast() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)[0]
        y.backward(dy.to(y.dtype))

    true = reference(x.double())[0]
    errors = {"float32": (layer(x)[0] - true).norm() / true.norm()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors["bfloat16 autocast"] = (layer(x)[0] - true).norm() / true.norm()
    times = interleaved({"cast": run_cast, "fast": lambda: layer(x)[0].backward(dy)}, 5, one_thread=False)
    values = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return [
        f"relative error of 50 bins' outputs: {values}; time of an autocast step {times['cast'] / times['fast']:.2f}"
    ]


def interleaved(
    sides: dict[str, Callable[[], None]], rounds: int, one_thread: bool, wait: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Median seconds of one call of each side; `wait` returns when a device has done what it was given."""
    repeats = {}
    for name, side in sides.items():
        side()
        wait()
        started = time.perf_counter()
        side()
        wait()
        repeats[name] = max(1, min(50, round(0.03 / (time.perf_counter() - started))))
    times: dict[str, list[float]] = {name: [] for name in sides}
    kept = tried = 0
    while kept < rounds and tried < 4 * rounds:
        tried += 1
        this_round, busy = {}, False
        for name, side in sides.items():
            side()  # the caches that another side has filled
            wait()
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(repeats[name]):
                side()
            wait()
            wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
            busy |= one_thread and wall > 1.05 * cpu + 1e-4
            this_round[name] = wall / repeats[name]
        if not busy:
            kept += 1
            for name, seconds in this_round.items():
                times[name].append(seconds)
    if not kept:
        raise SystemExit("error: other processes held the processor in every round; stop them, then measure again")
    return {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", help="B,T,H,I or B,T,H,I,layers; default: the tables of docs/speed.md")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--key", action="store_true", help="the first seven shapes alone")
    parser.add_argument("--only", action="store_true", help="nn.GRU and the LayerNorm GRU alone")
    parser.add_argument(
        "--plain", action="store_true", help="no gain and bias in the norms, bias in the maps: the source study's"
    )
    parser.add_argument("--profile", action="store_true", help="what one shape's training step spends its time on")
    parser.add_argument("--memory-of", choices=("fast", "loop", "gru"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
