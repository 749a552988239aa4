"""The study of recalibration: its pairs of sessions, its tables, and that it runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from recordings import recording, write_mat73

from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.recalibration.study import (
    AFTER,
    BEFORE,
    SCRATCH,
    WHOLE,
    WIENER,
    excerpt_pairs,
    gains,
    recalibration_study,
    shown,
    summary,
)

TINY = ("trainer.epochs=1", "model.recurrent.hidden_size=4")


def test_the_halves_of_a_recording_share_two_of_three_units(tmp_path):
    file = write_mat73(tmp_path / "own.mat", recording(channels=10, rows=3, samples=5000))
    whole = read_session(file)
    middle = whole.t[0] + whole.duration / 2
    pairs = list(excerpt_pairs(file, tmp_path / "halves", seeds=2))
    assert [pair.seeds for pair in pairs] == [(0,), (1,)]
    first, *seconds = (read_session(path) for path in (pairs[0].first, *(p.second for p in pairs)))
    assert first.t[-1] < middle <= seconds[0].t[0]
    assert len(first.t) + len(seconds[0].t) == len(whole.t)
    halves = np.concatenate([first.finger_pos, seconds[0].finger_pos])
    np.testing.assert_allclose(halves, whole.finger_pos)
    labels = list(zip(whole.units["channel"], whole.units["row"], strict=True))
    for second in seconds:
        later = {
            label: times[(times >= second.t[0]) & (times <= second.t[-1])]
            for label, times in zip(labels, whole.spike_times, strict=True)
        }
        there = dict(
            zip(
                zip(second.units["channel"], second.units["row"], strict=True),
                second.spike_times,
                strict=True,
            )
        )
        same = [k for k in later if k in there and np.array_equal(later[k], there[k])]
        assert len(same) == len(labels) - round(len(labels) / 3)
        drawn = len(labels) - len(same)
        assert len(there.keys() - later.keys()) == drawn - drawn // 2  # the others exchange labels
        # nothing is lost: every train is there once
        trains = sorted(times[0] for times in there.values())
        assert trains == sorted(times[0] for times in later.values())
    assert not seconds[0].units.equals(seconds[1].units)


def rows(pair, recording, values):
    about = {"recording": recording, "pair": pair, "seed": 0}
    return [
        about | {"decoder": decoder, "seconds": seconds, "r2": r2}
        for (decoder, seconds), r2 in values.items()
    ]


def test_tables_are_of_means_over_pairs():
    one = {
        (BEFORE, 0): 0.2,
        (AFTER, 30): 0.6,
        (SCRATCH, 30): 0.5,
        (WIENER, 30): 0.7,
        (WHOLE, 240): 0.8,
    }
    two = {
        (BEFORE, 0): 0.4,
        (AFTER, 30): 0.8,
        (SCRATCH, 30): 0.5,
        (WIENER, 30): 0.5,
        (WHOLE, 240): 0.9,
    }
    table = pd.DataFrame(rows("a", "simulated", one) + rows("b", "simulated", two))
    found = summary(table)
    after = found[found["decoder"] == AFTER].iloc[0]
    assert (after["R2"], after["SE"], after["n"]) == (pytest.approx(0.7), pytest.approx(0.1), 2)
    assert shown(found)["simulated"].tolist()[:2] == ["0.300 ± 0.100", "0.700 ± 0.100"]
    assert shown(found)["seconds"].tolist() == ["", "30", "30", "30", ""]
    gain = gains(table).set_index("compared with")
    assert gain.loc[SCRATCH, "gain in R2"] == pytest.approx(0.2)
    assert gain.loc[SCRATCH, "SE"] == pytest.approx(0.1)
    assert gain["better in"].tolist() == ["2 of 2", "1 of 2"]


def test_the_study_runs_and_its_files_are_there(tmp_path):
    output, data = tmp_path / "out", tmp_path / "data"
    text = recalibration_study(output, data, pairs=1, seeds=1, minutes=2.6, words=TINY)
    table = pd.read_csv(output / "scores.csv")
    assert list(table["decoder"]) == [BEFORE, *[AFTER, SCRATCH, WIENER] * 3, WHOLE]
    assert table["r2"].notna().all()
    assert f"{table['r2'][1]:.3f}" in text
    assert (output / "r2.png").stat().st_size > 10_000
    assert (output / "tables.md").read_text().startswith("## r2")


@pytest.mark.parametrize("wrong", [{"pairs": 0}, {"seeds": 0}, {"minutes": 2.0}])
def test_settings_without_a_result_are_refused(tmp_path, wrong):
    with pytest.raises(BciDecodeError, match="give"):
        recalibration_study(tmp_path / "out", tmp_path / "data", **wrong)
    assert not (tmp_path / "out").exists()
