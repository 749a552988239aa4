"""Check the LayerNorm GRU on a GPU, and measure it against cuDNN's torch.nn.GRU.

First table: the largest relative error (Frobenius) of outputs and gradients against float64 on the
CPU, over one and two layers, one and both directions, with and without `affine` and `batch_first`:
of the Triton kernels ("fused"), of the loop, and of the loop under autocast to bfloat16. If one in
float32 is above 1e-5, the exit code is 1. Second table: time of a training step of nn.GRU in ms,
and as multiples of it those of the kernels, of the loop (without changes, as a CUDA graph of
forward and backward, and with torch.compile), and of nn.GRU and the loop under autocast. Medians
over rounds in which the sides take turns. The aim is 1.5 for the
kernels; "-" is what does not run here.

TF32 is off, for cuDNN too. `--device cpu` runs everything except the kernels and the CUDA graph.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

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

from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.layers import LayerNormGRU
from bci_decode.layers.cuda import serves

CHECKED: list[Shape] = [(1, 7, 8, 5, 1), (16, 10, 256, 96, 1), (32, 50, 128, 96, 1)]
TOLERANCE = 1e-5
PREFIXES = {"weight": "weights", "bias": "biases", "norm": "norms"}  # of the parameters' names
KINDS = ("output", "last state", "input", "first state", *PREFIXES.values())
OPTIONS = ("bidirectional", "affine", "batch_first")
WAYS = ("fused", "loop", "loop, bfloat16")  # of the first table
SIDES = ("fused", "loop", "graph", "compiled", "nn.GRU, bfloat16", "loop, bfloat16")


class States(nn.Module):
    """Only the outputs of a recurrent layer, because a CUDA graph needs a module of tensors."""

    def __init__(self, layer: nn.Module, name: str):
        super().__init__()
        self.layer, self.autocast = layer, name.endswith("bfloat16")

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            return self.layer(x)[0]


def made(name: str, inputs: int, hidden: int, layers: int, **options: Any) -> nn.Module:
    """The layer of one of SIDES or WAYS."""
    if name.startswith("nn.GRU"):
        return nn.GRU(inputs, hidden, layers, **options)
    layer = LayerNormGRU(inputs, hidden, layers, **options)
    layer.use_fused = name == "fused"
    return layer


def fused_runs(device: str, hidden: int) -> bool:
    """Whether "fused" would be the kernels: where Triton is absent, it would be the loop."""
    x, weight = torch.empty(1, 1, 1, device=device), torch.empty(3 * hidden, hidden, device=device)
    return serves(x, None, weight)


def errors(shape: Shape, device: str, way: str) -> dict[str, float]:
    """The largest relative error of each of KINDS, over layers, directions and options."""
    result: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for layers, flags in itertools.product((1, 2), itertools.product((False, True), repeat=3)):
        layer, tensors = example(way, shape, layers, dict(zip(OPTIONS, flags, strict=True)))
        with torch.autocast(device, torch.bfloat16, enabled=way.endswith("bfloat16")):
            given = results(layer.to(device), *(tensor.to(device) for tensor in tensors))
        layer.use_fused = False  # type: ignore[assignment]
        true = results(layer.to("cpu", torch.float64), *(tensor.double() for tensor in tensors))
        for name, tensor in true.items():
            kind = PREFIXES.get(name.split("_")[0], name)
            result[kind].append((given[name].cpu().double() - tensor).norm() / tensor.norm())
    return {kind: torch.stack(values).max().item() for kind, values in result.items()}  # keeps NaN


def example(
    way: str, shape: Shape, layers: int, options: dict[str, bool]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A layer, and x, first states, dy and dh for it."""
    batch, bins, hidden, inputs = shape[:4]
    layer = made(way, inputs, hidden, layers, bias=not options["affine"], **options)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("norm"):  # gains of 1 and biases of 0 would hide errors in their use
                parameter.add_(0.2 * torch.randn_like(parameter))
    directions = 1 + options["bidirectional"]
    x = torch.randn((batch, bins, inputs) if options["batch_first"] else (bins, batch, inputs))
    states = torch.randn(layers * directions, batch, hidden)
    dy = torch.randn(*x.shape[:2], hidden * directions)
    return layer, (x, states, dy, torch.randn_like(states))


def results(
    layer: nn.Module, x: Tensor, states: Tensor, dy: Tensor, dh: Tensor
) -> dict[str, Tensor]:
    """Outputs and all gradients, by the name of the tensor."""
    leaves = {"input": x.requires_grad_(), "first state": states.requires_grad_()}
    leaves |= dict(layer.named_parameters())
    y, h = layer(x, states)
    factors = dy.to(y.dtype), dh.to(h.dtype)
    gradients = torch.autograd.grad((y, h), list(leaves.values()), factors)
    outputs = {"output": y.detach(), "last state": h.detach()}
    return outputs | dict(zip(leaves, gradients, strict=True))


def times(shape: Shape, arguments: argparse.Namespace) -> list[str]:
    """The cells of a row: ms of nn.GRU, then multiples of it."""
    batch, bins, hidden, inputs, layers = shape
    device = arguments.device
    x, dy = (torch.randn(bins, batch, columns, device=device) for columns in (inputs, hidden))
    absent = set() if fused_runs(device, hidden) else {"fused"}
    absent |= set() if device == "cuda" else {"graph"}
    absent |= set() if bins <= arguments.compile else {"compiled"}
    sides: dict[str, Callable[[], object]] = {}
    for name in ("nn.GRU", *(name for name in SIDES if name not in absent)):
        layer = made(name, inputs, hidden, layers).to(device)
        outputs: Callable = States(layer, name)
        if name == "graph":
            outputs = torch.cuda.make_graphed_callables(outputs, (x,))
        elif name == "compiled":
            torch.compiler.reset()  # each shape is its own program
            outputs = torch.compile(outputs, dynamic=False)
        dtype = outputs(x).dtype
        sides[name] = training_step(outputs, list(layer.parameters()), x, dy.to(dtype))
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    medians = interleaved(sides, arguments.rounds, wait=wait)
    base = medians["nn.GRU"]
    ratios = [f"{medians[name] / base:.2f}" if name in medians else "-" for name in SIDES]
    return [f"{base * 1e3:.2f}", *ratios]


def main() -> None:
    arguments = parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    print(machine(arguments.device))
    print(f"\n| B, T, H, I | | {' | '.join(KINDS)} |\n|{'---|' * (2 + len(KINDS))}")
    all_errors: list[float] = []
    for shape in arguments.shapes or CHECKED:
        for way in WAYS[0 if fused_runs(arguments.device, shape[2]) else 1 :]:
            largest = errors(shape, arguments.device, way)
            all_errors += [] if way.endswith("bfloat16") else largest.values()
            cells = [way, *(f"{error:.1e}" for error in largest.values())]
            print(row(shape[:4], cells), flush=True)
    columns = f"| B, T, H, I, layers | nn.GRU ms | {' | '.join(SIDES)} |"
    print(f"\n{columns}\n|{'---|' * (2 + len(SIDES))}")
    for shape in arguments.shapes or KEY + GRID:
        print(row(shape, times(shape, arguments)), flush=True)
    wrong = [error for error in all_errors if not error < TOLERANCE]  # NaN too
    if wrong:
        raise SystemExit(
            f"error: {len(wrong)} results have relative errors of up to {max(wrong):.1e}; "
            f"{TOLERANCE:.0e} is allowed"
        )


def machine(device: str) -> str:
    if device == "cpu":
        return f"torch {torch.__version__}, {processor()}, {torch.get_num_threads()} thread(s)"
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"torch {torch.__version__}, {versions}, {torch.cuda.get_device_name()}, TF32 off"


def parse_args() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    shapes = "to check and to measure; default: those of layers.py"
    parser.add_argument("shapes", nargs="*", metavar="B,T,H,I[,layers]", help=shapes)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument(
        "--compile", type=int, nargs="?", const=64, default=0, metavar="T",
        help="also torch.compile, for shapes of up to T bins (default 64); takes minutes for each",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.shapes = parse_shapes(arguments.shapes)
    check_positive(rounds=arguments.rounds)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        problem = "this PyTorch finds no GPU"
        raise BciDecodeError(problem, field="--device cuda", remedy="use --device cpu")
    return arguments


if __name__ == "__main__":
    run_cli(main)
