"""The part "watch" of explain.py: what goes on inside the recurrent layers while they are trained."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from explain_common import MODELS, followed, kept, prepared, session_file, session_name

from bci_decode.errors import BciDecodeError


def watch(arguments: argparse.Namespace) -> tuple[Path, str]:
    """GRU and LN-GRU trained with trainer.watch=true by the command line that anybody uses, and looked into."""
    import pandas as pd

    name = session_name(arguments)
    session_file(arguments)  # refuses one that is not there before any process is started
    where = arguments.output / name / arguments.recipe
    runs = arguments.output / "runs"
    folders = {model: runs / arguments.recipe / name / model / f"seed{arguments.seeds[0]}" for model in MODELS}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = {folders[model]: (train, (watch_command(arguments, model, runs),)) for model in MODELS}
        followed(pool, tasks, arguments.epochs, "watch")
    histories = {model: pd.read_csv(folder / "history.csv") for model, folder in folders.items()}
    where.mkdir(parents=True, exist_ok=True)
    about = json.loads((folders["gru"] / "metrics.json").read_text())
    size = f"{about['protocol']['units_used']} units, {about['data']['seconds']:.0f} s"
    title = f"{name} ({size}), seed {arguments.seeds[0]}, {arguments.recipe}"
    return draw_watched(where, folders, histories, title)


def watch_command(arguments: argparse.Namespace, model: str, runs: Path) -> list[str]:
    words = [f"experiment={arguments.recipe}", f"model={model}", f"seed={arguments.seeds[0]}", "trainer.watch=true",
             f"trainer.epochs={arguments.epochs}", f"output_dir='{runs}'"]  # fmt: skip
    if arguments.recipe == "source_study":  # it has no validation part: here a tenth of its bins is one, and chooses
        words += ["data.split.val=0.1", "trainer.select_on=val"]
    else:
        words += ["trainer.patience=null"]
    if arguments.first_bins:
        words += [f"data.split.first_bins={arguments.first_bins}"]
    if arguments.session:
        words += ["session=local", f"session.path='{arguments.session}'"]
    words += ["overwrite=true"] * arguments.overwrite
    return [sys.executable, "-m", "bci_decode.train", *words]


def train(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        told = lines[-1].removeprefix("error: ")  # in the words of this command's options
        raise BciDecodeError(told.replace("overwrite=true", "--overwrite").replace("output_dir=", "--output"))


def draw_watched(where: Path, folders: dict[str, Path], histories: dict, title: str) -> tuple[Path, str]:
    import numpy as np
    import pandas as pd

    from bci_decode.explain_plots import draw_norms, draw_pre_activations, draw_shares, layers_of, norm_curves
    from bci_decode.watch import BAND, GATES

    inside = {model: looked_into(folder) for model, folder in folders.items()}
    moments = next(iter(inside.values()))
    found = {moment: {model: inside[model][moment] for model in inside} for moment in moments}
    draw_pre_activations(where / "pre_activations.png", found, title, BAND)
    draw_shares(where / "shares.png", histories, title, BAND)
    draw_norms(where / "norms.png", histories, title)
    layers = layers_of(histories)
    inner = [
        {"layer": layer, "gate": gate, "model": model, "when": moment, "mean": f"{a.mean():.2f}", "SD": f"{a.std():.2f}",
         f"share outside ±{BAND:g}": f"{np.mean(np.abs(a) > BAND):.4f}"}
        for layer in layers for gate in GATES for model in inside
        for moment, a in ((moment, inside[model][moment][layer][gate]) for moment in moments)
    ]  # fmt: skip
    last = max(len(history) for history in histories.values()) - 1
    epochs = [epoch for epoch in (0, 1, 5, 10, 20, 40, 75) if epoch < last] + [last]
    shares, norms = [], []
    for model, history in histories.items():
        at = history[history["epoch"].isin(epochs)]
        for layer in layers:
            shares += [
                {"model": model, "layer": layer, "gate": gate}
                | {f"epoch {e}": f"{v:.4f}" for e, v in zip(at["epoch"], at[f"outside_{layer}_{gate}"], strict=True)}
                for gate in GATES
            ]
            norms += [
                {"model": model, "layer": layer, "of": kind}
                | {
                    f"epoch {e}": "" if np.isnan(v) else f"{v:.3g}"
                    for e, v in zip(at["epoch"], values[at.index], strict=True)
                }
                for kind, values in norm_curves(history, layer).items()
            ]
    losses = [{"model": model} | {f"epoch {e}": f"{history['test_loss'][e]:.1f}" for e in epochs if e < len(history)} for model, history in histories.items()]  # fmt: skip
    texts = [
        kept(where, name, pd.DataFrame(rows), f"{title}: {about}.\n")[1]
        for name, rows, about in (
            ("losses", losses, "test loss, (mm/s)²"),
            ("pre_activations", inner, "pre-activations on the validation part"),
            ("shares", shares, f"share of pre-activations outside ±{BAND:g} on the validation part"),
            ("norms", norms, "norms by epoch"),
        )
    ]
    return where, "\n".join(texts)


def looked_into(folder: Path) -> dict:
    """Pre-activations of a finished run's decoder, untrained and after its last epoch: by moment, layer, gate."""
    import hydra
    import torch
    from omegaconf import OmegaConf

    from bci_decode.checkpoint import load_checkpoint
    from bci_decode.watch import pre_activations, watched_input

    config = OmegaConf.load(folder / "config.yaml")
    about = json.loads((folder / "metrics.json").read_text())
    data = prepared(Path(about["data"]["file"]), config)
    torch.manual_seed(config.seed)
    decoder = hydra.utils.instantiate(config.model, input_size=len(data.units), output_size=2)
    x = watched_input(torch.as_tensor(data.parts["val"].counts), data.window)
    found = {"untrained": pre_activations(decoder.recurrent, x)}
    epoch = load_checkpoint(folder / "last.pt", decoder)["epoch"]
    found[f"epoch {epoch}"] = pre_activations(decoder.recurrent, x)
    return {
        moment: {layer: {gate: a.numpy().ravel() for gate, a in gates.items()} for layer, gates in layers.items()}
        for moment, layers in found.items()
    }
