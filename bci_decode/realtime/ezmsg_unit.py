"""A run as a unit of an ezmsg graph (extra `ezmsg`): counts come in, decoded movement goes out.

    class System(ez.Collection):
        DECODER = DecoderUnit(DecoderSettings(run="outputs/best/simulated/gru/seed0"))

A message is an AxisArray with the axes time (one entry for each bin) and ch (one for each unit).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.labels import units_of

try:
    import ezmsg.core as ez
    from ezmsg.util.messages.axisarray import AxisArray
    from ezmsg.util.messages.util import replace
except ImportError as error:
    raise BciDecodeError(
        "a unit of ezmsg needs ezmsg", remedy="pip install 'bci_decode[ezmsg]'"
    ) from error

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


class DecoderState(ez.State):
    """The decoder and where in the stream it is: s of the time axis."""

    decoder: StreamingDecoder | None = None
    next_bin: float | None = None


class DecoderUnit(ez.Unit):
    """Decodes the bins of each message in turn, and keeps its state from message to message.

    Channels with labels like "M1 003/1" (channel/row) are matched to the decoder's units; without
    such labels their number must be right. The output has the axes time and ch (the axes of the
    movement, with their unit).
    """

    SETTINGS = DecoderSettings
    STATE = DecoderState

    INPUT_SIGNAL = ez.InputStream(AxisArray)
    OUTPUT_SIGNAL = ez.OutputStream(AxisArray)

    async def initialize(self) -> None:
        """Load the run, in the process that the unit runs in."""
        if self.SETTINGS.input not in INPUTS:
            raise BciDecodeError(
                f"is {self.SETTINGS.input!r}", field="input", remedy=f"choose {' or '.join(INPUTS)}"
            )
        self.STATE.decoder = StreamingDecoder.load(self.SETTINGS.run, self.SETTINGS.engine)
        self.STATE.next_bin = None

    @ez.subscriber(INPUT_SIGNAL)
    @ez.publisher(OUTPUT_SIGNAL)
    async def on_signal(self, message: AxisArray) -> AsyncGenerator:
        """Decode a message."""
        yield self.OUTPUT_SIGNAL, self.decode(message)

    def decode(self, message: AxisArray) -> AxisArray:
        """The movement (time, axes) of a message (time, ch)."""
        if sorted(message.dims) != ["ch", "time"]:
            raise BciDecodeError(
                f"are {message.dims}", field="axes of the AxisArray", remedy="send (time, ch)"
            )
        decoder = self._fitting(message)
        self._notice_jump(message.axes["time"], message.shape[message.get_axis_idx("time")])
        counts = message.data if message.dims[0] == "time" else message.data.T
        if self.SETTINGS.input == "events/s":
            counts = np.rint(counts * decoder.bin_width)
        axes = {"time": message.axes["time"], "ch": _channels(decoder)}
        return replace(message, data=decoder.predict(counts), dims=["time", "ch"], axes=axes)

    def _fitting(self, message: AxisArray) -> StreamingDecoder:
        """The decoder for the units of a stream, after checking its bins in the first message."""
        decoder = self.STATE.decoder
        assert decoder is not None  # `initialize` made it
        if self.STATE.next_bin is None:
            gain = getattr(message.axes.get("time"), "gain", None)
            if gain is None or abs(gain / decoder.bin_width - 1) > 0.01:
                raise BciDecodeError(
                    f"is {gain}, the decoder's bins are {decoder.bin_width:g} s wide",
                    field="gain of the time axis",
                    remedy="send bins of that width",
                )
            names = getattr(message.axes.get("ch"), "data", None)
            units = None if names is None else units_of([str(name) for name in names])
            if units is not None:
                decoder = StreamingDecoder(decoder.run, self.SETTINGS.engine, units)
                self.STATE.decoder = decoder
        return decoder

    def _notice_jump(self, time: Any, bins: int) -> None:
        width, expected = time.gain, self.STATE.next_bin
        if expected is not None and abs(time.offset - expected) > width / 2:
            done = "the state is reset" if self.SETTINGS.reset_on_jump else "decoding goes on"
            ez.logger.warning(f"time jumps from {expected:.3f} to {time.offset:.3f} s: {done}")
            if self.SETTINGS.reset_on_jump and self.STATE.decoder is not None:
                self.STATE.decoder.reset()
        self.STATE.next_bin = time.offset + bins * width


def _channels(decoder: StreamingDecoder) -> Any:
    """The ch axis of the output: labels and unit of the decoded axes."""
    return AxisArray.CoordinateAxis(data=np.array(decoder.axes), dims=["ch"], unit=decoder.unit)
