"""Measure whether N models of one shape train faster side by side, their weights batched, than one by one.

Batched: one process, whose N models stand in a leading dimension and whose products are torch.bmm. Separate: each model
by itself, on CPU in one-thread processes, as many at once as `--threads` says, on CUDA one after the other.

Both sides run the same operations of a training step of the source study's LayerNorm GRU: its matrix products and all
that is done bin by bin, there and back. Elementwise work over all bins at once, loss, optimiser, data, and the copies
that batching would need are left out: the batched time is a lower bound. Medians over rounds in which both take turns.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
from bench_layers import processor  # beside this file

from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.layers.cpu.matmul import gemm_backend

SHAPE = (16, 10, 256, 250)  # the source study's sequences, bins and hidden_size, and about its units
MODELS = {"cpu": [2, 4, 8], "cuda": [16, 47, 94]}
PAYS = 0.8  # batched / separate: what is left out gains nothing, so this is about a tenth off a whole training step
TURN = 0.2  # seconds that a side runs in one go


class TrainingStep:
    """The operations of a training step on one model, or on `models` of them in the leading dimension.

    shape: B sequences, T bins, H hidden_size, I inputs. As in `bci_decode.layers.cpu.autograd`, with bias, without norms' gains.
    """

    def __init__(self, shape: tuple[int, ...], models: int | None, device: str):
        sequences, bins, hidden, inputs = shape
        lead = () if models is None else (models,)

        def some(*sizes: int) -> torch.Tensor:
            return torch.rand(sizes, device=device) * 0.1

        self.weight_x, self.weight_h = some(*lead, 3 * hidden, inputs), some(*lead, hidden, 3 * hidden)
        self.weight_back, rows = self.weight_h.transpose(-1, -2).contiguous(), (*lead, bins * sequences)
        self.x, self.before, self.rows = some(*rows, inputs), some(*rows, hidden), some(*rows, 3 * hidden)
        self.bias, self.eps, self.minus = some(3 * hidden), some(3), torch.tensor(-1.0, device=device)
        self.means = torch.full((3, 3), 1 / hidden, device=device)
        per_bin, gates = (bins, *lead, sequences), 2 * hidden
        self.u, self.a, self.factor, self.da = (some(*per_bin, 3 * hidden) for _ in range(4))
        self.h, self.dh, self.dy = (some(bins + 1, *lead, sequences, hidden) for _ in range(3))
        self.stay, self.c = (some(*per_bin, hidden) for _ in range(2))
        self.zr, self.products = some(*per_bin, 2 * hidden), some(*lead, sequences, 3, hidden)
        self.squares, self.rs, self.mean = some(*lead, sequences, 3), some(*per_bin, 3), some(*lead, sequences, 3)
        self.product = torch.mm if models is None else torch.bmm
        self.add_product: Callable = torch.Tensor.addmm_ if models is None else torch.Tensor.baddbmm_
        a3, factor, da = (whole.unflatten(-1, (3, hidden)) for whole in (self.a, self.factor, self.da))
        forward = (
            self.h[:-1], self.a, a3, self.a[..., :gates], self.a[..., gates:],
            self.rs.flatten(1, -2), self.rs[..., None], self.u[..., :gates], self.u[..., gates:],
            self.zr, self.zr[..., :hidden], self.zr[..., hidden:], self.c, self.h[1:],
        )  # fmt: skip
        back = da, self.da, factor, a3, self.dh[1:], self.dh[1:].unsqueeze(-2), self.stay, self.dh
        self.bins = list(zip(*(view.unbind(0) for view in forward), strict=True))
        self.bins_back = list(zip(*(view.unbind(0)[:bins] for view in back), strict=True))[::-1]

    def __call__(self) -> None:
        self.product(self.x, self.weight_x.transpose(-1, -2), out=self.rows)
        self.a.copy_(self.bias)
        squares = self.squares.flatten(0, -2)
        for h, a, a3, a_gates, a_c, rs2, rs3, u_gates, u_c, zr, z, r, c, new in self.bins:
            self.add_product(a, h, self.weight_h)
            torch.linalg.vector_norm(a3, dim=-1, out=self.squares)
            torch.addmm(self.eps, squares.mul_(squares), self.means, out=rs2).rsqrt_()
            a3.mul_(rs3)
            torch.add(u_gates, a_gates, out=zr).sigmoid_()
            torch.addcmul(u_c, r, a_c, out=c).sigmoid_()
            torch.add(self.minus, c, alpha=2, out=c)
            torch.lerp(h, c, z, out=new)
        self.dh.copy_(self.dy)
        mean3 = self.mean[..., None]
        for da, da2, factor, a3, dh, dh3, stay, dh_before in self.bins_back:
            torch.mul(factor, dh3, out=da)  # recurrence.py overwrites the factor, which here serves the next step too
            torch.sum(torch.mul(da, a3, out=self.products), dim=-1, out=self.squares)
            torch.mm(squares, self.means, out=self.mean.flatten(0, -2))
            da.addcmul_(a3, mean3, value=-1)
            self.add_product(dh_before.addcmul_(dh, stay), da2, self.weight_back)
        self.product(self.rows.transpose(-1, -2), self.before)
        self.product(self.rows.transpose(-1, -2), self.x)


def seconds_of(step: TrainingStep, device: str) -> float:
    """Seconds of a call, the mean over those of a turn."""
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    batch, hidden = step.h.shape[-2:]
    with torch.no_grad(), gemm_backend("auto" if device == "cpu" else "default", batch * 3 * hidden * hidden):
        step()  # the caches, which another side has filled
        wait()
        calls, started = 0, time.perf_counter()
        while (took := time.perf_counter() - started) < TURN:
            step()
            wait()
            calls += 1
        return took / calls


def serve(connection: Connection, shape: tuple[int, ...]) -> None:
    """A process with a model of its own: measures whenever it is asked to."""
    torch.set_num_threads(1)
    step = TrainingStep(shape, None, "cpu")
    with suppress(EOFError):  # nobody is left to ask
        while connection.recv():
            connection.send(seconds_of(step, "cpu"))


def together(connections: list[Connection]) -> float:
    """Mean seconds of a step where all these processes run theirs at once."""
    for connection in connections:
        connection.send(True)
    return sum([connection.recv() for connection in connections]) / max(1, len(connections))


def main() -> None:
    arguments = parsed()
    device, shape, threads = arguments.device, tuple(arguments.shape), arguments.threads
    torch.set_num_threads(threads)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {threads} thread(s)"
    print(f"torch {torch.__version__}, {name}, B, T, H, I = {', '.join(map(str, shape))}")
    print("\n| models | batched ms | separate ms | ratio |\n|---|---|---|---|")
    processes: list[Connection] = []
    for _ in range(threads if device == "cpu" else 0):
        ours, theirs = multiprocessing.Pipe()
        multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, shape), daemon=True).start()
        theirs.close()  # so that a process that dies ends this one too
        processes.append(ours)
    together(processes)  # from now on all are ready
    ratios = {}
    for models in arguments.models:
        turns = math.ceil(models / threads) if processes else models  # of a core, or of the GPU
        batched, one, times = TrainingStep(shape, models, device), TrainingStep(shape, None, device), []
        for _ in range(arguments.rounds):
            separate = turns * (together(processes[:models]) if processes else seconds_of(one, device))
            times.append((seconds_of(batched, device), separate))
        batched_ms, separate_ms = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
        ratios[models] = batched_ms / separate_ms
        print(f"| {models} | {batched_ms:.2f} | {separate_ms:.2f} | {ratios[models]:.2f} |", flush=True)
    print(f"\n{verdict(ratios)}")


def verdict(ratios: dict[int, float]) -> str:
    pays = [str(models) for models, ratio in ratios.items() if ratio <= PAYS]
    found = f"batching pays for {', '.join(pays)} models" if pays else "batching does not pay"
    low, high = min(ratios.values()), max(ratios.values())
    return f"{found}: {low:.2f} to {high:.2f} of the separate time, a trainer for it would need {PAYS} or less"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option, cores = parser.add_argument, torch.get_num_threads()
    option("--models", type=int, nargs="+", metavar="N", help="default: 2 4 8; with cuda 16 47 94")
    option("--threads", type=int, default=cores, help="cores of either side (default: %(default)s)")
    option("--device", choices=("cpu", "cuda"), default="cpu")
    option("--rounds", type=int, default=9, help="default: %(default)s")
    option("--shape", type=int, nargs=4, default=SHAPE, help="B T H I; default: the source study's")
    arguments = parser.parse_args()
    arguments.models = arguments.models or MODELS[arguments.device]
    for field in ("models", "threads", "rounds", "shape"):
        if torch.tensor(value := getattr(arguments, field)).min() < 1:
            raise BciDecodeError(f"is {value}", field=f"--{field}", remedy="give whole numbers from 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise BciDecodeError("this PyTorch finds no GPU", field="--device cuda", remedy="use --device cpu")
    return arguments


if __name__ == "__main__":
    run_cli(main)
