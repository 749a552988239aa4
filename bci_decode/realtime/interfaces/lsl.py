"""Lab Streaming Layer (extra `lsl`): counts or spikes come in, decoded movement goes out.

How other programs have to send:

- **Counts**: a stream of type "Counts", or of any type with a regular rate; a sample is a bin, its
  time stamp the bin's end, a channel a unit. Channels with labels like "M1 003/1" (channel/row) are
  matched to the decoder's units. Without such labels the number of channels must be the decoder's.
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
from bci_decode.realtime.interfaces.lsl_inlet import WAIT, Inlet, labels, pylsl
from bci_decode.realtime.interfaces.unit_labels import unit_labels, units_of
from bci_decode.realtime.stream.binner import SpikeBinner
from bci_decode.runs.load import LoadedRun

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

    `run` gives bins and units; `tolerance` and `max_gap` are those of `SpikeBinner`. Raises
    `BciDecodeError` where the stream does not appear within `timeout` s, or does not fit.
    """
    inlet = Inlet(name, timeout)
    kind = inlet.info.type().lower()
    events = kind in EVENTS or (kind != "counts" and inlet.info.nominal_srate() == 0)
    return LslSpikes(inlet, run, tolerance, max_gap) if events else LslCounts(inlet, run)


class LslCounts:
    """Source: each sample of a stream holds the counts (N,) of a bin.

    A bin's index follows from its time stamp. Where one is more than half a bin from its place,
    bins are missing, or the clock went back: `jumped`.
    """

    def __init__(self, inlet: Inlet, run: LoadedRun):
        self._inlet, self.name, self.bin_width = inlet, inlet.name, run.config.bin_width
        self.units = units_of(labels(inlet.info))
        channels, rate = inlet.info.channel_count(), inlet.info.nominal_srate()
        if inlet.is_text:
            raise _unfit(inlet, "its samples are text", "send counts as numbers")
        if self.units is None and channels != len(run.units):
            raise _unfit(
                inlet,
                f"has {channels} channels, the decoder {len(run.units)} units",
                'send one channel for each unit, or label the channels like "M1 003/1"',
            )
        if rate and abs(rate * self.bin_width - 1) > 0.01:
            raise _unfit(
                inlet,
                f"has {rate:g} samples/s, the decoder {1 / self.bin_width:g} bins/s",
                f"send one sample for each bin of {1000 * self.bin_width:g} ms",
            )

    def __iter__(self) -> Iterator[Bin]:
        index, expected = -1, None
        values = self._inlet.buffer(1)
        while True:
            samples, stamps = self._inlet.pull(values)
            if not stamps:
                continue
            arrived, stamp = time.perf_counter(), stamps[0]
            off = 0 if expected is None else round((stamp - expected) / self.bin_width)
            if off:
                self._report(off)
            index += 1 + max(off, 0)
            # a tenth of what remains: follows a drifting clock, not the jitter of each stamp
            place = stamp if expected is None or off < 0 else expected + off * self.bin_width
            expected = place + 0.1 * (stamp - place) + self.bin_width
            counts = samples[0].astype(np.float64)
            yield Bin(index, stamp, counts, jumped=off != 0, arrived=arrived)

    def _report(self, off: int) -> None:
        what = f"{off} bins are missing" if off > 0 else "its clock went back"
        log.warning("LSL stream '%s': %s", self._inlet.name, what)

    def close(self) -> None:
        """Disconnect."""
        self._inlet.close()


class LslSpikes:
    """Source: each sample of a stream is a spike, at its time stamp; bins them with `binner`.

    A bin is complete `tolerance` s after its end. While no spike comes, the computer's clock takes
    the place of time stamps, less the shortest delay with which spikes came so far, so that they
    may be on any clock. It does so for `max_gap` s of the binner at most: then the sender is dead.
    """

    def __init__(self, inlet: Inlet, run: LoadedRun, tolerance: float, max_gap: float):
        self._inlet, self.name, self.bin_width = inlet, inlet.name, run.config.bin_width
        self.units = units_of(labels(inlet.info, "units", "unit"))
        channels = inlet.info.channel_count()
        if channels > (1 if inlet.is_text else 2):
            raise _unfit(
                inlet,
                f"has {channels} channels, but spikes have 1 (unit) or 2 (channel and row)",
                'give a stream of counts the type "Counts" or its rate',
            )
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
                latest = max(stamps)
                if heard is not None and abs(latest - heard) < self.binner.max_gap:
                    delay = min(delay + DRIFT * abs(latest - heard), now - latest)
                else:
                    delay = now - latest  # the first spike, or another clock
                bins = self.binner.add(np.array(stamps), self._columns(samples), arrived)
                heard = latest
            elif heard is not None and now - delay < heard + self.binner.max_gap:
                bins = self.binner.advance(now - delay, arrived)
            else:
                due = None
                continue
            if bins:
                due = bins[-1].time + self.bin_width + self.binner.tolerance
            elif due is None:
                due = latest + self.bin_width + self.binner.tolerance
            yield from bins

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
        return lambda samples: np.nan_to_num(samples[:, 0], nan=-1.0).astype(np.int64)
    names = list(dict.fromkeys(units["channel"]))
    known = {
        (names.index(unit.channel), int(unit.row)): column
        for column, unit in enumerate(units.itertuples())
    }
    return lambda samples: np.array([known.get(tuple(pair), -1) for pair in samples.tolist()])


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
        about.append_child_value("run", str(decoder.run.folder))
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
