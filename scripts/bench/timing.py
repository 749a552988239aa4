"""What the measuring scripts share: shapes to measure, and medians of sides that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from bci_decode.errors import BciDecodeError

Clock = Callable[[], float]  # in seconds
Shape = tuple[int, ...]  # B sequences, T bins, H hidden_size, I inputs, layers
KEY: list[Shape] = [
    (128, 50, 128, 96, 1), (64, 256, 256, 192, 1), (64, 256, 256, 192, 2), (16, 10, 256, 96, 1),
    (16, 10, 256, 480, 1), (32, 50, 128, 96, 1), (32, 64, 128, 96, 1), (1, 1000, 128, 96, 1),
]  # fmt: skip
GRID: list[Shape] = [
    (1, 50, 128, 96, 1), (32, 1000, 128, 96, 1), (128, 20, 128, 96, 1), (32, 20, 64, 96, 1),
    (1024, 50, 128, 96, 1), (128, 50, 512, 96, 1), (128, 50, 128, 960, 1), (16, 10, 256, 256, 1),
]  # fmt: skip


def parse_shapes(texts: list[str]) -> list[Shape]:
    """Shapes from B,T,H,I or B,T,H,I,layers; one layer by default."""
    for text in texts:
        numbers = text.split(",")
        sizes = [int(number) for number in numbers if number.isdecimal() and int(number)]
        if not len(sizes) == len(numbers) in (4, 5):
            remedy = "give B,T,H,I or B,T,H,I,layers, such as 16,10,256,96"
            raise BciDecodeError("is no shape", field=text, remedy=remedy)
    return [(*map(int, text.split(",")), 1)[:5] for text in texts]


def check_positive(**options: int) -> None:
    """Refuse options below 1."""
    for name, value in options.items():
        if value < 1:
            remedy = "give a whole number from 1"
            raise BciDecodeError(f"is {value}", field=f"--{name}", remedy=remedy)


def row(shape: Shape, cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {', '.join(map(str, shape))} | {' | '.join(cells)} |"


def training_step(
    outputs: Callable[[Tensor], Tensor], parameters: list[nn.Parameter], x: Tensor, dy: Tensor
) -> Callable[[], None]:
    """A function that runs forward and backward and deletes the gradients."""

    def run() -> None:
        outputs(x).backward(dy)
        for parameter in parameters:
            parameter.grad = None

    return run


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock = time.perf_counter,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds of one call of each side; in each round the sides take turns.

    The first call of a side is not measured: it may compile. `wait` returns when a device has
    finished.
    """

    def seconds(side: Callable[[], object], repeats: int) -> float:
        side()  # fills the caches
        wait()
        started = clock()
        for _ in range(repeats):
            side()
        wait()
        return clock() - started

    # as often as a side fits into 30 ms
    repeats = {
        name: max(1, min(50, round(0.03 / max(seconds(side, 1), 1e-6))))
        for name, side in sides.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(seconds(side, repeats[name]) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def clock_of(threads: int) -> Clock:
    """Processor time of the thread, which other processes disturb less; wall time of several."""
    return time.thread_time if threads == 1 else time.perf_counter


def processor() -> str:
    """The processor's name, where Linux gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")
