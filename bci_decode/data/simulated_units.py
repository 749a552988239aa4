"""The units of a simulated array: what each is tuned to, its rate and its spikes, day by day.

T is the length of the clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from bci_decode.data.session import area_of

Rng = np.random.Generator
Cell = tuple[int, int]  # channel and row, where the spikes of a unit are in a file

SAMPLE = 0.004  # s, the clock of every recording
DEAD_TIME = 0.002  # s, no unit fires twice within it
ROWS = 5  # of the spikes cell: unsorted events ("hash"), then up to four sorted units
SORTED_UNITS = (0.18, 0.12, 0.41, 0.19, 0.10)  # share of live channels with 0, 1, .. 4 sorted units
RELABELED = 0.5  # share of replaced units that get another row, where the channel has a free one


@dataclass(frozen=True)
class DayChange:
    """How the units of an array change from one day to the next, each unit by chance.

    `replaced`, `gone` and `new` are shares of the units: other neurons on the same channel, cells
    that fall silent, and neurons on free cells. `rotation` turns all preferred directions together,
    in radians. The others are standard deviations for each unit that stays: of its direction in
    radians, and of the logarithms of its depth of tuning and of its rate.
    """

    replaced: float = 0.0
    gone: float = 0.0
    new: float = 0.0
    rotation: float = 0.0
    direction: float = 0.15
    depth: float = 0.1
    rate: float = 0.2


ABRUPT = DayChange(replaced=1 / 3)
SLOW = DayChange(gone=0.06, new=0.06, rotation=math.radians(3), direction=0.08, rate=0.15)


@dataclass(frozen=True)
class Drive:
    """What drives the units, each about 1 in size; the hand does not show the last two."""

    velocity: np.ndarray  # (T, 2)
    speed: np.ndarray
    position: np.ndarray  # (T, 2), from the center of the grid
    turn: np.ndarray  # radians by which all preferred directions are turned
    arousal: np.ndarray  # multiplies what the movement adds to the log rate
    unrelated: np.ndarray  # (T, K)


@dataclass(frozen=True)
class Tuning:
    """What a unit fires for: weights of a `Drive`, and its rate in Hz without any.

    `row` is the one of the file. `drift` (minutes,) is the log rate's change at every minute of
    one session.
    """

    row: int
    lead: float  # s by which it leads the hand
    direction: float  # preferred, in radians
    twist: np.ndarray  # (2,), change of that by position
    velocity: float
    speed: float
    position: np.ndarray  # (2,)
    drift: np.ndarray
    unrelated: np.ndarray  # (K,)
    rate: float

    @classmethod
    def draw(cls, rng: Rng, row: int, area: str, drive: Drive) -> Tuning:
        """Draw a unit. M1 leads the hand by up to 160 ms, S1 mostly follows.

        Hash is the sum of many cells: it has more events and less tuning.
        """
        return cls(
            row=row,
            lead=rng.uniform(0.0, 0.16) if area == "M1" else rng.uniform(-0.06, 0.04),
            direction=rng.uniform(0, 2 * np.pi),
            twist=rng.normal(0, 0.2, 2),
            velocity=rng.exponential(0.18),
            speed=rng.normal(0.4, 0.2),
            position=rng.normal(0, 0.35, 2),
            drift=_drift(rng, drive),
            unrelated=rng.normal(0, 0.2, int(drive.unrelated.shape[1])),
            rate=(5.8 if row == 0 else 3.4) * rng.lognormal(0.0, 0.7),
        )

    def is_neuron_of(self, other: Tuning) -> bool:
        """Whether this is the neuron of `other` on another day; no two are drawn alike."""
        return self.lead == other.lead and np.array_equal(self.twist, other.twist)

    def a_day_later(self, rng: Rng, drive: Drive, change: DayChange) -> Tuning:
        """The same neuron in the next day's session: turned a little, stronger or weaker."""
        deeper = rng.lognormal(0.0, change.depth)
        return replace(
            self,
            direction=self.direction + rng.normal(0, change.direction) + change.rotation,
            velocity=self.velocity * deeper,
            speed=self.speed * deeper,
            position=self.position * deeper,
            drift=_drift(rng, drive),
            rate=self.rate * rng.lognormal(0.0, change.rate),
        )

    def rates(self, drive: Drive) -> np.ndarray:
        """Rate (T,) in Hz: log-linear in speed, position and velocity along the direction."""
        samples = len(drive.speed)
        depth = 0.5 if self.row == 0 else 1.0
        shifted = np.clip(np.arange(samples) + round(self.lead / SAMPLE), 0, samples - 1)
        preferred = self.direction + drive.turn + _mixed(drive.position, self.twist)
        along = drive.velocity[:, 0] * np.cos(preferred) + drive.velocity[:, 1] * np.sin(preferred)
        tuned = self.velocity * along + self.speed * drive.speed
        tuned += _mixed(drive.position, self.position)
        drift = np.interp(np.arange(samples), _minutes(drive), self.drift)
        log_rate = depth * (tuned * drive.arousal)[shifted]
        log_rate = log_rate + _mixed(drive.unrelated, self.unrelated) + drift
        return self.rate * np.exp(np.clip(log_rate, -4.0, 2.5))


def _minutes(drive: Drive) -> np.ndarray:
    """The samples of every minute, up to the first one after the end."""
    return np.arange(0, len(drive.speed) + 15000, 15000)


def _drift(rng: Rng, drive: Drive) -> np.ndarray:
    return rng.normal(0, 0.08, len(_minutes(drive))).cumsum()


def _mixed(states: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("tk,k->t", states, weights)  # the last bit of `@` may depend on threads


def first_day(
    rng: Rng, clock: np.ndarray, drive: Drive, names: list[str]
) -> tuple[dict[Cell, Tuning], dict[Cell, np.ndarray]]:
    """The units of a new array on channels of these names, and their spikes."""
    silent = rng.permutation(len(names)) < rng.integers(6, 12) * len(names) // 96
    units, spikes = {}, {}
    for channel in np.flatnonzero(~silent).tolist():
        sorted_units = rng.choice(ROWS, p=SORTED_UNITS)
        no_hash = sorted_units and rng.random() < 0.04
        for row in range(1 if no_hash else 0, sorted_units + 1):
            unit = Tuning.draw(rng, row, area_of(names[channel]), drive)
            units[channel, row] = unit
            spikes[channel, row] = spike_times(rng, clock, unit.rates(drive))
    return units, spikes


def next_day(
    rng: Rng,
    units: dict[Cell, Tuning],
    drive: Drive,
    names: list[str],
    change: DayChange = ABRUPT,
) -> dict[Cell, Tuning]:
    """The units a day later: some are other neurons, gone or new, the others drift a little.

    Of the sorted ones among the replaced, `RELABELED` get a free row of their channel; the others
    have the channel and row of the neuron that is gone. An array never falls silent as a whole.
    """
    after: dict[Cell, Tuning] = {}
    for (channel, row), unit in units.items():
        lot = rng.random()
        if lot >= change.replaced + change.gone:
            after[channel, row] = unit.a_day_later(rng, drive, change)
        elif lot < change.replaced:
            taken = units.keys() | after.keys()
            free = [r for r in range(1, ROWS) if (channel, r) not in taken]
            new = free[0] if row and free and rng.random() < RELABELED else row
            after[channel, new] = Tuning.draw(rng, new, area_of(names[channel]), drive)
    for _ in range(max(rng.binomial(len(units), change.new), 1 - len(after))):
        lowest = _lowest_free_rows(after, len(names))
        if lowest:
            channel, row = lowest[rng.integers(len(lowest))]
            after[channel, row] = Tuning.draw(rng, row, area_of(names[channel]), drive)
    return after


def _lowest_free_rows(units: dict[Cell, Tuning], channels: int) -> list[Cell]:
    """The lowest row without a unit of each channel that has one."""
    rows = (next((r for r in range(ROWS) if (c, r) not in units), None) for c in range(channels))
    return [(channel, row) for channel, row in enumerate(rows) if row is not None]


def spike_times(rng: Rng, clock: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """A Poisson process of this rate, without the spikes within the dead time of another.

    Time rescaling: the inverse of the cumulated rate, at cumulated exponential draws, gives the
    times.
    """
    expected = np.cumsum(rate) * SAMPLE
    enough = int(expected[-1] + 6 * np.sqrt(expected[-1]) + 20)
    draws = expected[0] + rng.exponential(size=enough).cumsum()
    spikes = np.interp(draws[draws < expected[-1]], expected, clock)
    return spikes[np.diff(spikes, prepend=-np.inf) >= DEAD_TIME]
