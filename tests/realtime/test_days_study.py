"""The study of many days: how a recording is cut, what its tables are of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bci_decode as bd
from bci_decode.data.simulate import simulated_session
from bci_decode.realtime.recalibration import days_tables
from bci_decode.realtime.recalibration.days_study import CHOSE, excerpt_arrays, simulated_arrays
from bci_decode.realtime.recalibration.days_tables import (
    ALL_WEIGHTS,
    ALONE,
    BEFORE,
    JOINT,
    LOOKS,
    READ_IN,
    SCRATCH,
)


def test_the_pieces_of_a_recording_share_no_time_and_keep_the_labels(tmp_path):
    file = simulated_session(tmp_path, seed=0, minutes=0.4, channels=6)
    session = bd.read_session(file)
    array, relabeled = excerpt_arrays(file, tmp_path / "cut", 1)
    pieces = [bd.read_session(path) for path in (*array.trained, *array.new.values())]
    assert sum(len(piece.t) for piece in pieces) == len(session.t)
    whole = {
        (unit.channel, unit.row): times
        for unit, times in zip(session.units.itertuples(), session.spike_times, strict=True)
    }
    for piece in pieces:
        assert len(piece.units) == round(len(session.units) * 2 / 3)
        for unit, times in zip(piece.units.itertuples(), piece.spike_times, strict=True):
            own = whole[unit.channel, unit.row]
            inside = own[(own >= piece.t[0]) & (own <= piece.t[-1])]
            np.testing.assert_allclose(times, inside)
    assert relabeled.trained == array.trained
    (new,) = map(bd.read_session, relabeled.new.values())
    labels = [
        {(unit.channel, unit.row): times.tolist()
         for unit, times in zip(one.units.itertuples(), one.spike_times, strict=True)}
        for one in (pieces[-1], new)
    ]  # fmt: skip
    kept = sum(labels[1].get(cell) == times for cell, times in labels[0].items())
    assert kept == len(labels[0]) - round(len(labels[0]) / 3)
    names = [set(piece.units[["channel", "row"]].itertuples(index=False)) for piece in pieces]
    assert len(set(map(frozenset, names))) == 4  # other units in each


def test_the_array_that_chose_the_method_is_not_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "bci_decode.realtime.recalibration.days_study.simulated_days",
        lambda folder, days, seed: [tmp_path / f"{seed}_{day + 1}" for day in range(days)],
    )
    arrays = list(simulated_arrays(tmp_path, 3, (9, 12)))
    assert [array.seed for array in arrays] == [0, 2, 3]
    assert CHOSE not in [array.seed for array in arrays]
    assert arrays[0].new == {9: tmp_path / "0_9", 12: tmp_path / "0_12"}
    assert arrays[0].trained[-1] == tmp_path / "0_8"


@pytest.fixture
def table() -> pd.DataFrame:
    """R2 is day / 100 + seed / 10 + seconds / 1000, and less for the decoder from scratch."""
    rows = []
    for seed in (0, 2):
        for day, decoder, seconds in [
            (1, JOINT, 0), (1, ALONE, 0), (2, JOINT, 0), (2, ALONE, 0),
            *((day, decoder, seconds) for day in (9, 12) for seconds in (30, 60)
              for decoder in LOOKS if decoder != BEFORE), (9, BEFORE, 0), (12, BEFORE, 0),
        ]:  # fmt: skip
            r2 = day / 100 + seed / 10 + seconds / 1000 - 0.05 * (decoder == SCRATCH)
            about = {"recording": "simulated", "seed": seed, "day": day}
            rows.append(about | {"decoder": decoder, "seconds": seconds, "r2": r2})
    return pd.DataFrame(rows)


def test_the_error_is_over_seeds_each_the_mean_of_its_days(table):
    found = days_tables.curve(table).set_index(["decoder", "seconds"])
    row = found.loc[(READ_IN, 60)]
    assert row["R2"] == pytest.approx(0.105 + 0.1 + 0.06)
    assert row["SE"] == pytest.approx(0.1)  # of 0 and 0.2: SD 0.1414 / root of 2
    assert row["n"] == 2


def test_the_tables_have_a_row_for_each_decoder_and_each_comparison(table):
    days = days_tables.days_table(days_tables.curve(table)).set_index("decoder")
    assert list(days.index) == list(LOOKS)
    assert days.loc[READ_IN, "60 s"] == "0.265 ± 0.100"
    assert days.loc[BEFORE, "30 s"] == ""
    gains = days_tables.gains(table).set_index(["seconds", "compared with"])
    assert gains.loc[(30, SCRATCH), "gain"].startswith("0.050")
    assert gains.loc[(30, SCRATCH), "better in"] == "4 of 4"
    assert gains.loc[(30, READ_IN), "better in"] == "0 of 4"
    trained = days_tables.trained_table(table)
    assert list(trained["day"]) == [1, 2, "mean"]
    assert trained.loc[2, JOINT] == "0.115 ± 0.100"


def test_the_figure_has_a_curve_for_each_decoder_with_seconds(table, tmp_path):
    days_tables.draw(days_tables.curve(table), tmp_path / "r2.png")
    assert (tmp_path / "r2.png").stat().st_size > 10_000
    assert ALL_WEIGHTS in LOOKS
