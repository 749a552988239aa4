"""Find a Lab Streaming Layer stream by its name, and keep receiving it when its sender restarts.

The extra `lsl` (pylsl) is needed; LSL's own configuration file (LSLAPICFG) says where it looks.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from typing import Any

import numpy as np

from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)

WAIT = 0.2  # s that one call waits at most, so that Ctrl-C is noticed
SILENCE = 1.0  # s without a sample after which another stream of the same name is looked for
OPENING = 5.0  # s for the description of a stream that is there
TWINS = 2.0  # s after the start in which other streams of the same name are looked for
MANY = 1024  # strings that one call returns at most
MOST_CHANNELS, HIGHEST_RATE = 100_000, 100_000  # of a stream; samples/s
BUFFER, BUFFERED = 360, 1_000_000  # s and samples that may wait; liblsl allocates all at the start


def pylsl() -> Any:
    """The library, or how to install it."""
    try:
        import pylsl as library
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no liblsl
        raise BciDecodeError(
            "Lab Streaming Layer needs pylsl and liblsl",
            remedy="pip install 'bci_decode[lsl]'; on Linux without x86-64 install both yourself",
        ) from error
    return library


def find_stream(name: str, timeout: float) -> Any:
    """The description (`pylsl.StreamInfo`) of the stream called `name`.

    Of several, it is the first that answers. Raises `BciDecodeError` where none appears within
    `timeout` s, and lists those that are there.
    """
    if not 0 < timeout < math.inf:
        raise BciDecodeError(
            f"is {timeout:g} s", field="--timeout", remedy="give a finite number of seconds above 0"
        )
    library, stop = pylsl(), time.monotonic() + timeout
    while True:
        left = stop - time.monotonic()
        wait = min(max(left, 0.1), 1.0)
        found = library.resolve_bypred(_has_name(name), timeout=wait)
        if found:
            return found[0]
        if left <= 1.0:
            break
    there = sorted({f"'{info.name()}'" for info in library.resolve_streams(wait_time=0.5)})
    raise BciDecodeError(
        f"no stream of this name appeared within {timeout:g} s",
        field=f"LSL stream '{name}'",
        remedy=f"streams that are visible: {', '.join(there)}"
        if there
        else "start the sender: no stream is visible at all",
    )


def _has_name(name: str) -> str:
    """The XPath condition for streams called `name`; XPath knows no escaped quotes."""
    if "'" not in name:
        return f"name='{name}'"
    parts = [f"'{part}'" for part in name.split("'")]
    joined = ', "\'", '.join(parts)
    return f"name=concat({joined})"


class Inlet:
    """Samples of one stream, whose sender may die and come back.

    `info` is the full description. liblsl itself recovers a stream with the same source_id. A
    sender that comes back with another one (pylsl makes a random one where none is given) is found
    by its name. Where several streams have the name, a warning lists them. All samples that a
    sender pushes while it has this consumer arrive, unless more than `BUFFER` s of them or
    `BUFFERED` wait; of a stream without a rate, liblsl keeps 100 `BUFFER`.

    Time stamps (s) are those of the sender on the same computer. From another computer they are
    mapped to the clock of this one, so that all streams of this computer share a clock.
    """

    def __init__(self, name: str, timeout: float):
        self.name = name
        self._lsl = pylsl()
        self._twins: Any = None
        self._connect(find_stream(name, timeout))
        self._twins = self._lsl.ContinuousResolver(pred=_has_name(name))  # searches in a thread
        self._began = time.monotonic()

    def _connect(self, found: Any) -> None:
        """Receive a stream that was found, in place of the one before."""
        lsl, rate, channels = self._lsl, found.nominal_srate(), found.channel_count()
        if not (0 <= rate <= HIGHEST_RATE and 0 < channels <= MOST_CHANNELS):
            raise BciDecodeError(
                f"claims {channels} channels with {rate:g} samples/s",
                field=f"LSL stream '{self.name}'",
                remedy=f"send 1 to {MOST_CHANNELS} channels and 0 to {HIGHEST_RATE} samples/s",
            )
        seconds = max(1, min(BUFFER, int(BUFFERED / rate))) if rate else BUFFER
        remote = found.hostname() != socket.gethostname()
        flags = lsl.proc_clocksync if remote else lsl.proc_none
        try:
            self._inlet = lsl.StreamInlet(found, seconds, max_chunklen=1, processing_flags=flags)
            self.info = self._inlet.info(timeout=OPENING)
            self._inlet.open_stream(timeout=OPENING)
        except (lsl.util.LostError, lsl.util.TimeoutError) as error:
            raise BciDecodeError(
                "was found but does not answer",
                field=f"LSL stream '{self.name}'",
                remedy="check its sender and the firewall",
            ) from error
        self._source, self._layout = identity(self.info), layout(self.info)
        self._resolver: Any = None
        self._heard, self._gone = time.monotonic(), False

    @property
    def is_text(self) -> bool:
        """Whether samples are strings, which `pull` returns as lists."""
        return self.info.channel_format() == self._lsl.cf_string

    def buffer(self, samples: int) -> np.ndarray | None:
        """Memory (samples, channels) for `pull` in the stream's number format; None for strings."""
        if self.is_text:
            return None
        lsl = self._lsl
        dtype = {
            lsl.cf_float32: np.float32,
            lsl.cf_double64: np.float64,
            lsl.cf_int8: np.int8,
            lsl.cf_int16: np.int16,
            lsl.cf_int32: np.int32,
            lsl.cf_int64: np.int64,
        }[self.info.channel_format()]
        return np.empty((samples, self.info.channel_count()), dtype)

    def has_samples(self) -> bool:
        """Whether samples wait to be pulled."""
        return self._inlet.samples_available() > 0

    def pull(self, values: np.ndarray | None, wait: float = WAIT) -> tuple[Any, list[float]]:
        """Samples and their time stamps; waits up to `wait` s for the first.

        Numbers are written to `values`, as many samples as fit, and returned as its first rows.
        """
        samples, stamps = self._first(values, wait)
        room = MANY if values is None else len(values)
        if stamps and room > 1:
            rest = None if values is None else values[1:]
            more, later = self._inlet.pull_chunk(timeout=0.0, max_samples=room - 1, dest_obj=rest)
            samples, stamps = samples if rest is not None else samples + more, [*stamps, *later]
        return samples if values is None else values[: len(stamps)], stamps

    def _first(self, values: np.ndarray | None, wait: float) -> tuple[Any, list[float]]:
        """One sample, for which liblsl wakes this thread as soon as it is there."""
        try:
            first = None if values is None else values[:1]
            samples, stamps = self._inlet.pull_chunk(timeout=wait, max_samples=1, dest_obj=first)
        except self._lsl.util.LostError:  # an empty source_id, which liblsl does not recover
            time.sleep(wait)
            samples, stamps = [], []
        if self._twins is not None:
            self._warn_of_twins()
        silent = time.monotonic() - self._heard
        if stamps:
            if self._gone:
                log.info("LSL stream '%s': is back after %.1f s", self.name, silent)
            self._heard, self._resolver, self._gone = time.monotonic(), None, False
        elif silent > SILENCE:
            self._look_for_another(silent)
        return samples, stamps

    def _warn_of_twins(self) -> None:
        """Soon after the start: tell which streams have this name, if there are several."""
        found = self._twins.results()
        if len(found) > 1:
            each = [f"{info.hostname()} (source_id {info.source_id()!r})" for info in found]
            log.warning(
                "LSL stream '%s': %d streams have this name: %s; received is that of %s (%r)",
                self.name, len(found), ", ".join(each), self.info.hostname(), self.info.source_id(),
            )  # fmt: skip
        if len(found) > 1 or time.monotonic() - self._began > TWINS:
            self._twins = None

    def _look_for_another(self, silent: float) -> None:
        """Connect to a stream of this name with another source_id, if the old one is gone."""
        if self._resolver is None:
            self._resolver = self._lsl.ContinuousResolver(pred=_has_name(self.name))
        elif silent > 3 * SILENCE:  # time enough for the search in the background
            there = {identity(info): info for info in self._resolver.results()}
            if there and self._source not in there:
                self._connect_to_same_layout(next(iter(there.values())))
            elif not there and not self._gone:
                self._gone = True
                log.warning("LSL stream '%s': its sender is gone; waiting for it", self.name)

    def _connect_to_same_layout(self, found: Any) -> None:
        before, heard = self._layout, self._heard
        self._connect(found)
        if self._layout != before:
            raise BciDecodeError(
                "came back with other channels or units "
                f"({self.info.channel_count()} channels, before {before[0]})",
                field=f"LSL stream '{self.name}'",
                remedy="start the decoder again",
            )
        log.info("LSL stream '%s': is back after %.1f s", self.name, time.monotonic() - heard)

    def close(self) -> None:
        """Disconnect."""
        self._inlet = self._resolver = self._twins = None


def identity(info: Any) -> str:
    """What tells a stream from others of its name: the source_id, or without one the process."""
    return info.source_id() or info.uid()


def layout(info: Any) -> tuple[int, int, list[str], list[str]]:
    """What a sender's restart must not change: number, format and labels of channels, and units."""
    units = described_labels(info, "units", "unit")
    return info.channel_count(), info.channel_format(), described_labels(info), units


def described_labels(info: Any, group: str = "channels", item: str = "channel") -> list[str]:
    """The labels in a stream's description: desc/channels/channel/label; "" where one is absent."""
    found = []
    node = info.desc().child(group).child(item)
    while not node.empty():
        found.append(node.child_value("label"))
        node = node.next_sibling(item)
    return found
