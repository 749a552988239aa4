"""The movement of a simulated session: reaches on a grid, as a recording has them.

T is the length of the clock.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bci_decode.data.simulated_units import SAMPLE, Drive, Rng

Kinematics = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

MARGIN = 1000  # samples before t[0] and after t[-1] that hold spikes only
GRID = np.array([(x, y) for x in np.arange(-52.5, 60, 15) for y in np.arange(7.5, 120, 15)])  # mm
CENTER = GRID.mean(0)


def movement(rng: Rng, samples: int) -> tuple[np.ndarray, Kinematics, Drive]:
    """The clock with its margins; t, cursor, target and finger without them; the units' drive."""
    inside = slice(MARGIN, MARGIN + samples)
    ticks = np.arange(-MARGIN, samples + MARGIN)
    clock = rng.integers(200, 4000) + SAMPLE * ticks  # t does not start at 0
    target, hand = _reaches(rng, len(clock))
    finger, cursor = _as_recorded(rng, hand)
    seen = (clock[inside], cursor[inside], target[inside], finger[inside])
    return clock, seen, _drive(rng, hand)


def _reaches(rng: Rng, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Target and hand positions (samples, 2) in mm; each acquired target brings up the next."""
    steps, target = np.zeros((samples, 2)), np.empty((samples, 2))
    goal = start = here = GRID[rng.integers(len(GRID))]
    now = 0
    while now < samples:
        shown, goal = now, rng.choice(GRID[(goal != GRID).any(1)])
        pause = rng.exponential(2.0) if rng.random() < 0.04 else 0.0
        now += _samples(pause + rng.normal(0.22, 0.03))  # the reaction time
        for duration, path in _submovements(rng, goal - here):
            move = path * np.diff(_minimum_jerk(duration))[: max(samples - now, 0), None]
            steps[now : now + len(move)] += move
            here = here + path
            now += _samples(duration * rng.uniform(0.8, 1.3))  # a correction may begin early
        now += _samples(rng.uniform(0.15, 0.45))  # the target has to be held
        target[shown:now] = goal
    posture = _wobble(rng, samples, 0.3, 2.5, 0.8, 2)
    tremor = _wobble(rng, samples, 7.0, 11.0, 0.04, 2)
    return target, start + np.cumsum(steps, 0) + posture + tremor


def _submovements(rng: Rng, error: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Durations in s and paths in mm of movements until the hand is within 4 mm of its target."""
    while (distance := np.hypot(*error)) > 4.0:
        path = 0.94 * error + rng.normal(0.0, 0.07 * distance, 2)
        yield (0.28 + 0.002 * distance) * rng.lognormal(0.0, 0.15), path
        error = error - path


def _minimum_jerk(duration: float) -> np.ndarray:
    """Share of the path, 0 to 1, at each sample of a movement with a smooth, bell-shaped speed."""
    s = np.linspace(0.0, 1.0, _samples(duration) + 1)
    return s**3 * (10 - 15 * s + 6 * s**2)


def _samples(seconds: float) -> int:
    return max(round(seconds / SAMPLE), 1)


def _wobble(
    rng: Rng, samples: int, low: float, high: float, std: float, columns: int
) -> np.ndarray:
    """Smooth noise (samples, columns) of deviation `std`: twelve sines from `low` to `high` Hz."""
    time, noise = SAMPLE * np.arange(samples), np.zeros((samples, columns))
    for column in noise.T:
        frequencies, phases = rng.uniform(low, high, 12), rng.uniform(0, 2 * np.pi, 12)
        for frequency, phase in zip(frequencies, phases, strict=True):
            column += np.sin(2 * np.pi * frequency * time + phase)
    return noise * std / np.sqrt(6)


def _as_recorded(rng: Rng, hand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """finger_pos (T, 6) in cm and degrees, and cursor_pos (T, 2) in mm, less than 2 mm away."""
    x, y = hand.T
    depth = -30 + 0.004 * y + _wobble(rng, len(hand), 0.05, 1.0, 0.1, 1)[:, 0]
    finger = np.column_stack([depth, -x / 10, -y / 10, 20 + 0.2 * x, -10 + 0.1 * y, 0.05 * (x + y)])
    return finger, hand + _wobble(rng, len(hand), 0.1, 1.5, 0.25, 2)


def _drive(rng: Rng, hand: np.ndarray) -> Drive:
    velocity, position = np.gradient(hand, SAMPLE, axis=0) / 120, (hand - CENTER) / 35
    return Drive(
        velocity=velocity,
        speed=np.hypot(*velocity.T),
        position=position,
        # Preferred directions turn with the shoulder, more than in a monkey. A linear decoder
        # cannot combine posture with activity, so it scores clearly lower than a network.
        turn=1.3 * position[:, 0],
        arousal=np.exp(_wobble(rng, len(hand), 0.02, 0.2, 0.3, 1)[:, 0]),
        unrelated=_wobble(rng, len(hand), 0.1, 2.0, 1.0, 4),
    )
