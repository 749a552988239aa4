"""A run as a unit of an ezmsg graph (extra `ezmsg`): counts in, decoded movement out.

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
from bci_decode.realtime.interfaces.count_window import CountWindow
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
    the state when bins are missing or the clock goes back; otherwise decoding continues with it.
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
        self._window = CountWindow(self.decoder.config, len(self.decoder.units))
        self._channels: Any = None  # ch axis of the messages
        self._next_bin: float | None = None  # s of the time axis

    def __call__(self, message: AxisArray) -> AxisArray:
        """The movement (time, ch) of a message: ch are its axes, with their unit.

        A message that is refused changes nothing.
        """
        if sorted(message.dims) != ["ch", "time"]:
            raise BciDecodeError(
                f"are {message.dims}", field="axes of the AxisArray", remedy="send time and ch"
            )
        data = np.asarray(message.data)
        if data.ndim != 2 or data.dtype.kind not in "uifb":
            raise BciDecodeError(
                f"has shape {data.shape} and type {data.dtype}",
                field="data of the AxisArray",
                remedy="send numbers (time, ch)",
            )
        counts = data if message.dims[0] == "time" else data.T
        time, channels = message.axes.get("time"), message.axes.get("ch")
        self._check_width(time)
        if self._next_bin is None:
            self._fit(channels)
        elif channels is not self._channels and _labels(channels) != _labels(self._channels):
            raise BciDecodeError(
                "are not those of the first message",
                field="labels of the ch axis",
                remedy="send the same channels in every message, or start the decoder again",
            )
        if self.settings.input == "events/s":
            counts = np.rint(counts * self.decoder.bin_width)
        counts = self._window.checked(counts)
        self._notice_jump(time, len(counts))
        axes = {"time": time, "ch": _output_axis(self.decoder)}
        decoded = self.decoder.predict(np.array([self._window.add(row) for row in counts]))
        return replace(message, data=decoded, dims=["time", "ch"], axes=axes)

    def _check_width(self, time: Any) -> None:
        """Refuse bins that are not the decoder's."""
        gain, width = getattr(time, "gain", None), self.decoder.bin_width
        if gain is None or not abs(gain / width - 1) <= 0.01:
            raise BciDecodeError(
                f"is {gain}, the decoder's bins are {width:g} s wide",
                field="gain of the time axis",
                remedy="send bins of that width",
            )
        if not np.isfinite(time.offset):
            raise BciDecodeError(
                f"is {time.offset}",
                field="offset of the time axis",
                remedy="send the time of the first bin in s",
            )

    def _fit(self, channels: Any) -> None:
        """Put the units of the first message in order."""
        labels = _labels(channels)
        units = None if labels is None else units_of(labels, "labels of the ch axis")
        if units is not None:
            self.decoder = StreamingDecoder(self.decoder.run, self.settings.engine, units)
            self._window = CountWindow(self.decoder.config, len(units))
        self._channels = channels

    def _notice_jump(self, time: Any, bins: int) -> None:
        expected = self._next_bin
        if expected is not None and abs(time.offset - expected) > time.gain / 2:
            reset = self.settings.reset_on_jump
            done = "the state is reset" if reset else "decoding continues with the same state"
            log.warning("time jumps from %.3f to %.3f s: %s", expected, time.offset, done)
            self._window.reset()
            if reset:
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


def _labels(channels: Any) -> list[str] | None:
    """The labels of a ch axis, None without any."""
    names = getattr(channels, "data", None)
    return None if names is None else [str(name) for name in names]


def _output_axis(decoder: StreamingDecoder) -> Any:
    """The ch axis of the output: labels and unit of the decoded axes."""
    return AxisArray.CoordinateAxis(data=np.array(decoder.axes), dims=["ch"], unit=decoder.unit)
