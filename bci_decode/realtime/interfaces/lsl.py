"""Lab Streaming Layer (extra `lsl`): receive counts or spikes, send the decoded movement.

How other programs have to send:

- **Counts**: a stream of type "Counts", or of any type with a regular rate; a sample is a bin, its
  time stamp the bin's end, a channel a unit. Counts are those of this bin alone. Channels with
  labels like "M1 003/1" (channel/row) are matched to the decoder's units. Without such labels the
  number of channels must be the decoder's.
- **Spikes**: a stream of type "Spikes" or "Markers", or of any type with an irregular rate; a
  sample is a spike, its time stamp the time of the spike. One channel of numbers is the unit,
  counted from 0; two are channel and row, the channel counted from 0; one channel of text is a
  label like "M1 003/1". Units are those in the description (desc/units/unit/label), or else the
  decoder's.

Shapes: N units, D axes of the target.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.interfaces.count_window import CountWindow
from bci_decode.realtime.interfaces.lsl_clock import AGREE, LATEST, SampleClock
from bci_decode.realtime.interfaces.lsl_inlet import WAIT, Inlet, described_labels, pylsl
from bci_decode.realtime.interfaces.unit_labels import unit_labels, units_of
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.runs.loaded_run import LoadedRun

log = logging.getLogger(__name__)

EVENTS = ("spikes", "markers", "events")  # types of streams whose samples are events
MOST = 1024  # spikes that are taken at a time
SHORTEST = 0.0005  # s that a call waits for spikes at least
DRIFT = 2e-4  # s per s by which two clocks may drift apart
SENT = 0.2  # s in which liblsl delivers what was pushed last


def open_lsl(
    name: str, run: LoadedRun, timeout: float = 10.0, tolerance: float = 0.005, max_gap: float = 1.0
) -> LslCounts | LslSpikes:
    """The source of a stream: its type or else its rate says whether samples are counts or spikes.

    `run` gives bins and units; `tolerance` and `max_gap` are those of `SpikeBinner`, `max_gap` also
    that of `SampleClock`. Raises `BciDecodeError` where the stream does not appear within `timeout`
    s, or does not fit.
    """
    inlet = Inlet(name, timeout)
    kind = inlet.info.type().lower()
    events = kind in EVENTS or (kind != "counts" and inlet.info.nominal_srate() == 0)
    if events:
        return LslSpikes(inlet, run, tolerance, max_gap)
    return LslCounts(inlet, run, max_gap)


def check_names(lsl_in: str | None, lsl_out: str | None) -> None:
    """Refuse an output with the name of the input: the decoder would then find its own output."""
    if lsl_in is not None and lsl_in == lsl_out:
        raise BciDecodeError(
            f"'{lsl_out}' is the name of --lsl-in, too",
            field="--lsl-out",
            remedy="choose another name for the output",
        )


class LslCounts:
    """Source: each sample of a stream holds the counts (N,) of a bin.

    Samples are counted, and `SampleClock` finds from the time stamps where bins are missing or the
    clock went back: `jumped`. A bin's `time` is its stamp. It `arrived` when it came to this
    computer, even if the decoder took it later.
    """

    def __init__(self, inlet: Inlet, run: LoadedRun, max_gap: float = 1.0):
        self._inlet, self.name, self.bin_width = inlet, inlet.name, run.config.bin_width
        self.units = _described_units(inlet, "channels", "channel")
        channels, rate = inlet.info.channel_count(), inlet.info.nominal_srate()
        if inlet.is_text:
            raise _unfit(inlet, "its samples are text", "send counts as numbers")
        if self.units is not None and channels != len(self.units):
            raise _unfit(
                inlet,
                f"has {channels} channels, but labels for {len(self.units)} of them",
                "label each channel, or none",
            )
        if self.units is None and channels != len(run.units):
            raise _unfit(
                inlet,
                f"has {channels} channels, the decoder {len(run.units)} units",
                'send one channel for each unit, or label the channels like "M1 003/1"',
            )
        if rate and not abs(rate * self.bin_width - 1) <= 0.01:  # NaN, too
            raise _unfit(
                inlet,
                f"has {rate:g} samples/s, the decoder {1 / self.bin_width:g} bins/s",
                f"send one sample for each bin of {1000 * self.bin_width:g} ms",
            )
        self._window = CountWindow(run.config, channels)
        self._clock = SampleClock(self.name, self.bin_width, max_gap)

    def __iter__(self) -> Iterator[Bin]:
        local_clock, values, clock = pylsl().local_clock, self._inlet.buffer(1), self._clock
        before = -math.inf  # when the sample before came, on the computer's clock
        caught_up, delay = -math.inf, math.inf  # at the latest bin that was waited for
        while True:
            waiting = self._inlet.has_samples()
            samples, stamps = self._inlet.pull(values)
            if not stamps:
                continue
            now, arrived = local_clock(), time.perf_counter()
            jumped = clock.add(stamps[0], now - before)
            if jumped is None:
                continue
            before = now
            if jumped or not waiting or math.isinf(delay):  # it has just come, or is the first
                caught_up, delay = now, now - clock.place
            late = min(max(now - clock.place - delay, 0.0), now - caught_up)
            counts = self._window.checked(samples[0].astype(np.float64))
            if jumped:
                self._report(jumped)
                self._window.reset()
            counts = self._window.add(counts)
            yield Bin(clock.index, clock.time, counts, jumped=jumped != 0, arrived=arrived - late)

    def _report(self, jumped: int) -> None:
        what = "its clock went back"
        if jumped > 0:
            what = "1 bin is missing" if jumped == 1 else f"{jumped} bins are missing"
        log.warning("LSL stream '%s': %s", self._inlet.name, what)

    def close(self) -> None:
        """Disconnect."""
        if self._clock.ignored > 1:
            text = "LSL stream '%s': %d time stamps were ignored in all"
            log.warning(text, self.name, self._clock.ignored)
            self._clock.ignored = 0
        self._inlet.close()


class LslSpikes:
    """Source: each sample of a stream is a spike, at its time stamp; bins them with `binner`.

    A bin is complete `tolerance` s after its end. While no spike comes, the computer's clock takes
    the place of time stamps, less the shortest delay with which spikes came so far, so that they
    may be on any clock. It does so for `max_gap` s of the binner at most: then the sender is dead.
    """

    def __init__(self, inlet: Inlet, run: LoadedRun, tolerance: float, max_gap: float):
        self._inlet, self.name, self.bin_width = inlet, inlet.name, run.config.bin_width
        self.units = _described_units(inlet, "units", "unit")
        channels = inlet.info.channel_count()
        if channels > (1 if inlet.is_text else 2):
            raise _unfit(
                inlet,
                f"has {channels} channels, but spikes have 1 (unit) or 2 (channel and row)",
                'give a stream of counts the type "Counts" or its rate',
            )
        self._strays = 0  # time stamps in a row that are far from the one before them
        units = run.units if self.units is None else self.units
        self._columns = _text_columns(units) if inlet.is_text else _number_columns(units, channels)
        self.binner = SpikeBinner(
            len(units),
            self.bin_width,
            tolerance=tolerance,
            max_gap=max_gap,
            presence=run.config.presence,
            count_window=run.config.count_window,
        )

    def __iter__(self) -> Iterator[Bin]:
        clock, values = pylsl().local_clock, self._inlet.buffer(MOST)
        heard = due = None  # time stamp of the latest spike, and when the next bin is complete
        delay = math.inf  # from the stream's clock to this computer's
        while True:
            wait = WAIT if due is None else min(max(due + delay - clock(), SHORTEST), WAIT)
            samples, stamps = self._inlet.pull(values, wait)
            now, arrived, bins = clock(), time.perf_counter(), []
            if stamps:
                times = np.array(stamps)
                times[~(np.abs(times) < LATEST)] = np.nan  # the binner drops and counts them
                latest = self._latest(times, heard)
                if heard is None or latest is None or abs(latest - heard) >= self.binner.max_gap:
                    delay = delay if latest is None else now - latest  # first, or another clock
                else:
                    delay = min(delay + DRIFT * abs(latest - heard), now - latest)
                bins = self.binner.add(times, self._columns(samples), arrived)
                heard = heard if latest is None else latest
            elif heard is not None and now - delay < heard + self.binner.max_gap:
                bins = self.binner.advance(now - delay, arrived)
            else:
                due = None
                continue
            if bins:
                due = bins[-1].time + self.bin_width + self.binner.tolerance
            elif due is None and heard is not None:
                due = heard + self.bin_width + self.binner.tolerance
            yield from bins

    def _latest(self, times: np.ndarray, heard: float | None) -> float | None:
        """The latest of some time stamps; None if none is a time, or all are strays.

        Stamps far from the one `heard` before are believed as the binner does: if several in a row
        are.
        """
        sound = times[np.isfinite(times)]
        near = sound if heard is None else sound[np.abs(sound - heard) < self.binner.max_gap]
        self._strays = 0 if len(near) else self._strays + len(sound)
        if len(near) or self._strays < AGREE:
            return float(near.max()) if len(near) else None
        self._strays = 0
        return float(sound[-1])

    def close(self) -> None:
        """Disconnect."""
        self._inlet.close()


def _text_columns(units: pd.DataFrame) -> Callable[[Any], np.ndarray]:
    """The columns of samples that are labels of units; -1 where there is none."""
    known = {label: column for column, label in enumerate(unit_labels(units))}
    return lambda samples: np.array([known.get(sample[0].strip(), -1) for sample in samples])


def _number_columns(units: pd.DataFrame, channels: int) -> Callable[[Any], np.ndarray]:
    """The columns of samples (E, 1), a unit, or (E, 2), a channel and a row; -1 where none is."""
    if channels == 1:
        return lambda samples: _whole(samples[:, 0], len(units))
    names = list(dict.fromkeys(units["channel"]))
    known = {
        (names.index(unit.channel), int(unit.row)): column
        for column, unit in enumerate(units.itertuples())
    }
    return lambda samples: np.array([known.get(tuple(pair), -1) for pair in samples.tolist()])


def _whole(values: np.ndarray, units: int) -> np.ndarray:
    """Values that are whole numbers from 0 to units - 1 as such, all others as -1."""
    sound = (values >= 0) & (values < units) & (values == np.floor(values))
    return np.where(sound, values, -1).astype(np.int64)


def _described_units(inlet: Inlet, group: str, item: str) -> pd.DataFrame | None:
    """The units that a stream's description lists, None where it lists none."""
    return units_of(described_labels(inlet.info, group, item), f"LSL stream '{inlet.name}'")


def _unfit(inlet: Inlet, problem: str, remedy: str) -> BciDecodeError:
    return BciDecodeError(problem, field=f"LSL stream '{inlet.name}'", remedy=remedy)


class LslOutlet:
    """Sink: a stream of the decoded movement, one sample (D,) for each bin.

    Its time stamps are those of the input's bins. The description holds label and unit of each
    axis, bin width and lag. Its source_id depends on `name` alone, so that receivers find it again
    after a restart.
    """

    def __init__(self, name: str, decoder: Any):
        lsl = pylsl()
        rate, axes = 1 / decoder.bin_width, tuple(decoder.axes)
        info = lsl.StreamInfo(
            name, "Kinematics", len(axes), rate, "double64", source_id=f"bci_decode/{name}"
        )
        channels = info.desc().append_child("channels")
        for axis in axes:
            channel = channels.append_child("channel")
            channel.append_child_value("label", str(axis))
            channel.append_child_value("unit", decoder.unit)
            channel.append_child_value("type", decoder.target)
        about = info.desc().append_child("decoder")
        about.append_child_value("run", str(decoder.run.source))
        about.append_child_value("bin_width_s", f"{decoder.bin_width:g}")
        about.append_child_value("lag_s", f"{decoder.lag:g}")
        about.append_child_value("time_stamp", "end of the bin")
        self._outlet = lsl.StreamOutlet(info, chunk_size=1)

    def write(self, decoded: Decoded) -> None:
        """Publish a bin; returns at once, whether or not anyone receives."""
        self._outlet.push_sample(decoded.output.tolist(), decoded.bin.time)

    def close(self) -> None:
        """End the stream, once receivers have what was written."""
        if self._outlet is not None and self._outlet.have_consumers():
            time.sleep(SENT)  # liblsl cannot tell when all is sent
        self._outlet = None
