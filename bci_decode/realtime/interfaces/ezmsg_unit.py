"""A run as a unit of an ezmsg graph (extra `ezmsg`): counts come in, decoded movement goes out.

    class System(ez.Collection):
        DECODER = DecoderUnit(DecoderSettings(run="outputs/best/simulated/gru/seed0"))

A message is an AxisArray with the axes time (one entry for each bin) and ch (one for each unit).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.interfaces.unit_labels import units_of

try:
    import ezmsg.core as ez
    from ezmsg.util.messages.axisarray import AxisArray
    from ezmsg.util.messages.util import replace
except ImportError as error:
    raise BciDecodeError(
        "a unit of ezmsg needs ezmsg", remedy="pip install 'bci_decode[ezmsg]'"
    ) from error

log = logging.getLogger(__name__)

INPUTS = ("counts", "events/s")


class DecoderSettings(ez.Settings):
    """What a `DecoderUnit` decodes with.

    `run` is a run's folder, `engine` that of `StreamingDecoder`. `input` says what the numbers are:
    "counts" of spikes in a bin, or "events/s", the default of ezmsg-event. `reset_on_jump` forgets
    the state when bins are missing or the clock goes back; otherwise decoding goes on.
    """

    run: str
    engine: str = "fast"
    input: str = "counts"
    reset_on_jump: bool = False


class MessageDecoder:
    """Decodes the bins of each message in turn, and keeps its state from message to message.

    Channels with labels like "M1 003/1" (channel/row) are matched to the decoder's units; without
    such labels their number must be right. Raises `BciDecodeError` for messages that do not fit.
    """

    def __init__(self, settings: DecoderSettings):
        if settings.input not in INPUTS:
            raise BciDecodeError(
                f"is {settings.input!r}", field="input", remedy=f"choose {' or '.join(INPUTS)}"
            )
        self.settings = settings
        self.decoder = StreamingDecoder.load(settings.run, settings.engine)
        self._next_bin: float | None = None  # s of the time axis

    def __call__(self, message: AxisArray) -> AxisArray:
        """The movement (time, ch) of a message: ch are its axes, with their unit."""
        if sorted(message.dims) != ["ch", "time"]:
            raise BciDecodeError(
                f"are {message.dims}", field="axes of the AxisArray", remedy="send time and ch"
            )
        counts = message.data if message.dims[0] == "time" else message.data.T
        if self._next_bin is None:
            self._fit(message)
        self._notice_jump(message.axes["time"], len(counts))
        if self.settings.input == "events/s":
            counts = np.rint(counts * self.decoder.bin_width)
        axes = {"time": message.axes["time"], "ch": _channels(self.decoder)}
        decoded = self.decoder.predict(counts)
        return replace(message, data=decoded, dims=["time", "ch"], axes=axes)

    def _fit(self, message: AxisArray) -> None:
        """Check the bins of the first message, and put its units in order."""
        gain, width = getattr(message.axes.get("time"), "gain", None), self.decoder.bin_width
        if gain is None or abs(gain / width - 1) > 0.01:
            raise BciDecodeError(
                f"is {gain}, the decoder's bins are {width:g} s wide",
                field="gain of the time axis",
                remedy="send bins of that width",
            )
        names = getattr(message.axes.get("ch"), "data", None)
        units = None if names is None else units_of([str(name) for name in names])
        if units is not None:
            self.decoder = StreamingDecoder(self.decoder.run, self.settings.engine, units)

    def _notice_jump(self, time: Any, bins: int) -> None:
        expected = self._next_bin
        if expected is not None and abs(time.offset - expected) > time.gain / 2:
            done = "the state is reset" if self.settings.reset_on_jump else "decoding goes on"
            log.warning("time jumps from %.3f to %.3f s: %s", expected, time.offset, done)
            if self.settings.reset_on_jump:
                self.decoder.reset()
        self._next_bin = time.offset + bins * time.gain


class DecoderState(ez.State):
    """What a `DecoderUnit` keeps between messages."""

    decode: MessageDecoder


class DecoderUnit(ez.Unit):
    """A `MessageDecoder` with an input and an output."""

    SETTINGS = DecoderSettings
    STATE = DecoderState

    INPUT_SIGNAL = ez.InputStream(AxisArray)
    OUTPUT_SIGNAL = ez.OutputStream(AxisArray)

    async def initialize(self) -> None:
        """Load the run, in the process that the unit runs in."""
        self.STATE.decode = MessageDecoder(self.SETTINGS)  # type: ignore[arg-type]

    @ez.subscriber(INPUT_SIGNAL)
    @ez.publisher(OUTPUT_SIGNAL)
    async def on_signal(self, message: AxisArray) -> AsyncGenerator:
        """Decode a message."""
        yield self.OUTPUT_SIGNAL, self.STATE.decode(message)


def _channels(decoder: StreamingDecoder) -> Any:
    """The ch axis of the output: labels and unit of the decoded axes."""
    return AxisArray.CoordinateAxis(data=np.array(decoder.axes), dims=["ch"], unit=decoder.unit)
