"""GRU and LayerNorm GRU while they are trained: pre-activations, gradients, growth of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from bci_decode.comparison.old_runs import present_history
from bci_decode.files import made_folder
from bci_decode.layers.introspection import SATURATION_BAND, pre_activations
from bci_decode.runs.build import build_decoder, load_data
from bci_decode.runs.compose import compose_config
from bci_decode.runs.folder import run_folder
from bci_decode.runs.reading import read_history, read_report
from bci_decode.studies.dynamics_figures import (
    draw_norms,
    draw_pre_activations,
    draw_shares,
    layer_title,
    monitored_layers,
    norm_curves,
)
from bci_decode.studies.published import EXPERIMENT
from bci_decode.studies.tables import append_table
from bci_decode.studies.training import (
    PAIR,
    data_file,
    quoted,
    session_name,
    session_words,
    train,
    train_all,
    translate_errors,
)
from bci_decode.style import model_label
from bci_decode.training.checkpoint import load_weights, read_checkpoint
from bci_decode.training.monitor import monitor_input

EPOCHS = (0, 1, 5, 10, 20, 30, 40, 75)  # of the tables
OPTIONS = {
    "data.split.first_bins": "--first-bins",
    "trainer.epochs": "--epochs",
    "overwrite=true": "--overwrite",
    "output_dir=": "--output",
    "session.path": "--session",
}
# moment ("untrained", "epoch 40") -> layer -> gate -> values
PreActivations = dict[str, dict[str, dict[str, np.ndarray]]]


@dataclass(frozen=True)
class Pair:
    """How the two models are trained; `first_bins` is by default the recipe's."""

    session: Path | None = None
    recipe: str = EXPERIMENT
    first_bins: int | None = None
    epochs: int = 40
    seed: int = 0
    overwrite: bool = False

    def words(self, model: str, output: Path) -> list[str]:
        """The words of a model's run; of the source study's bins a tenth is for validation."""
        words = [f"experiment={self.recipe}", f"model={model}", f"seed={self.seed}"]
        words += [f"output_dir={quoted(output)}", "trainer.monitor_layers=true"]
        words += [f"trainer.epochs={self.epochs}", f"overwrite={str(self.overwrite).lower()}"]
        if self.recipe == EXPERIMENT:
            words += ["data.split.val=0.1", "data.split.val_from_test=0", "trainer.select_on=val"]
        else:
            words += ["trainer.patience=null"]
        if self.first_bins:
            words += [f"data.split.first_bins={self.first_bins}"]
        return words + session_words(self.session)


def dynamics(output: Path, pair: Pair, jobs: int = 1) -> tuple[Path, str]:
    """Train both models and draw and tabulate what happens inside; the folder and its tables."""
    name = session_name(pair.session)
    data_file(pair.session)  # is made, or refused, before any process starts
    words = {model: pair.words(model, output / "runs") for model in PAIR}
    folders = {model: run_folder(compose_config(*words[model])) for model in PAIR}
    tasks = {folders[model]: (train, (words[model],)) for model in PAIR}
    with translate_errors(OPTIONS):
        train_all(tasks, dict.fromkeys(tasks, pair.epochs), jobs, "dynamics")
    about = read_report(folders[PAIR[0]])
    size = f"{about['protocol']['units_used']} units, {about['data']['seconds']:.0f} s"
    start, stop = about["protocol"]["split_bins"]["train"]
    title = f"{name} ({size}), first {stop - start} bins, seed {pair.seed}, {pair.recipe}"
    folder = output / name / pair.recipe
    made_folder(folder)
    return folder, show(folder, folders, title)


def show(folder: Path, runs: dict[str, Path], title: str) -> str:
    """Three figures and three tables of monitored runs, by model; returns the tables."""
    histories = {model: present_history(read_history(run)) for model, run in runs.items()}
    found = {model: load_pre_activations(run) for model, run in runs.items()}
    plain = all(is_plain_sgd(run) for run in runs.values())
    draw_pre_activations(folder / "pre_activations.png", found, title, SATURATION_BAND)
    draw_shares(folder / "shares.png", histories, title, SATURATION_BAND)
    draw_norms(folder / "norms.png", histories, title, plain)
    last = max(len(history) for history in histories.values()) - 1
    epochs = [*(epoch for epoch in EPOCHS if epoch < last), last]
    measured = pre_activation_table(found)
    measured.to_csv(folder / "pre_activations.csv", index=False)
    where = f"on the validation part, in brackets the share outside ±{SATURATION_BAND:g}"
    tables = {
        "losses": (loss_table(histories, epochs), "test loss, (mm/s)²"),
        "pre-activations": (side_by_side(measured), f"SD of the pre-activations {where}"),
        "norms": (norm_table(histories, epochs, plain), "means over an epoch's steps"),
    }
    texts = [
        append_table(folder, name, table, f"{title}: {text}.\n")
        for name, (table, text) in tables.items()
    ]
    return "\n".join(texts)


def is_plain_sgd(run: Path) -> bool:
    """Whether a step is the learning rate times the measured gradient."""
    config = OmegaConf.load(run / "config.yaml")
    known = ("_target_", "_partial_", "lr")
    extras = [value for key, value in config.optimizer.items() if key not in known]
    is_sgd = config.optimizer["_target_"] == "torch.optim.SGD"
    return is_sgd and not any(extras) and config.trainer.clip_norm is None


def load_pre_activations(run: Path) -> PreActivations:
    """Of a finished run's decoder, untrained and after its last epoch, on the validation part."""
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    data = load_data(config)
    decoder = build_decoder(config, data)
    val = data.parts["val"]
    x = monitor_input(torch.as_tensor(val.counts[val.longest]), data.window)
    found = {"untrained": pre_activations(decoder.recurrent, x)}
    last = run / "last.pt"
    state = read_checkpoint(last)
    load_weights(decoder, state["decoder"], last)
    found[f"epoch {state['epoch']}"] = pre_activations(decoder.recurrent, x)
    return {
        moment: {
            layer: {gate: a.numpy().ravel() for gate, a in gates.items()}
            for layer, gates in layers.items()
        }
        for moment, layers in found.items()
    }


def loss_table(histories: dict[str, pd.DataFrame], epochs: list[int]) -> pd.DataFrame:
    """Test losses: a row for each model, a column for each epoch."""
    rows = [
        {"model": model_label(model)}
        | {f"epoch {epoch}": f"{history['test_loss'][epoch]:.1f}" for epoch in epochs}
        for model, history in histories.items()
    ]
    return pd.DataFrame(rows)


def pre_activation_table(found: dict[str, PreActivations]) -> pd.DataFrame:
    """A row for each layer, gate, model and moment: mean, SD and share outside the band."""
    rows = [
        {"layer": layer, "gate": gate, "model": model, "when": moment}
        | {"mean": values.mean(), "sd": values.std()}
        | {"outside": np.mean(np.abs(values) > SATURATION_BAND)}
        for model, moments in found.items()
        for moment, layers in moments.items()
        for layer, gates in layers.items()
        for gate, values in gates.items()
    ]
    return pd.DataFrame(rows)


def side_by_side(measured: pd.DataFrame) -> pd.DataFrame:
    """A row for each layer and gate, a column for each model and moment."""
    cells = [f"{row.sd:.2f} ({100 * row.outside:.2f} %)" for row in measured.itertuples()]
    columns = [f"{model_label(row.model)}, {row.when}" for row in measured.itertuples()]
    table = measured.assign(cell=cells, column=columns)
    wide = table.pivot(index=["layer", "gate"], columns="column", values="cell")
    rows = list(dict.fromkeys(zip(measured["layer"], measured["gate"], strict=True)))
    shown = wide.loc[rows, list(dict.fromkeys(columns))].rename_axis(columns=None)
    return shown.rename(index=layer_title, level="layer").reset_index()


def norm_table(
    histories: dict[str, pd.DataFrame], epochs: list[int], plain_sgd: bool
) -> pd.DataFrame:
    """A row for each layer, curve and model; an untrained decoder has no gradient."""
    rows = []
    for layer in monitored_layers(histories):
        curves = {model: norm_curves(one, layer, plain_sgd) for model, one in histories.items()}
        for kind in next(iter(curves.values())):
            for model, own in curves.items():
                about = {"layer": layer_title(layer), "what": kind, "model": model_label(model)}
                cells = {f"epoch {epoch}": _two_digits(own[kind][epoch]) for epoch in epochs}
                rows.append(about | cells)
    return pd.DataFrame(rows)


def _two_digits(value: float) -> str:
    return "" if np.isnan(value) else f"{float(f'{value:.2g}'):g}"
