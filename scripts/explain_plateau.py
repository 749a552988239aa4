"""The part "plateau" of explain.py: epochs to half the plateau against batch size, history and place of the LayerNorm."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from explain_common import MODELS, NAMES, added, composed, followed, prepared, session_file, session_name

BATCH_SIZES, HISTORIES = (1, 4, 16, 64, 256), (5, 10, 20, 50, 100)
BATCH_SIZE, HISTORY = 16, 10  # the source study's
# its LN-GRU has two kinds of LayerNorm: inside the recurrent layers, and over the window's outputs, before the head
VARIANTS = {
    "gru": ["model=gru"],
    "lngru": ["model=lngru"],
    "gru, outputs normalised": ["model=gru", "+model.norm={_target_:bci_decode.layers.HistoryNorm}"],
    "lngru, outputs not normalised": ["model=lngru", "model.norm=null"],
}
TEST_BINS = 500  # of the plateau's runs


def plateau(arguments: argparse.Namespace) -> tuple[Path, str]:
    """Batch sizes at the study's history and histories at its batch size, both models, every seed."""
    import pandas as pd

    from bci_decode.explain_plots import draw_plateau
    from bci_decode.files import md5_of

    name, file = session_name(arguments), session_file(arguments)
    settings = {(batch, HISTORY) for batch in arguments.batch_sizes} | {(BATCH_SIZE, h) for h in arguments.histories}
    runs = [(model, batch, history) for batch, history in settings | {(BATCH_SIZE, HISTORY)} for model in MODELS]
    runs += [(variant, BATCH_SIZE, HISTORY) for variant in VARIANTS if variant not in MODELS]
    runs.sort(key=lambda run: -run[2] - 200 / run[1])  # the longest first, so that none is left to run alone
    # another file or another length of training is kept apart by the folder's name
    base = arguments.output / "runs" / "plateau" / f"{name}_{md5_of(file)[:8]}_{arguments.plateau_bins}bins"
    if arguments.overwrite and base.exists():
        shutil.rmtree(base)
    tasks = {}
    for model, batch, history in runs:
        for seed in arguments.seeds:
            folder = (
                base / f"batch{batch}_history{history}" / model.replace(", ", "_").replace(" ", "_") / f"seed{seed}"
            )
            tasks[folder] = (plateau_run, (folder, file, model, batch, history, seed, arguments.plateau_bins, arguments.plateau_epochs))  # fmt: skip
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}  # of the processes: one bar here is for all
    spawn, end_quietly = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(arguments.jobs, spawn, signal.signal, end_quietly) as pool:
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
    text = f"{title}: epochs to half the plateau (steps of the optimiser), each seed's.\n"
    both = added(where, "plateau", plateau_table(table, cap), text)
    return where, both + "\n" + added(where, "which LayerNorm", variant_table(table, cap), text)


def plateau_run(
    folder: Path, file: Path, model: str, batch: int, history: int, seed: int, bins: int, epochs: int
) -> dict:
    import torch

    from bci_decode.plateau import PlateauTrainer, with_short_test

    words = [*VARIANTS[model], f"trainer.batch_size={batch}", f"data.window.length={history}", f"seed={seed}",
             f"trainer.epochs={epochs}", f"data.split.first_bins={bins}", "data.split.val_of_rest=0"]  # fmt: skip
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
    """A row for each setting, a column for each model."""
    import pandas as pd

    rows = [
        {"batch size": batch, "history": history}
        | {name: epochs_told(some[some["model"] == model], cap) for model, name in NAMES.items()}
        for (batch, history), some in table.groupby(["batch_size", "history"])
    ]
    return pd.DataFrame(rows)


def variant_table(table, cap: int):
    """A row for each place of a LayerNorm, at the study's batch size and history."""
    import pandas as pd

    some = table[table["varied"] == "both"]
    rows = [
        {
            "model": name.replace(name.split(",")[0], NAMES[name.split(",")[0]]),
            "epochs (steps)": epochs_told(some[some["model"] == name], cap),
        }
        for name in VARIANTS
    ]
    return pd.DataFrame(rows)


def epochs_told(runs, cap: int) -> str:
    import pandas as pd

    return ", ".join(
        f"not within {cap}" if pd.isna(epoch) else f"{int(epoch)} ({int(epoch) * steps})"
        for epoch, steps in zip(runs["half_plateau_epoch"], runs["steps_per_epoch"], strict=True)
    )
