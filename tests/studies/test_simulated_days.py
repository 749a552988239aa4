"""scripts/simulated_days.py on a small array."""

from __future__ import annotations

import runpy

from recordings import ROOT


def test_a_decoder_of_day_1_gets_worse_as_its_neurons_leave(tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "simulated_days.py"))
    found = script["table"](
        6, tmp_path / "runs", tmp_path / "data", minutes=1.0, channels=24, epochs=12
    )
    assert found["day"].tolist() == list(range(1, 7))
    left, scores = found["neurons of day 1"], found["R2 of the decoder of day 1"]
    assert left[0] == found["units"][0] and left.is_monotonic_decreasing and left[5] < 0.9 * left[0]
    assert scores[0] > 0.1 and scores[5] < scores[0] - 0.1
