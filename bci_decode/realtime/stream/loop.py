"""The loop of live decoding: take a bin, decode it, hand it to the sinks.

Shapes: T bins, D axes of the target.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin, Decoded, Sink, Source
from bci_decode.realtime.stream.rows import Rows
from bci_decode.realtime.stream.stopping import StopSign, no_garbage_collection, stop_sign

log = logging.getLogger(__name__)

ON_JUMP = ("keep", "reset")
FIELDS = 5  # of a row: index, time, latency, missed, jumped; then the output and the truth
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


class Stepper(Protocol):
    """What the loop needs of a decoder: `realtime.decoder.StreamingDecoder` has it."""

    @property
    def axes(self) -> tuple[str, ...]: ...
    def step(self, counts: np.ndarray) -> np.ndarray: ...
    def prepare(self) -> None: ...
    def reset(self) -> None: ...


@dataclass(frozen=True, eq=False)
class LiveSummary:
    """What a stream was: an entry or a row for each decoded bin.

    `index` (T,) and `time` (T,) s are those of the bins, `latency` (T,) is in s, `missed` (T,) says
    whether the output came after the deadline, `decoded` and `true` (T, D) are in the target's
    unit; `true` is NaN where it is unknown. `deadline` is in s after a bin's end, None without one.
    `jumps` counts the bins before which the clock jumped. `interrupted`: by Ctrl-C or SIGTERM.
    `error` is what ended the stream before its end, None for nothing.
    """

    index: np.ndarray
    time: np.ndarray
    latency: np.ndarray
    missed: np.ndarray
    decoded: np.ndarray
    true: np.ndarray
    deadline: float | None
    jumps: int
    interrupted: bool
    error: Exception | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def latency_us(self) -> dict[str, float]:
        """Percentiles of the latency in microseconds: p50, p95, p99 and max."""
        if not len(self):
            return dict.fromkeys(PERCENTILES, float("nan"))
        values = np.percentile(1e6 * self.latency, list(PERCENTILES.values()))
        return dict(zip(PERCENTILES, values.tolist(), strict=True))


def run_live(
    decoder: Stepper | Any, source: Source, sinks: Sequence[Sink] = (), on_jump: str = "keep"
) -> LiveSummary:
    """Decode a source until it ends, and close it and its sinks, the last sink first.

    The latency of a bin lasts from its `arrived`, where the source sets it, until the output is
    there; then the sinks get it, and the decoder prepares the next step. A source may have a
    `deadline`, s after a bin's end or None for no deadlines; by default it is the end of the next
    bin. Where the clock jumped, the decoder keeps its state or, with `on_jump` "reset", is reset.

    An error of source, decoder or a sink ends the stream and is returned as `LiveSummary.error`,
    with all bins before it: raise it once they are saved. Ctrl-C and SIGTERM are the normal end of
    a live stream: the bin in work is finished, and the summary is returned as at any other end. A
    second one, more than a second later, raises `KeyboardInterrupt`. Results grow on disk, so that
    the loop's memory stays the same; garbage is not collected meanwhile.
    """
    if on_jump not in ON_JUMP:
        remedy = f"choose {' or '.join(ON_JUMP)}"
        raise BciDecodeError(f"is {on_jump!r}", field="on_jump", remedy=remedy)
    axes, error = len(decoder.axes), None
    deadline = getattr(source, "deadline", source.bin_width)
    with stop_sign() as sign, closing(Rows(FIELDS + 2 * axes)) as rows:
        try:
            with ExitStack() as ends:
                for sink in sinks:
                    ends.callback(sink.close)
                ends.callback(source.close)
                ends.enter_context(no_garbage_collection())
                for bin_ in _bins(source, sign):
                    if bin_.jumped:
                        _jump(decoder, bin_, on_jump)
                    decoded = _decode(decoder, bin_, deadline)
                    for sink in sinks:
                        sink.write(decoded)
                    decoder.prepare()
                    _keep(rows, decoded)
        except Exception as failure:
            error = failure
        return _summary(rows.read(), axes, deadline, sign.asked, error)


def _decode(decoder: Stepper | Any, bin_: Bin, deadline: float | None) -> Decoded:
    output = decoder.step(bin_.counts)
    latency = perf_counter() - bin_.arrived
    return Decoded(bin_, output, latency, deadline is not None and latency > deadline)


def _keep(rows: Rows, decoded: Decoded) -> None:
    """Write a bin as a row: `FIELDS` numbers, the output, the truth."""
    bin_, row, known = decoded.bin, rows.next(), FIELDS + len(decoded.output)
    row[:FIELDS] = bin_.index, bin_.time, decoded.latency, decoded.missed, bin_.jumped
    row[FIELDS:known] = decoded.output
    row[known:] = np.nan if bin_.true is None else bin_.true


def _bins(source: Source, sign: StopSign) -> Iterator[Bin]:
    bins = iter(source)
    while (bin_ := _next(bins, sign)) is not None:
        yield bin_


def _next(bins: Any, sign: StopSign) -> Bin | None:
    """The next bin; None at the end of the stream or at a signal."""
    try:
        sign.waiting = True
        found = None if sign.asked else next(bins, None)
        sign.waiting = False
    except KeyboardInterrupt:
        if not sign.asked:  # not by this sign: nothing handles signals in this thread
            raise
        found = None
    finally:
        sign.waiting = False
    if found is not None and not found.arrived:
        return Bin(found.index, found.time, found.counts, found.true, found.jumped, perf_counter())
    return found


def _jump(decoder: Stepper | Any, bin_: Bin, on_jump: str) -> None:
    done = "is reset" if on_jump == "reset" else "keeps its state"
    log.warning(
        "a gap in the stream before bin %d (%.3f s): the decoder %s",
        bin_.index + 1,
        bin_.time,
        done,
    )
    if on_jump == "reset":
        decoder.reset()


def _summary(
    rows: np.ndarray, axes: int, deadline: float | None, interrupted: bool, error: Exception | None
) -> LiveSummary:
    index, time, latency, missed, jumped = rows[:, :FIELDS].T
    return LiveSummary(
        index=index.astype(np.int64),
        time=time,
        latency=latency,
        missed=missed.astype(bool),
        decoded=rows[:, FIELDS : FIELDS + axes],
        true=rows[:, FIELDS + axes :],
        deadline=deadline,
        jumps=int(jumped.sum()),
        interrupted=interrupted,
        error=error,
    )
