"""Check and measure the LayerNorm GRU on a GPU, where the layer runs its reference loop, against cuDNN's torch.nn.GRU.

First table: outputs and gradients in float32 against float64 on the CPU, the largest relative error (Frobenius) over one
and two layers, one and both directions, with and without `affine` and `batch_first`; above 1e-5 the exit code is 1.
Second table: a training step, forward and backward, of nn.GRU in ms, and of the loop in multiples of it: as it comes, as a
CUDA graph of forward and backward, and by torch.compile. Medians over rounds in which the sides take turns.

TF32 is off throughout, for cuDNN too. `--device cpu` runs all but the CUDA graph, with nn.GRU as PyTorch has it there.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from bench_layers import GRID, KEY, interleaved, processor  # beside this file
from torch import Tensor, nn

from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.layers import LayerNormGRU

CHECKED = [(1, 7, 8, 5, 1), (16, 10, 256, 96, 1), (32, 50, 128, 96, 1)]
TOLERANCE = 1e-5
PREFIXES = {"weight": "weights", "bias": "biases", "norm": "norms"}  # of the parameters' names
KINDS = ("output", "last state", "input", "first state", *PREFIXES.values())
Shape = tuple[int, ...]  # B sequences, T bins, H hidden_size, I inputs, layers


class States(nn.Module):
    """A recurrent layer's states at every bin alone: what the steps measured differentiate, and a graph can hold."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def loop(inputs: int, hidden: int, layers: int, **options: Any) -> LayerNormGRU:
    """The layer without its fast path for CPUs: the loop that a GPU runs."""
    layer = LayerNormGRU(inputs, hidden, layers, **options)
    layer._fast = False
    return layer


def errors(shape: Shape, device: str) -> dict[str, float]:
    """The largest relative error of each of KINDS, over layers, directions and options."""
    batch, bins, hidden, inputs = shape[:4]
    off: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for layers, both, affine, batch_first in itertools.product((1, 2), *[(False, True)] * 3):
        options: dict[str, Any] = {
            "bidirectional": both,
            "affine": affine,
            "bias": not affine,
            "batch_first": batch_first,
        }
        layer = loop(inputs, hidden, layers, **options)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if name.startswith("norm"):
                    parameter.add_(0.2 * torch.randn_like(parameter))  # else gains of 1 and biases of 0 hide their use
        x = torch.randn((batch, bins, inputs) if batch_first else (bins, batch, inputs))
        states = torch.randn(layers * (1 + both), batch, hidden)
        dy, dh = torch.randn(*x.shape[:2], hidden * (1 + both)), torch.randn_like(states)
        found = results(layer.to(device), *(tensor.to(device) for tensor in (x, states, dy, dh)))
        true = results(layer.to("cpu", torch.float64), *(tensor.double() for tensor in (x, states, dy, dh)))
        for name, tensor in true.items():
            kind = PREFIXES.get(name.split("_")[0], name)
            off[kind].append((found[name].cpu().double() - tensor).norm() / tensor.norm())
    return {kind: torch.stack(tensors).max().item() for kind, tensors in off.items()}  # NaN stays NaN


def results(layer: LayerNormGRU, x: Tensor, states: Tensor, dy: Tensor, dh: Tensor) -> dict[str, Tensor]:
    """Outputs and, named by what they are of, all gradients."""
    leaves = {"input": x.requires_grad_(), "first state": states.requires_grad_(), **dict(layer.named_parameters())}
    y, h = layer(x, states)
    gradients = torch.autograd.grad((y, h), list(leaves.values()), (dy, dh))
    return {"output": y.detach(), "last state": h.detach(), **dict(zip(leaves, gradients, strict=True))}


def times(shape: Shape, arguments: argparse.Namespace) -> list[str]:
    """The cells of a row: ms of nn.GRU, then multiples of it."""
    batch, bins, hidden, inputs, layers = shape
    x, dy = (torch.randn(bins, batch, columns, device=arguments.device) for columns in (inputs, hidden))

    def step(layer: Callable[[Tensor], Tensor], parameters: list[nn.Parameter]) -> Callable[[], None]:
        def run() -> None:
            layer(x).backward(dy)
            for parameter in parameters:
                parameter.grad = None

        return run

    kinds = {"nn.GRU": nn.GRU(inputs, hidden, layers), "loop": loop(inputs, hidden, layers)}
    if arguments.device == "cuda":
        kinds["graph"] = loop(inputs, hidden, layers)
    if bins <= arguments.compile:
        kinds["compiled"] = loop(inputs, hidden, layers)
    sides = {}
    for name, layer in kinds.items():
        module = States(layer).to(arguments.device)
        called: Callable = module
        if name == "graph":
            called = torch.cuda.make_graphed_callables(module, (x,))
        elif name == "compiled":
            torch.compiler.reset()  # each shape is a program of its own
            called = torch.compile(module, dynamic=False)
        sides[name] = step(called, list(layer.parameters()))
    wait: Callable[[], object] = torch.cuda.synchronize if arguments.device == "cuda" else lambda: None
    medians = interleaved(sides, arguments.rounds, False, wait)
    ratios = (medians[name] / medians["nn.GRU"] if name in medians else None for name in ("loop", "graph", "compiled"))
    return [f"{medians['nn.GRU'] * 1e3:.2f}", *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)]


def main() -> None:
    arguments = parsed()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    print(described(arguments.device))
    print(f"\n| B, T, H, I | {' | '.join(KINDS)} |\n|{'---|' * (1 + len(KINDS))}")
    every_error: list[float] = []
    for shape in arguments.shapes or CHECKED:
        found = errors(shape, arguments.device)
        every_error += found.values()
        print(row(shape[:4], [f"{error:.1e}" for error in found.values()]), flush=True)
    print("\n| B, T, H, I, layers | nn.GRU ms | loop / nn.GRU | CUDA graph | compiled |\n|---|---|---|---|---|")
    for shape in arguments.shapes or KEY + GRID:
        print(row(shape, times(shape, arguments)), flush=True)
    wrong = [error for error in every_error if not error < TOLERANCE]  # NaN too
    if wrong:
        raise SystemExit(
            f"error: {len(wrong)} results are off by up to {max(wrong):.1e}, relative; {TOLERANCE:.0e} is allowed"
        )


def row(shape: Shape, cells: list[str]) -> str:
    return f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |"


def described(device: str) -> str:
    if device == "cpu":
        return f"torch {torch.__version__}, {processor()}, {torch.get_num_threads()} thread(s)"
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"torch {torch.__version__}, {versions}, {torch.cuda.get_device_name()}, TF32 off"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "shapes", nargs="*", metavar="B,T,H,I[,layers]", help="to check and to time; default: those of bench_layers.py"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument(
        "--compile", type=int, nargs="?", const=64, default=0, metavar="T",
        help="torch.compile too, for shapes of up to T bins (default 64): it unrolls the loop, minutes for each",
    )  # fmt: skip
    arguments = parser.parse_args()
    for text in arguments.shapes:
        numbers = text.split(",")
        if len(numbers) not in (4, 5) or not all(number.isdecimal() and int(number) for number in numbers):
            raise BciDecodeError(
                "is no shape", field=text, remedy="give B,T,H,I or B,T,H,I,layers, such as 16,10,256,96"
            )
    arguments.shapes = [(*map(int, text.split(",")), 1)[:5] for text in arguments.shapes]
    if arguments.rounds < 1:
        raise BciDecodeError(f"is {arguments.rounds}", field="--rounds", remedy="give a whole number from 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise BciDecodeError("this PyTorch finds no GPU", field="--device cuda", remedy="use --device cpu")
    return arguments


if __name__ == "__main__":
    run_cli(main)
