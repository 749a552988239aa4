"""NWB files in the layouts of public data sets, written by pynwb, no code of this project."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


@contextmanager
def pynwb() -> Iterator[ModuleType]:
    """The library, which warns of what it finds unusual."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("pynwb")


@contextmanager
def nwb_file(path: Path) -> Iterator[tuple[ModuleType, Any]]:
    """The library and an empty file in memory, which is written at the end."""
    with pynwb() as library:
        start = datetime(2017, 2, 2, tzinfo=timezone.utc)
        file = library.NWBFile("a session of reaches", path.stem, start)
        yield library, file
        with library.NWBHDF5IO(str(path), "w") as out:
            out.write(file)


def add_electrodes(file: Any, areas: list[str]) -> None:
    device = file.create_device("array")
    groups: dict[str, Any] = {}
    for number, area in enumerate(areas):
        if area not in groups:
            groups[area] = file.create_electrode_group(f"{area} array", "96", area, device)
        file.add_electrode(id=number, location=area, group=groups[area])


def spike_trains(units: int, start: float, stop: float, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.sort(rng.uniform(start, stop, int(5 * (stop - start)))) for _ in range(units)]


def circle(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A hand's position (T, 2) in mm and its velocity in mm/s."""
    angle, speed = 2 * np.pi * 0.7 * t, 2 * np.pi * 0.7
    position = np.stack([40 * np.cos(angle), 60 + 30 * np.sin(angle)], axis=1)
    velocity = np.stack([-40 * speed * np.sin(angle), 30 * speed * np.cos(angle)], axis=1)
    return position, velocity


def mc_rtt(path: Path, seconds: float = 40.0) -> Path:
    """As 000129: 1 kHz by rate, two observed segments with NaN between, target, electrodes."""
    t = np.arange(round(1000 * seconds)) / 1000
    position, velocity = circle(t)
    gap = (t > 0.5 * seconds) & (t < 0.5 * seconds + 1)
    position[gap], velocity[gap] = np.nan, np.nan
    target = np.repeat(np.arange(len(t)) // 2000 * 15.0, 2).reshape(-1, 2)
    segments = [[0.0, 0.5 * seconds], [0.5 * seconds + 1, seconds]]
    with nwb_file(path) as (library, file):
        add_electrodes(file, ["M1"] * 4)
        for number, times in enumerate(spike_trains(5, 0.0, seconds)):
            file.add_unit(spike_times=times, electrodes=[number % 4], obs_intervals=segments)
        module = file.create_processing_module("behavior", "the hand")
        deep = np.column_stack([position, np.full(len(t), 3.0)])
        for name, values, unit in (
            ("cursor_pos", position, "mm"),
            ("finger_pos", deep, "mm"),
            ("finger_vel", velocity, "mm/s"),
            ("target_pos", target, "mm"),
        ):
            module.add(
                library.TimeSeries(name, data=values, unit=unit, rate=1000.0, starting_time=0.0)
            )
        for start in np.arange(0, seconds, 2.0):
            file.add_trial(start_time=start, stop_time=start + 2.0)
    return path


def perich(path: Path, seconds: float = 20.0) -> Path:
    """As 000688: containers for position, velocity and acceleration in cm, two areas."""
    t = 3.0 + np.arange(round(100 * seconds)) / 100
    position, velocity = circle(t)
    with nwb_file(path) as (library, file):
        add_electrodes(file, ["M1", "M1", "PMd", "PMd"])
        for number, times in enumerate(spike_trains(6, 2.0, 3.0 + seconds)):
            file.add_unit(spike_times=times, electrodes=[[1, 1, 3, 2, 2, 2][number]])
        module = file.create_processing_module("behavior", "the cursor")
        series = library.behavior.SpatialSeries(
            "cursor_pos", data=position / 10, timestamps=t, unit="cm", reference_frame="screen"
        )
        module.add(library.behavior.Position(spatial_series=series))
        velocity_series = library.TimeSeries(
            "cursor_vel", data=velocity / 10, timestamps=series, unit="cm/s"
        )
        module.add(library.behavior.BehavioralTimeSeries(velocity_series, name="Velocity"))
        acceleration = library.TimeSeries(
            "cursor_acc", data=velocity, timestamps=series, unit="cm/s^2"
        )
        module.add(library.behavior.BehavioralTimeSeries(acceleration, name="Acceleration"))
        file.add_trial(start_time=4.0, stop_time=8.0)
        file.add_trial(start_time=9.0, stop_time=15.0)
    return path


def falcon_m2(path: Path, seconds: float = 20.0, units: int = 6) -> Path:
    """As 000953: a container per movement, a series per finger, no electrodes, a mask."""
    t = np.arange(round(50 * seconds)) * 0.02
    position, velocity = circle(t)
    with nwb_file(path) as (library, file):
        for times in spike_trains(units, 0.0, seconds):
            file.add_unit(spike_times=times)
        for name, values in (("finger_pos", position), ("finger_vel", velocity)):
            container = library.behavior.BehavioralTimeSeries(name=name)
            for column, finger in enumerate(("index", "mrs")):
                container.add_timeseries(
                    library.TimeSeries(finger, data=values[:, column], timestamps=t, unit="unknown")
                )
            file.add_acquisition(container)
        mask = library.TimeSeries("eval_mask", data=t >= 1.0, timestamps=t, unit="bool")
        file.add_acquisition(mask)
    return path


def small(path: Path, **changes: Any) -> Path:
    """A file of which parts can be changed: `series` arguments, `spikes`, no `units`."""
    t = changes.get("t", np.arange(500) / 100)
    settings: dict[str, Any] = {"data": circle(t)[0], "unit": "mm", "timestamps": t}
    settings |= changes.get("series", {})
    settings = {key: value for key, value in settings.items() if value is not None}
    with nwb_file(path) as (library, file):
        for times in changes.get("spikes", spike_trains(3, 0.0, 5.0)):
            file.add_unit(spike_times=times)
        if changes.get("columns"):
            file.add_unit_column("quality", "how good", data=changes["columns"])
        module = file.create_processing_module("behavior", "the hand")
        module.add(library.TimeSeries(changes.get("name", "finger_pos"), **settings))
        for start, stop in changes.get("invalid", ()):
            file.add_invalid_time_interval(start_time=start, stop_time=stop)
    return path
