"""scripts/simulated_days.py on a small array."""

from __future__ import annotations

import runpy

from recordings import ROOT


def test_a_table_of_the_days(tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "simulated_days.py"))
    found = script["table"](
        3, tmp_path / "runs", tmp_path / "data", minutes=1.0, channels=8, epochs=1
    )
    assert found["day"].tolist() == [1, 2, 3]
    left, scores = found["neurons of day 1"], found["R2 of the decoder of day 1"]
    assert left[0] == found["units"][0] and left.is_monotonic_decreasing and left[2] < left[0]
    assert scores.between(-1, 1).all() and scores.nunique() > 1
