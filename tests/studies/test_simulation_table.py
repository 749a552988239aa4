"""scripts/simulation_table.py on a small recording."""

from __future__ import annotations

import runpy

from recordings import ROOT, recording, write_mat73


def test_a_column_of_the_table(tmp_path, monkeypatch):
    """Its run is trained below the folder of the table, in the process of the script."""
    monkeypatch.chdir(tmp_path)
    file = write_mat73(tmp_path / "toy.mat", recording(channels=6, samples=20000))
    script = runpy.run_path(str(ROOT / "scripts" / "simulation_table.py"))
    column = script["column"](tmp_path / "table", file)
    assert column["units"] == 15 and 1.3 < column["minutes"] < 1.4
    assert -1 < column["Wiener filter R2"] < 1 and -1 < column["GRU R2"] < 1
    assert (tmp_path / "table" / "default" / "toy" / "gru" / "seed0" / "metrics.json").exists()
