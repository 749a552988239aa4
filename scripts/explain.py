"""Show why LayerNorm helps a GRU, and where it does not, by pictures and tables made from this project's own layers and runs.

parts:
  functions      sigmoid and tanh with their derivatives: where a gate no longer learns
  distributions  two extreme distributions of pre-activations before and after LayerNorm
  invariance     Table 1 of Ba, Kiros and Hinton 2016, measured cell by cell
  watch          trains GRU and LN-GRU and looks inside: pre-activations, gradient norms, growth of the weights
  plateau        epochs to half the plateau against batch size and history, by the source study's recipe

Writes PNG and CSV files, and all tables as Markdown in tables.md: into the output folder what needs no session, the rest
into a folder of the session's name in it. Training that was interrupted goes on where it stopped, and what is trained is
not trained again; --overwrite forgets it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

from bci_decode.errors import BciDecodeError, exit_on_mistake

MODELS = ("gru", "lngru")
BATCH_SIZES, HISTORIES = (1, 4, 16, 64, 256), (5, 10, 20, 50, 100)
BATCH_SIZE, HISTORY = 16, 10  # the source study's
TEST_BINS = 500  # of the plateau's runs
EXTREMES = {"mean 7, SD 1": (7, 1), "mean 0, SD 10": (0, 10)}
UNITS = 1024  # drawn for each extreme distribution


def main() -> None:
    arguments = parsed()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    texts = [PARTS[part](arguments) for part in arguments.parts]
    for where, text in texts:
        print(f"\n{text}")
        print(f"wrote to {where}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="default: all")
    parser.add_argument("--output", type=Path, default=Path("outputs/explain"), help="default: outputs/explain")
    parser.add_argument("--session", type=Path, help="a recording, .mat; default: the simulated session")
    parser.add_argument("--recipe", choices=("source_study", "default"), default="source_study", help="of the part watch; default: source_study")  # fmt: skip
    parser.add_argument("--first-bins", type=whole, help="watch: bins to train and validate on; default: the recipe's")
    parser.add_argument("--epochs", type=whole, default=40, help="watch: default 40")
    parser.add_argument("--plateau-bins", type=whole, default=2000, help="plateau: bins to train on; default: 2000")
    parser.add_argument("--plateau-epochs", type=whole, default=75, help="plateau: most epochs of a run; default: 75")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="plateau: default 0; watch takes the first")
    parser.add_argument("--jobs", type=whole, default=1, help="processes that train at the same time; default: 1")
    parser.add_argument("--overwrite", action="store_true", help="train anew what is trained already")
    return parser.parse_args()


def whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def functions(arguments: argparse.Namespace) -> tuple[Path, str]:
    from bci_decode.explain_plots import draw_functions
    from bci_decode.watch import BAND

    draw_functions(arguments.output / "functions.png", BAND)
    return arguments.output, f"functions.png: sigmoid, tanh and their derivatives, ±{BAND:g} shaded"


def distributions(arguments: argparse.Namespace) -> tuple[Path, str]:
    import pandas as pd
    import torch

    from bci_decode.explain_plots import draw_distributions
    from bci_decode.invariance import layer_norm
    from bci_decode.watch import BAND, share_outside

    random = torch.Generator().manual_seed(0)
    before = {name: mean + sd * torch.randn(UNITS, generator=random) for name, (mean, sd) in EXTREMES.items()}
    # the identity as weights: the layer's linear map leaves what it normalises as it is
    after = {name: layer_norm(torch.eye(UNITS), a[None], eps=1e-5)[0] for name, a in before.items()}
    rows = [
        {"pre-activations": name, "when": when, "mean": float(a[name].mean()), "SD": float(a[name].std()),
         f"share outside ±{BAND:g}": share_outside(a[name])}
        for name in before
        for when, a in (("before", before), ("after LayerNorm", after))
    ]  # fmt: skip
    as_arrays = [{name: a.numpy() for name, a in some.items()} for some in (before, after)]
    draw_distributions(arguments.output / "distributions.png", as_arrays[0], as_arrays[1], BAND)
    return kept(arguments.output, "distributions", pd.DataFrame(rows))


def invariance(arguments: argparse.Namespace) -> tuple[Path, str]:
    from bci_decode.invariance import as_in_the_paper, invariance_table

    table = invariance_table()
    where, _ = kept(arguments.output, "invariance", table)
    agree = int((table["found"] == table["paper"]).sum())
    shown = as_in_the_paper(table)
    text = f"{agree} of {len(table)} cells as in the paper; in brackets the largest relative change of an output.\n"
    return where, added(where, "invariance", shown.reset_index(), text)


def watch(arguments: argparse.Namespace) -> tuple[Path, str]:
    """GRU and LN-GRU trained with trainer.watch=true by the command line that anybody uses, and looked into."""
    import pandas as pd

    name = session_name(arguments)
    where = arguments.output / name / arguments.recipe
    runs = arguments.output / "runs"
    folders = {model: runs / arguments.recipe / name / model / f"seed{arguments.seeds[0]}" for model in MODELS}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tasks = {folders[model]: (train, (watch_command(arguments, model, runs),)) for model in MODELS}
        followed(pool, tasks, arguments.epochs, "watch")
    histories = {model: pd.read_csv(folder / "history.csv") for model, folder in folders.items()}
    where.mkdir(parents=True, exist_ok=True)
    title = f"{name}, seed {arguments.seeds[0]}, {arguments.recipe}"
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
        raise BciDecodeError(lines[-1].removeprefix("error: "))


def draw_watched(where: Path, folders: dict[str, Path], histories: dict, title: str) -> tuple[Path, str]:
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
                | {f"epoch {e}": f"{v:.3g}" for e, v in zip(at["epoch"], values[at.index], strict=True)}
                for kind, values in norm_curves(history, layer).items()
            ]
    losses = [{"model": model} | {f"epoch {e}": f"{history['test_loss'][e]:.1f}" for e in epochs if e < len(history)} for model, history in histories.items()]  # fmt: skip
    texts = [
        kept(where, name, pd.DataFrame(rows), f"{title}: {about}.\n")[1]
        for name, rows, about in (
            ("losses", losses, "test loss, (mm/s)²"),
            ("shares", shares, f"share of pre-activations outside ±{BAND:g} on the validation part"),
            ("norms", norms, "norms by epoch"),
        )
    ]
    return where, "\n".join(texts)


def looked_into(folder: Path) -> dict:
    """Pre-activations of a finished run's decoder, untrained and after its last epoch: by moment, layer, gate."""
    import json

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


def prepared(file: Path, config):
    """The data set of a composed configuration."""
    from omegaconf import OmegaConf

    from bci_decode.binning import bin_session
    from bci_decode.config import DataConfig
    from bci_decode.dataset import prepare
    from bci_decode.session import read_session

    typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), config.data))
    assert isinstance(typed, DataConfig)
    grid = {name: getattr(typed, name) for name in ("bin_width", "lag", "target", "source", "units", "area")}
    return prepare(bin_session(read_session(file), **grid), typed)


def plateau(arguments: argparse.Namespace) -> tuple[Path, str]:
    """Batch sizes at the study's history and histories at its batch size, both models, every seed."""
    import pandas as pd

    from bci_decode.explain_plots import draw_plateau
    from bci_decode.files import md5_of

    name, file = session_name(arguments), session_file(arguments)
    settings = [(BATCH_SIZE, history) for history in HISTORIES]
    settings += [(batch, HISTORY) for batch in BATCH_SIZES if batch != BATCH_SIZE]
    # the longest first, so that no process is left with them alone; a folder is of one file and one length of training
    settings.sort(key=lambda setting: -setting[1] - 200 / setting[0])
    runs = arguments.output / "runs" / "plateau" / f"{name}_{md5_of(file)[:8]}_{arguments.plateau_bins}bins"
    if arguments.overwrite and runs.exists():
        shutil.rmtree(runs)
    tasks = {}
    for batch, history in settings:
        for model in MODELS:
            for seed in arguments.seeds:
                folder = runs / f"batch{batch}_history{history}" / model / f"seed{seed}"
                tasks[folder] = (plateau_run, (folder, file, model, batch, history, seed, arguments.plateau_bins, arguments.plateau_epochs))  # fmt: skip
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}  # of the processes: one bar here is for all
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        rows = followed(pool, tasks, arguments.plateau_epochs, "plateau")
    table = pd.DataFrame(rows).sort_values(["batch_size", "history", "model", "seed"], ignore_index=True)
    seeds = ", ".join(map(str, arguments.seeds))
    title = (
        f"{name}, seed{'s' * (len(arguments.seeds) > 1)} {seeds}, source_study, {arguments.plateau_bins} training bins"
    )
    where = arguments.output / name
    where.mkdir(parents=True, exist_ok=True)
    cap = arguments.plateau_epochs
    draw_plateau(where / "plateau.png", table, title, cap)
    table.to_csv(where / "plateau.csv", index=False)
    text = f"{title}: epochs to half the plateau, each seed's.\n"
    return where, added(where, "plateau", plateau_table(table, cap), text)


def plateau_run(
    folder: Path, file: Path, model: str, batch: int, history: int, seed: int, bins: int, epochs: int
) -> dict:
    import torch

    from bci_decode.plateau import PlateauTrainer, with_short_test

    words = [f"model={model}", f"trainer.batch_size={batch}", f"data.window.length={history}", f"seed={seed}",
             f"trainer.epochs={epochs}", f"data.split.first_bins={bins}"]  # fmt: skip
    config, typed = composed("experiment=source_study", *words)
    import hydra

    data = with_short_test(prepared(file, config), TEST_BINS)
    torch.manual_seed(seed)
    decoder = hydra.utils.instantiate(config.model, input_size=len(data.units), output_size=2)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = PlateauTrainer(
        decoder, data, folder, typed.trainer, hydra.utils.instantiate(config.optimizer), None, seed
    )
    run = trainer.fit()
    varied = {(True, True): "both", (True, False): "history", (False, True): "batch_size"}
    return {
        "varied": varied[batch == BATCH_SIZE, history == HISTORY],
        "batch_size": batch,
        "history": history,
        "model": model,
        "seed": seed,
        "steps_per_epoch": -(-len(trainer.windows) // batch),
        "half_plateau_epoch": trainer.half_epoch(),
        "epochs": int(run["epoch"].iloc[-1]),
        "plateau": trainer.plateau,
        "test_loss": float(run["test_loss"].iloc[-1]),
        "seconds": float(run["seconds"].sum()),
    }


def plateau_table(table, cap: int):
    """A row for each setting, a column for each model: epochs, and in brackets steps of the optimiser."""
    import pandas as pd

    def told(runs: pd.DataFrame) -> str:
        return ", ".join(
            f"not within {cap}" if pd.isna(epoch) else f"{int(epoch)} ({int(epoch) * steps})"
            for epoch, steps in zip(runs["half_plateau_epoch"], runs["steps_per_epoch"], strict=True)
        )

    names = {"gru": "GRU, epochs (steps)", "lngru": "LN-GRU, epochs (steps)"}
    rows = [
        {"batch size": batch, "history": history}
        | {name: told(some[some["model"] == model]) for model, name in names.items()}
        for (batch, history), some in table.groupby(["batch_size", "history"])
    ]
    return pd.DataFrame(rows)


def followed(pool: Executor, tasks: dict[Path, tuple[Callable, tuple]], epochs: int, name: str) -> list:
    """What the tasks return, with a bar of all epochs, counted in the history.csv of their folders."""
    from tqdm import tqdm

    futures: dict[Path, Future] = {folder: pool.submit(call, *words) for folder, (call, words) in tasks.items()}
    try:
        with tqdm(total=epochs * len(tasks), desc=name, unit="epoch", disable=None) as bar:
            while True:
                pending = wait(futures.values(), timeout=1).not_done
                counts = {folder: trained_epochs(folder) for folder in futures}
                # a run that has stopped early has no more epochs to come
                bar.total = sum(counts[folder] if futures[folder].done() else epochs for folder in futures)
                bar.n = sum(counts.values())
                bar.refresh()
                failed = [future for future in futures.values() if future.done() and future.exception()]
                if failed or not pending:
                    break
        return [future.result() for future in [*failed, *futures.values()]]
    finally:
        for future in futures.values():
            future.cancel()


def trained_epochs(folder: Path) -> int:
    try:
        return max((folder / "history.csv").read_text().count("\n") - 2, 0)
    except OSError:
        return 0


def composed(*words: str):
    """The configuration of a command line, as it is and typed."""
    import hydra
    from omegaconf import OmegaConf

    from bci_decode.config import TrainConfig
    from bci_decode.train import CONF, register_configs

    register_configs()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", list(words))
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, TrainConfig)
    return config, typed


def session_name(arguments: argparse.Namespace) -> str:
    return arguments.session.stem if arguments.session else "simulated"


def session_file(arguments: argparse.Namespace) -> Path:
    """The recording, or the simulated session, which is made where it is not there yet."""
    if arguments.session:
        if not arguments.session.is_file():
            raise BciDecodeError("no such file", file=arguments.session, remedy="give a recording's path to --session")
        return arguments.session
    import hydra

    config, _ = composed()
    return hydra.utils.instantiate({key: value for key, value in config.session.items() if key != "name"})


def kept(where: Path, name: str, table, text: str = "") -> tuple[Path, str]:
    """The table as NAME.csv in a folder, and as Markdown in its tables.md."""
    table.to_csv(where / f"{name}.csv", index=False)
    return where, added(where, name, table, text)


def added(where: Path, name: str, table, text: str = "") -> str:
    """Put a table into the folder's tables.md, in place of the one of the same name."""
    from bci_decode.compare import markdown
    from bci_decode.files import written_whole

    path = where / "tables.md"
    parts = path.read_text().split("## ")[1:] if path.exists() else []
    part = f"{name}\n\n{text}" + "\n" * bool(text) + markdown(table) + "\n"
    parts = [old for old in parts if not old.startswith(f"{name}\n")] + [part]
    with written_whole(path) as temporary:
        temporary.write_text("".join(f"## {part}" for part in parts))
    return part


PARTS = {
    "functions": functions,
    "distributions": distributions,
    "invariance": invariance,
    "watch": watch,
    "plateau": plateau,
}


if __name__ == "__main__":
    exit_on_mistake(main)
