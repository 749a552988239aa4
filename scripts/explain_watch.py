"""The part "watch" of explain.py: what goes on inside the recurrent layers while they are trained."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from explain_common import (
    MODELS,
    NAMES,
    added,
    followed,
    in_own_words,
    prepared,
    session_file,
    session_name,
)

from bci_decode.errors import BciDecodeError

OWN_WORDS = {
    "data.split.first_bins": "--first-bins",
    "trainer.epochs": "--epochs",
    "overwrite=true": "--overwrite",
    "output_dir=": "--output",
    "session.path": "--session",
}


def watch(arguments: argparse.Namespace) -> tuple[Path, str]:
    """GRU and LN-GRU trained with trainer.watch=true by the command line that anybody uses, and looked into."""
    import pandas as pd

    name = session_name(arguments)
    session_file(arguments)  # refuses one that is not there before any process is started
    where = arguments.output / name / arguments.recipe
    runs = arguments.output / "runs"
    folders = {model: runs / arguments.recipe / name / model / f"seed{arguments.seeds[0]}" for model in MODELS}
    with in_own_words(OWN_WORDS), ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = {folders[model]: (train, (watch_command(arguments, model, runs),)) for model in MODELS}
        followed(pool, tasks, dict.fromkeys(tasks, arguments.epochs), "watch")
    histories = {model: pd.read_csv(folder / "history.csv") for model, folder in folders.items()}
    where.mkdir(parents=True, exist_ok=True)
    about = json.loads((folders["gru"] / "metrics.json").read_text())
    size = f"{about['protocol']['units_used']} units, {about['data']['seconds']:.0f} s"
    title = f"{name} ({size}), first {trained_bins(about)} bins, seed {arguments.seeds[0]}, {arguments.recipe}"
    return draw_watched(where, folders, histories, title)


def trained_bins(about: dict) -> int:
    start, stop = about["protocol"]["split_bins"]["train"]
    return stop - start


def is_plain_sgd(folder: Path) -> bool:
    """Whether a step is the learning rate times the gradient, as measured: SGD with nothing added."""
    from omegaconf import OmegaConf

    config = OmegaConf.load(folder / "config.yaml")
    extras = [value for key, value in config.optimizer.items() if key not in ("_target_", "_partial_", "lr")]
    return config.optimizer["_target_"] == "torch.optim.SGD" and not any(extras) and config.trainer.clip_norm is None


def watch_command(arguments: argparse.Namespace, model: str, runs: Path) -> list[str]:
    words = [f"experiment={arguments.recipe}", f"model={model}", f"seed={arguments.seeds[0]}", "trainer.watch=true",
             f"trainer.epochs={arguments.epochs}", f"output_dir={quoted(runs)}"]  # fmt: skip
    if arguments.recipe == "source_study":  # it has no validation part: here a tenth of its bins is one, and chooses
        words += ["data.split.val=0.1", "data.split.val_of_rest=0", "trainer.select_on=val"]
    else:
        words += ["trainer.patience=null"]
    if arguments.first_bins:
        words += [f"data.split.first_bins={arguments.first_bins}"]
    if arguments.session:
        words += ["session=local", f"session.path={quoted(arguments.session)}"]
    words += ["overwrite=true"] * arguments.overwrite
    return [sys.executable, "-m", "bci_decode.train", *words]


def quoted(path: Path) -> str:
    """A path as Hydra's command line takes it, whatever is in it."""
    return "'" + str(path).replace("'", "\\'") + "'"


def train(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise BciDecodeError(lines[-1].removeprefix("error: "))


def draw_watched(where: Path, folders: dict[str, Path], histories: dict, title: str) -> tuple[Path, str]:
    """Three pictures and three tables of watched runs and their histories."""
    from bci_decode.layers.introspection import SATURATION_BAND
    from bci_decode.studies.figures import draw_norms, draw_pre_activations, draw_shares

    inside = {model: looked_into(folder) for model, folder in folders.items()}
    found = {moment: {model: inside[model][moment] for model in inside} for moment in next(iter(inside.values()))}
    draw_pre_activations(where / "pre_activations.png", found, title, SATURATION_BAND)
    draw_shares(where / "shares.png", histories, title, SATURATION_BAND)
    plain = all(is_plain_sgd(folder) for folder in folders.values())
    draw_norms(where / "norms.png", histories, title, plain)
    last = max(len(history) for history in histories.values()) - 1
    epochs = [epoch for epoch in (0, 1, 5, 10, 20, 30, 40, 75) if epoch < last] + [last]
    measured = pre_activation_table(found)
    measured.to_csv(where / "pre_activations.csv", index=False)
    texts = [
        added(where, "losses", loss_table(histories, epochs), f"{title}: test loss, (mm/s)².\n"),
        added(where, "pre-activations", side_by_side(measured),
              f"{title}: SD of the pre-activations on the validation part, in brackets the share outside ±{SATURATION_BAND:g}.\n"),
        added(where, "norms", norm_table(histories, epochs, plain), f"{title}: means over an epoch's steps.\n"),
    ]  # fmt: skip
    return where, "\n".join(texts)


def loss_table(histories: dict, epochs: list[int]):
    import pandas as pd

    rows = [
        {"model": NAMES[model]} | {f"epoch {e}": f"{history['test_loss'][e]:.1f}" for e in epochs}
        for model, history in histories.items()
    ]
    return pd.DataFrame(rows)


def pre_activation_table(found: dict):
    """A row for each layer, gate, model and moment: mean, SD and share outside the band."""
    import numpy as np
    import pandas as pd

    from bci_decode.layers.introspection import SATURATION_BAND

    rows = [
        {"layer": layer, "gate": gate, "model": model, "when": moment, "mean": a.mean(), "sd": a.std(),
         "outside": np.mean(np.abs(a) > SATURATION_BAND)}
        for moment, models in found.items() for model, layers in models.items()
        for layer, gates in layers.items() for gate, a in gates.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def side_by_side(measured):
    """A row for each layer and gate, a column for each model and moment."""
    from bci_decode.studies.figures import layer_title

    told = [f"{row.sd:.2f} ({100 * row.outside:.2f} %)" for row in measured.itertuples()]
    columns = [f"{NAMES[row.model]}, {row.when}" for row in measured.itertuples()]
    wide = measured.assign(told=told, column=columns).pivot(index=["layer", "gate"], columns="column", values="told")
    order = sorted(dict.fromkeys(columns))
    rows = list(dict.fromkeys(zip(measured["layer"], measured["gate"], strict=True)))
    shown = wide.loc[rows, sorted(order, key=lambda column: (column.split(",")[0], "untrained" not in column))]
    return shown.rename(index=layer_title, level="layer").reset_index()


def norm_table(histories: dict, epochs: list[int], plain_sgd: bool):
    """A row for each layer, curve and model; the gradient of the untrained decoder is not known."""
    import numpy as np
    import pandas as pd

    from bci_decode.studies.figures import layer_title, layers_of, norm_curves

    rows = [
        {"layer": layer_title(layer), "what": kind, "model": NAMES[model]}
        | {f"epoch {e}": "" if np.isnan(values[e]) else f"{float(f'{values[e]:.2g}'):g}" for e in epochs}
        for layer in layers_of(histories)
        for kind in norm_curves(next(iter(histories.values())), layer, plain_sgd)
        for model, history in histories.items()
        for values in [norm_curves(history, layer, plain_sgd)[kind]]
    ]
    return pd.DataFrame(rows)


def looked_into(folder: Path) -> dict:
    """Pre-activations of a finished run's decoder, untrained and after its last epoch: by moment, layer, gate."""
    import hydra
    import torch
    from omegaconf import OmegaConf

    from bci_decode.layers.introspection import pre_activations
    from bci_decode.training.checkpoint import load_checkpoint
    from bci_decode.training.monitor import monitor_input

    config = OmegaConf.load(folder / "config.yaml")
    about = json.loads((folder / "metrics.json").read_text())
    data = prepared(Path(about["data"]["file"]), config)
    torch.manual_seed(config.seed)
    decoder = hydra.utils.instantiate(config.model, input_size=len(data.units), output_size=2)
    x = monitor_input(torch.as_tensor(data.parts["val"].counts), data.window)
    found = {"untrained": pre_activations(decoder.recurrent, x)}
    epoch = load_checkpoint(folder / "last.pt", decoder)["epoch"]
    found[f"epoch {epoch}"] = pre_activations(decoder.recurrent, x)
    return {
        moment: {layer: {gate: a.numpy().ravel() for gate, a in gates.items()} for layer, gates in layers.items()}
        for moment, layers in found.items()
    }
