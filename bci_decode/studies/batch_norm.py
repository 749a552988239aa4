"""Where batch norm and layer norm differ in a recurrence: statistics, batch size, longer sequences.

Shapes: W windows, T bins, N units, D axes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from bci_decode.data.dataset import Dataset
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.files import made_folder
from bci_decode.layers.norms import BatchNorm, Norm
from bci_decode.models.decoder import Decoder
from bci_decode.runs.build import load_data
from bci_decode.runs.compose import compose_config
from bci_decode.runs.folder import run_folder
from bci_decode.runs.load import load_run
from bci_decode.studies.figures import legend_below
from bci_decode.studies.tables import append_table
from bci_decode.studies.training import (
    data_file,
    quoted,
    session_name,
    session_words,
    train,
    train_all,
    translate_errors,
)
from bci_decode.style import save_figure

NORMS = {
    "layer": "layer norm",
    "batch_per_step": "batch norm, statistics per step",
    "batch_shared": "batch norm, shared statistics",
}
LOOKS = {
    "layer": {"color": "#1a3a9c", "marker": "o"},
    "batch_per_step": {"color": "#b5460f", "marker": "s"},
    "batch_shared": {"color": "#d89a00", "marker": "^"},
}
RUNNING, OWN = "running", "batch"  # whose statistics: of the training so far, or of the batch
LINES = {RUNNING: "-", OWN: "--"}
LONGER = 8  # times as long as in training
GROUP = 16  # bins of a long sequence that are scored together
OPTIONS = {
    "overwrite=true": "--overwrite",
    "output_dir=": "--output",
    "session.path": "--session",
}


@dataclass(frozen=True)
class Comparison:
    """One layer of GRU with a norm of the sum of both sides, trained on short windows.

    All runs have the same epochs, so that smaller batches take more steps; `length` in bins.
    """

    session: Path | None = None
    batch_sizes: tuple[int, ...] = (1, 2, 8, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    length: int = 32
    epochs: int = 8
    overwrite: bool = False

    def words(self, norm: str, batch_size: int, seed: int, output: Path) -> list[str]:
        """The words of one run."""
        return [
            "model=normgru",
            f"model.recurrent.norm={norm}",
            "model.recurrent.place=sum",
            "model.recurrent.num_layers=1",
            "model.recurrent.hidden_size=64",
            "model.recurrent.dropout=0",
            "optimizer.lr=1e-2",
            f"data.window.length={self.length}",
            f"data.window.stride={self.length // 4}",
            f"data.window.burn_in={self.length // 4}",
            f"trainer.batch_size={batch_size}",
            f"trainer.epochs={self.epochs}",
            f"seed={seed}",
            f"overwrite={str(self.overwrite).lower()}",
            f"output_dir={quoted(output / f'{norm}_batch{batch_size}')}",
            *session_words(self.session),
        ]


def batch_norm(output: Path, comparison: Comparison, jobs: int = 1) -> tuple[Path, str]:
    """Train, measure, and draw and tabulate what was measured; the folder and its table."""
    data_file(comparison.session)
    points = [
        (norm, batch_size, seed)
        for batch_size in comparison.batch_sizes  # the longest runs first
        for norm in NORMS
        for seed in comparison.seeds
    ]
    words = {point: comparison.words(*point, output / "runs" / "batch_norm") for point in points}
    folders = {run_folder(compose_config(*own)): own for own in words.values()}
    tasks = {folder: (trained, (own,)) for folder, own in folders.items()}
    with translate_errors(OPTIONS):
        results = train_all(tasks, dict.fromkeys(tasks, comparison.epochs), jobs, "batch norm")
    rows, curves = [], []
    for point, folder in zip(points, results, strict=True):
        norm, batch_size, seed = point
        about = {"norm": norm, "batch_size": batch_size, "seed": seed}
        if folder is None:  # refused
            continue
        scores, curve = measure(folder, batch_size)
        rows += [about | {"statistics": kind, "r2": r2} for kind, r2 in scores.items()]
        if batch_size == max(comparison.batch_sizes):
            curves += [about | {"bins": bins, "r2": r2} for bins, r2 in curve.items()]
    by_batch = pd.DataFrame(rows, columns=["norm", "batch_size", "seed", "statistics", "r2"])
    by_bins = pd.DataFrame(curves)
    folder = output / session_name(comparison.session)
    made_folder(folder)
    by_batch.to_csv(folder / "batch_norm.csv", index=False)
    by_bins.to_csv(folder / "batch_norm_lengths.csv", index=False)
    title = f"{session_name(comparison.session)}, seeds {', '.join(map(str, comparison.seeds))}"
    draw(folder / "batch_norm.png", by_batch, by_bins, comparison, title)
    text = f"{title}: R2 of velocity, mean ± standard error over the seeds. Sequences of "
    text += f"{comparison.length} bins in training.\n"
    table = summary(by_batch, by_bins, comparison)
    return folder, append_table(folder, "batch norm and layer norm", table, text)


def trained(words: list[str]) -> Path | None:
    """Train a run; None where a norm refuses batches of its size."""
    try:
        return train(words)
    except BciDecodeError as refusal:
        if refusal.field == "model.recurrent.norm":
            return None
        raise


def measure(folder: Path, batch_size: int) -> tuple[dict[str, float], dict[int, float]]:
    """R2 on the test part by the statistics used, and by the last bin of groups of bins.

    The first in windows as long as in training, after their burn-in. The second in windows that
    are longer, by the running statistics.
    """
    config = OmegaConf.load(folder / "config.yaml")
    assert isinstance(config, DictConfig)
    data, decoder = load_data(config), load_run(folder).model
    window = data.window
    scores = {}
    for kind in (RUNNING, OWN):
        true, decoded = decode(decoder, data, window.length, batch_size, kind)
        scores[kind] = r2(true[:, window.first_output :], decoded[:, window.first_output :])
    bins = min(LONGER * window.length, len(data.parts["test"].counts) // 2)
    true, decoded = decode(decoder, data, bins, 256, RUNNING)
    ends = range(GROUP, bins + 1, GROUP)
    return scores, {
        end: r2(true[:, end - GROUP : end], decoded[:, end - GROUP : end]) for end in ends
    }


@torch.no_grad()
def decode(
    decoder: Decoder, data: Dataset, length: int, batch_size: int, statistics: str
) -> tuple[np.ndarray, np.ndarray]:
    """Target and output (W, T, D) in windows of the test part, from zero states.

    Windows come in an order drawn by chance, because a batch has its own statistics.
    """
    decoder = copy.deepcopy(decoder).eval()  # batches would change the running statistics
    for module in decoder.modules():
        if isinstance(module, Norm):
            module.train(statistics == OWN)
            if isinstance(module, BatchNorm):
                module.momentum = 0.0
    part = data.parts["test"]
    starts = np.arange(0, len(part.counts) - length + 1, max(GROUP, length // 16))
    windows = np.random.default_rng(0).permutation(starts)[:, None] + np.arange(length)
    counts = torch.as_tensor(part.counts)
    batches = torch.as_tensor(windows).split(batch_size)
    outputs = torch.cat([decoder.forward_windows(counts, batch) for batch in batches])
    shape = *windows.shape, -1
    flat = data.target_scaler.inverse(outputs.flatten(0, 1).double().numpy())
    return part.target[windows], flat.reshape(shape)


def r2(true: np.ndarray, decoded: np.ndarray) -> float:
    """R2 over all windows and bins, mean over the axes."""
    axes = true.shape[-1]
    return float(metrics.r2(true.reshape(-1, axes), decoded.reshape(-1, axes)).mean())


def with_error(values: pd.Series) -> str:
    """The mean and its standard error: .712 ± .004."""
    error = f" ± {values.sem():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{error}"


def summary(by_batch: pd.DataFrame, by_bins: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """A row for each norm: R2 by batch size and statistics, and in longer sequences."""
    rows = []
    for norm, label in NORMS.items():
        row = {"norm": label}
        own = by_batch[by_batch["norm"] == norm]
        for size in comparison.batch_sizes:
            for kind in LINES:
                values = own.loc[(own["batch_size"] == size) & (own["statistics"] == kind), "r2"]
                cell = with_error(values) if len(values) else "refused"
                row[f"batch {size}, {kind} statistics"] = cell
        bins = by_bins[by_bins["norm"] == norm]
        within = bins["bins"] <= comparison.length
        for name, chosen in (("training's length", within), ("beyond it", ~within)):
            values = bins[chosen & (bins["bins"] > GROUP)].groupby("seed")["r2"].mean()
            row[f"batch {max(comparison.batch_sizes)}, {name}"] = with_error(values)
        rows.append(row)
    return pd.DataFrame(rows).set_index("norm").T.rename_axis("R2").reset_index()


def draw(
    path: Path, by_batch: pd.DataFrame, by_bins: pd.DataFrame, comparison: Comparison, title: str
) -> None:
    """R2 against the batch size of the training, and against the bin of a long sequence."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for norm, label in NORMS.items():
        for kind, line in LINES.items():
            own = by_batch[(by_batch["norm"] == norm) & (by_batch["statistics"] == kind)]
            groups = own.groupby("batch_size")["r2"]
            left.errorbar(
                groups.mean().index, groups.mean(), groups.sem().fillna(0), linestyle=line,
                capsize=3, label=f"{label}; {kind}", **LOOKS[norm],
            )  # fmt: skip
        groups = by_bins[by_bins["norm"] == norm].groupby("bins")["r2"]
        right.errorbar(
            groups.mean().index, groups.mean(), groups.sem().fillna(0), capsize=2, **LOOKS[norm]
        )
    left.set_xscale("log", base=2)
    left.set_xticks(comparison.batch_sizes, [str(size) for size in comparison.batch_sizes])
    left.set(xlabel="sequences in a batch of the training", ylabel="R2 on the test part")
    left.set_title("statistics: running, as at test time, or the batch's own, as in training")
    right.axvline(comparison.length, color="0.5", linestyle=":")
    right.set(xlabel=f"last of {GROUP} bins since the sequence's start", ylabel="R2")
    right.set_title("running statistics; dotted: sequences' length in training")
    legend_below(figure, left, 3)
    figure.suptitle(title)
    save_figure(figure, path)
