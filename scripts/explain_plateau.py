"""The part "plateau" of explain.py: optimiser steps to half the plateau against batch size, history, and what else ends it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from explain_common import (
    MODELS,
    NAMES,
    added,
    composed,
    followed,
    in_own_words,
    prepared,
    session_file,
    session_name,
)

BATCH_SIZES, HISTORIES = (1, 4, 16, 64, 256), (5, 10, 20, 50, 100)
BATCH_SIZE, HISTORY = 16, 10  # the source study's
# its LN-GRU has two kinds of LayerNorm: inside the recurrent layers, and over the window's outputs, before the head
PLACES = {
    "gru": ["model=gru"],
    "lngru": ["model=lngru"],
    "gru, outputs normalised": ["model=gru", "+model.norm={_target_:bci_decode.layers.HistoryNorm}"],
    "lngru, outputs not normalised": ["model=lngru", "model.norm=null"],
}
# one thing changed each, without any LayerNorm
OTHERS = {
    "gru, counts z-scored": ["model=gru", "data.scale.counts=zscore"],
    "gru, targets z-scored": ["model=gru", "data.scale.target=zscore"],
    "gru, learning rate 1e-4": ["model=gru", "optimizer.lr=1e-4"],
    "gru, AdamW": ["model=gru", "optimizer=adamw"],  # at the default recipe's learning rate
}
VARIANTS = PLACES | OTHERS
TEST_BINS = 500  # of the plateau's runs
OWN_WORDS = {"data.split.first_bins": "--plateau-bins", "data.window.length": "--histories", "trainer.batch_size": "--batch-sizes"}  # fmt: skip


def plateau(arguments: argparse.Namespace) -> tuple[Path, str]:
    """Batch sizes at the study's history and histories at its batch size, both models, every seed."""
    import pandas as pd

    from bci_decode.files import md5_of
    from bci_decode.studies.figures import draw_plateau

    name, file = session_name(arguments), session_file(arguments)
    settings = {(batch, HISTORY) for batch in arguments.batch_sizes} | {(BATCH_SIZE, h) for h in arguments.histories}
    runs = [(model, batch, history) for batch, history in settings | {(BATCH_SIZE, HISTORY)} for model in MODELS]
    runs += [(variant, BATCH_SIZE, HISTORY) for variant in VARIANTS if variant not in MODELS]
    runs.sort(key=lambda run: -run[2] * run[1] ** 0.5)  # the longest first, so that none is left to run alone
    # another file or other training bins are kept apart by the folder's name
    base = arguments.output / "runs" / "plateau" / f"{name}_{md5_of(file)[:8]}_{arguments.plateau_bins}bins"
    if arguments.overwrite and base.exists():
        shutil.rmtree(base)
    tasks, epochs = {}, {}
    for model, batch, history in runs:
        for seed in arguments.seeds:
            variant = model.replace(", ", "_").replace(" ", "_")
            folder = base / f"batch{batch}_history{history}" / variant / f"seed{seed}"
            windows = max(arguments.plateau_bins - history + 1, 1)
            epochs[folder] = -(-arguments.plateau_steps // -(-windows // batch))
            tasks[folder] = (plateau_run, (folder, file, model, batch, history, seed, arguments.plateau_bins, epochs[folder]))  # fmt: skip
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}  # of the processes: one bar here is for all
    spawn, end_quietly = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_DFL)
    with in_own_words(OWN_WORDS), ProcessPoolExecutor(arguments.jobs, spawn, signal.signal, end_quietly) as pool:
        rows = followed(pool, tasks, epochs, "plateau")
    table = pd.DataFrame(rows).sort_values(["batch_size", "history", "model", "seed"], ignore_index=True)
    where = arguments.output / name
    where.mkdir(parents=True, exist_ok=True)
    table.to_csv(where / "plateau.csv", index=False)
    seeds = f"seed{'s' * (len(arguments.seeds) > 1)} {', '.join(map(str, arguments.seeds))}"
    title = f"{name}, {seeds}, source_study, first {arguments.plateau_bins} bins"
    cap = arguments.plateau_steps
    draw_plateau(where / "plateau.png", table, title, cap)
    tested = " or ".join(str(bins) for bins in sorted(set(table["test_bins"])))
    text = (
        f"{title} train, the {tested} after them test: steps of the optimiser to half the plateau, in brackets epochs, "
        "of each seed.\n"
    )
    tables = {
        "plateau": plateau_table(table, cap),
        "which LayerNorm": variant_table(table, PLACES, cap),
        "what else ends the plateau": variant_table(table, {"gru": None, **OTHERS}, cap),
    }
    return where, "\n".join(added(where, what, own, text) for what, own in tables.items())


def plateau_run(
    folder: Path, file: Path, model: str, batch: int, history: int, seed: int, bins: int, epochs: int
) -> dict:
    import torch

    from bci_decode.studies.plateau import PlateauTrainer, with_short_test

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
    steps, half = -(-len(trainer.windows) // batch), trainer.half_epoch()
    if half is not None and half > epochs:  # of a run that was longer then
        half = None
    return {
        "varied": varied[batch == BATCH_SIZE, history == HISTORY],
        "batch_size": batch,
        "history": history,
        "model": model,
        "seed": seed,
        "steps_per_epoch": steps,
        "half_plateau_steps": None if half is None else half * steps,
        "half_plateau_epoch": half,
        "epochs": min(int(run["epoch"].iloc[-1]), epochs),
        "test_bins": len(data.parts["test"]),
        "plateau": trainer.plateau,
        "test_loss": float(run["test_loss"][min(len(run) - 1, epochs)]),
        "seconds": float(run["seconds"].sum()),
    }


def plateau_table(table, cap: int):
    """A row for each setting, a column for each model."""
    import pandas as pd

    rows = [
        {"batch size": batch, "history": history}
        | {name: steps_told(some[some["model"] == model], cap) for model, name in NAMES.items()}
        for (batch, history), some in table.groupby(["batch_size", "history"])
    ]
    return pd.DataFrame(rows)


def variant_table(table, variants, cap: int):
    """A row for each variant, at the study's batch size and history."""
    import pandas as pd

    some = table[table["varied"] == "both"]
    rows = []
    for variant in variants:
        runs, (model, *changed) = some[some["model"] == variant], variant.split(", ")
        losses = ", ".join(f"{loss:.0f} of {plateau:.0f}" for loss, plateau in zip(runs["test_loss"], runs["plateau"], strict=True))  # fmt: skip
        name = ", ".join([NAMES[model], *changed])
        rows.append({"model": name, "steps (epochs)": steps_told(runs, cap), "test loss at the end, of the plateau": losses})  # fmt: skip
    return pd.DataFrame(rows)


def steps_told(runs, cap: int) -> str:
    import pandas as pd

    return ", ".join(
        f"not within {cap} ({epochs})" if pd.isna(half) else f"{int(half) * steps} ({int(half)})"
        for half, steps, epochs in zip(runs["half_plateau_epoch"], runs["steps_per_epoch"], runs["epochs"], strict=True)
    )
