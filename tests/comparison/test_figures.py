"""The figures of many runs: readable with many models, runs and protocols."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from run_folders import A, compare, write_run

from bci_decode.comparison import figures
from bci_decode.comparison.figures import _draw_losses, draw_losses, draw_scatter
from bci_decode.comparison.finished_runs import read_runs
from bci_decode.comparison.groups import group_runs


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Figures as they are when they are saved, laid out."""
    kept: list[Figure] = []

    def keep(figure, path):
        FigureCanvasAgg(figure).draw()
        kept.append(figure)

    monkeypatch.setattr(figures, "save_figure", keep)
    return kept


def lines_of(folder):
    axes = Figure().subplots()
    (group,) = group_runs(read_runs(folder)[0])
    _draw_losses(axes, group)
    return {line.get_label(): line for line in axes.lines}


def test_titles_and_legends_do_not_overlap(tmp_path, drawn):
    for lag in (0.0, 0.1, 0.2):
        for model in ("gru", "lngru", "a", "b", "c", "gru-bidirectional"):
            data = {"lag": lag, "units_of_some_long_name": "merged" if lag else "sorted"}
            write_run(
                tmp_path / str(lag), A, model, experiment="an_experiment_of_long_name", **data
            )
    groups = group_runs(read_runs(tmp_path)[0])
    draw_losses(groups, tmp_path / "a.png")
    draw_scatter(groups, tmp_path / "b.png", "gru")
    for figure in drawn:
        renderer = figure.canvas.get_renderer()
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
        assert len(boxes) == 3
        for box in boxes:
            assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1
        for first, second in itertools.combinations(boxes, 2):
            assert not first.overlaps(second)
        assert all(axes.get_legend() is not None for axes in figure.axes)


@pytest.mark.parametrize("models", [["lngru"], ["gru", "lngru"], ["a", "b", "c"]])
def test_a_few_runs_all_look_different(tmp_path, models):
    for model in models:
        for seed in range(4 if len(models) > 1 else 5):
            write_run(tmp_path, model=model, seed=seed)
    lines = [line for label, line in lines_of(tmp_path).items() if "seed" in label]
    looks = {(str(line.get_color()), line.get_linestyle()) for line in lines}
    assert (
        len(looks)
        == len(lines)
        == (12 if len(models) == 3 else 4 * len(models) + (models == ["lngru"]))
    )


def test_a_model_in_closed_form_is_a_horizontal_line(tmp_path):
    write_run(tmp_path, model="gru")
    write_run(tmp_path, model="wiener", losses=(60,), closed_form=True)
    lines = lines_of(tmp_path)
    np.testing.assert_array_equal(lines["Wiener filter"].get_ydata(), [60, 60])
    np.testing.assert_array_equal(lines["GRU"].get_ydata(), [90, 80, 40, 30])


def test_formats(tmp_path, capsys, monkeypatch):
    write_run(tmp_path)
    code, out, _ = compare(tmp_path, capsys, monkeypatch, "--figures", "pdf,svg")
    assert (
        code == 0 and "wrote comparison.pdf, r2_scatter.pdf, comparison.svg, r2_scatter.svg," in out
    )
    assert (tmp_path / "comparison.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "r2_scatter.svg").read_text()
    code, _, error = compare(tmp_path, capsys, monkeypatch, "--figures", "gif")
    assert code == 2 and error == "error: --figures: is gif; choose among png, pdf, svg\n"
