"""Train a decoder: one visible loop over epochs that resumes from `last.pt`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from bci_decode.config import TrainerConfig
from bci_decode.data.dataset import Dataset
from bci_decode.data.parts import Scaler
from bci_decode.data.split import enclosing
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.files import written_whole
from bci_decode.layers.stacked import StackedRecurrent
from bci_decode.models.decoder import TrainedDecoder, check_window
from bci_decode.training import resume
from bci_decode.training.augmentation import Augmentation
from bci_decode.training.averaging import WeightAverage
from bci_decode.training.checkpoint import data_state, load_checkpoint, save_checkpoint
from bci_decode.training.history import history_columns, part_columns
from bci_decode.training.monitor import LayerMonitor, monitor_input
from bci_decode.training.reconstruction import Reconstruction
from bci_decode.training.reproducible import reproducible
from bci_decode.training.surroundings import (
    check_config,
    check_optimizer,
    check_scheduler,
    chosen_device,
    set_threads,
)
from bci_decode.training.timing import Stopwatch
from bci_decode.training.windows import TrainingWindows

log = logging.getLogger(__name__)

# how the best epoch is selected: the deciding column of the history, and the sign that makes the
# best value the lowest
SELECTION = {"val": ("val_loss", 1.0), "test": ("test_r2", -1.0), "last": ("epoch", -1.0)}


class Trainer:
    """Trains one decoder on one data set, with files that allow a stop after every epoch.

    `history.csv`, `best.pt` and `last.pt` are written to `folder` each epoch.

    `optimizer(parameters)` makes a `torch.optim` optimizer, `scheduler(optimizer)` a learning-rate
    schedule that is stepped once an epoch (`ReduceLROnPlateau` on the validation loss), or at each
    step of the optimizer if it has `per_step`.
    `fingerprint` identifies the data: a `last.pt` of other data is refused. `about` goes into the
    checkpoints: all that a decoder needs besides its weights. `settings` go into `last.pt`, and
    `check_settings` refuses those of a `last.pt` of another run. Losses are mean squared errors in
    the target's unit squared, averaged over the axes and the bins of known target; the training
    uses the same in scaled units.
    """

    def __init__(
        self,
        decoder: TrainedDecoder,
        data: Dataset,
        folder: Path,
        config: TrainerConfig,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
        fingerprint: str = "",
        stopwatch: Stopwatch | None = None,
        about: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        check_settings: Callable[[dict[str, Any]], None] | None = None,
        progress: bool = True,
    ):
        check_config(config, data)
        check_window(decoder, data.window.history)
        self.device = chosen_device(config.device)
        if config.threads is not None:
            set_threads(config.threads)
        self.decoder, self.data = decoder.to(self.device), data
        self.folder, self.config = folder, config
        self._place_tensors()
        self.reconstruction = None
        if config.reconstruction:
            self.reconstruction = Reconstruction(decoder.members, self.augment).to(self.device)
        learned = [decoder, self.reconstruction] if self.reconstruction else [decoder]
        self.optimizer = optimizer([p for module in learned for p in module.parameters()])
        check_optimizer(self.optimizer)
        self.averaged = None
        if config.ema:
            self.averaged = WeightAverage(decoder, config.ema)
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.per_step = getattr(self.scheduler, "per_step", False)
        check_scheduler(self.scheduler, data)
        if self.per_step:
            steps = -(-len(self.training) // config.batch_size)
            self.scheduler.set_steps_per_epoch(steps)  # type: ignore[union-attr]
        self.fingerprint, self.stopwatch = fingerprint, stopwatch or Stopwatch()
        self.about, self.progress = about or {}, progress
        self.settings, self.check_settings = settings or {}, check_settings
        self.on_epoch: Callable[[dict[str, float]], None] | None = None
        self.shuffle_rng = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {}  # the selected epoch so far, and its weights
        self.monitor = None
        if config.monitor_layers and decoder.members[0].encoder is not None:
            raise BciDecodeError(
                "sees the counts, which this model encodes before its recurrent layers",
                field="trainer.monitor_layers",
                remedy="set it to false",
            )
        if config.monitor_layers:  # never the test part: users may change settings by what they see
            part = "val" if "val" in self.counts else "train"
            seen = self.counts[part][data.parts[part].longest]
            first = decoder.members[0].recurrent
            self.monitor = LayerMonitor(first, monitor_input(seen, data.window))
        scored = ("val", "test", *(["holdout"] if "holdout" in data.parts else []))
        self.columns = history_columns(scored, data.axes)
        self.columns += self.monitor.names if self.monitor else []

    def _place_tensors(self) -> None:
        """Put counts, target and windows on the device, once."""
        inside = enclosing(self.data.slices)
        self.counts = {
            name: torch.as_tensor(part.counts, device=self.device)
            for name, part in self.data.parts.items()
            if name not in inside
        }
        self.training = TrainingWindows(self.data, self.device)
        self.augment = Augmentation(self.config, self.data.counts_scaler, self.device)

    @property
    def scored(self) -> TrainedDecoder:
        """The decoder that is scored and kept: with `ema` the one of the averaged weights."""
        return self.averaged.module if self.averaged else self.decoder  # type: ignore[return-value]

    def fit(self, on_epoch: Callable[[dict[str, float]], None] | None = None) -> pd.DataFrame:
        """Train to the last epoch, or until `patience` ends it; returns the history.

        `on_epoch` gets each new row of the history.
        """
        self.on_epoch = on_epoch
        with reproducible(self.device):
            self._fit()
        return pd.DataFrame(self.history, columns=self.columns)

    def _fit(self) -> None:
        if self._is_begun():
            self._resume()
        with self.stopwatch.part("load compiled layers"):
            for layer in self.decoder.modules():
                if isinstance(layer, StackedRecurrent):
                    layer.prepare()
        if not self.history:
            with self.stopwatch.part("untrained scores"):
                row = self._epoch_record(0, *self._score_training_windows())
            self._finish_epoch(row)
        self.stopwatch.once("start to first epoch", self.stopwatch.started)
        hidden = None if self.progress else True  # None: hidden where standard error is no terminal
        first = len(self.history) - 1
        bar = tqdm(total=self.config.epochs, initial=first, unit="epoch", disable=hidden)
        with bar, _lines_above_the_bar(self.progress):
            while len(self.history) <= self.config.epochs and not self.should_stop():
                started = time.perf_counter()
                epoch = len(self.history)
                with self.stopwatch.part("training epoch"):
                    train_loss, train_r2 = self._train_epoch()
                with self.stopwatch.part("evaluation"):
                    row = self._epoch_record(epoch, train_loss, train_r2)
                row["seconds"] = time.perf_counter() - started
                self._finish_epoch(row)
                bar.set_postfix(self._postfix())
                bar.update()
            bar.total = bar.n  # an early stop is no unfinished bar
            bar.refresh()
        if len(self.history) <= self.config.epochs:
            log.info(
                "stopped early at epoch %d: no lower validation loss for %d epochs",
                len(self.history) - 1,
                self.config.patience,
            )

    def _is_begun(self) -> bool:
        return (self.folder / "last.pt").exists()

    def _resume(self) -> None:
        """Continue from `last.pt`, which alone counts: other files may be of a later epoch."""
        resume.restore(self, self.folder / "last.pt")
        self._write_best()
        self._write_history()

    def _train_epoch(self) -> tuple[float, np.ndarray]:
        """One pass over the training windows.

        Returns loss and R2 of the outputs while they are learned from.
        """
        return self._loss_and_r2(*self._train_batches())

    def _train_batches(self) -> tuple[Tensor, Tensor]:
        """Learn from each window once; the target and the outputs, scaled (bins, D).

        Each member of an ensemble has an order, a loss and a gradient norm of its own, and the
        outputs are those of the members one by one. Nothing here waits for the device, which would
        leave a GPU without work.
        """
        self.decoder.train()
        started, members = time.perf_counter(), self.decoder.members
        orders = [self.training.order(self.config.shuffle, self.shuffle_rng) for _ in members]
        decoded, wanted = [], []
        for batches in zip(*(order.split(self.config.batch_size) for order in orders), strict=True):
            self.optimizer.zero_grad()
            for number, bins in enumerate(batches):  # (B, T)
                y = self.training.target_of(bins)
                outputs, loss = self._outputs_and_loss(number, bins, y)
                loss.backward()
                decoded.append(outputs.detach().flatten(0, 1))
                wanted.append(y.flatten(0, 1))
            self._step()
            self.stopwatch.once("first batch", started)
        return torch.cat(wanted), torch.cat(decoded)

    def _outputs_and_loss(self, number: int, bins: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, D) of a member for windows of bins, and its loss."""
        member, data = self.decoder.members[number], self.training
        if not (self.augment.active or self.reconstruction):
            outputs = member.forward_windows(data.counts, bins, data.first_output)
            return outputs, data.loss(outputs, y)
        counts = data.counts[bins]
        seen = self.augment(counts) if self.augment.active else counts
        encoded = member.encode(seen)
        features, _ = member.features(encoded)
        outputs = member.head(features[:, data.first_output :])
        loss = data.loss(outputs, y)
        if self.reconstruction:
            shown = features if member.encoder is None else encoded
            loss = loss + self.config.reconstruction * self.reconstruction(number, shown, counts)
        return outputs, loss

    def _step(self) -> None:
        """Change the weights by the gradients that there are."""
        if self.monitor:
            self.monitor.after_backward()
        if self.config.clip_norm is not None:
            for member in self.decoder.members:
                nn.utils.clip_grad_norm_(member.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if self.averaged:
            self.averaged.update_parameters(self.decoder)
        if self.per_step:
            self.scheduler.step()  # type: ignore[union-attr]

    @torch.no_grad()
    def _score_training_windows(self) -> tuple[float, np.ndarray]:
        """Loss and R2 as `_train_epoch` returns them, without learning and without dropout."""
        self.decoder.eval()
        data = self.training
        batches = data.windows.split(256)
        decoded = [
            self.decoder.forward_windows(data.counts, bins, data.first_output).flatten(0, 1)
            for bins in batches
        ]
        true = [data.target_of(bins).flatten(0, 1) for bins in batches]
        return self._loss_and_r2(torch.cat(true), torch.cat(decoded))

    def _loss_and_r2(self, true: Tensor, decoded: Tensor) -> tuple[float, np.ndarray]:
        """Loss, in the target's unit squared, and R2 per axis of scaled (bins, D) tensors."""
        return loss_and_r2(self.data.target_scaler, true, decoded)

    def _epoch_record(
        self, epoch: int, train_loss: float, train_r2: np.ndarray
    ) -> dict[str, float]:
        """A row of the history; epoch 0 is the decoder before any training."""
        row = {"epoch": epoch, "train_loss": train_loss, "train_r2": float(train_r2.mean())}
        row |= self._part_columns()
        lost = [name for name in self.data.parts if not math.isfinite(row[f"{name}_loss"])]
        if lost:
            kept = f"last.pt keeps epoch {epoch - 1}; " if epoch else ""
            raise BciDecodeError(
                f"the {lost[0]} loss became {row[f'{lost[0]}_loss']} at epoch {epoch}",
                file=self.folder,
                remedy=f"{kept}lower optimizer.lr or set trainer.clip_norm, and start again with "
                "overwrite=true",
            )
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": 0.0}
        return row | (self.monitor.columns() if self.monitor else {})

    def _part_columns(self) -> dict[str, float]:
        """Loss and R2 of every part but the training one: see `training.history`."""
        return part_columns(self.data, decode_parts(self.scored, self.data, self.counts))

    def _finish_epoch(self, row: dict[str, float]) -> None:
        """Step the schedule, then write the epoch."""
        self.history.append(row)
        if self.scheduler is not None and row["epoch"] and not self.per_step:
            self._step_scheduler(row["val_loss"])
        self._write_epoch(row)

    def _write_epoch(self, row: dict[str, float]) -> None:
        """Write best.pt, history.csv, and last, last.pt; tell whoever waits for the row."""
        with self.stopwatch.part("write"):
            if self.best_epoch() == row["epoch"]:
                weights = self.scored.state_dict()
                for name, values in weights.items():  # the next epoch changes the weights in place
                    weights[name] = values.detach().clone()
                self.best = {"epoch": int(row["epoch"]), "decoder": weights}
                self._write_best()
            elif self.best["epoch"] != self.best_epoch():  # see `resume`
                problem = f"is of epoch {self.best['epoch']}, which is not selected again"
                raise BciDecodeError(problem, file=self.folder / "best.pt", remedy=resume.AGAIN)
            self._write_history()
            # an epoch counts once last.pt is safe on the disk; one wait for it is enough
            save_checkpoint(self.folder / "last.pt", resume.training_state(self))
        if self.on_epoch is not None:
            self.on_epoch(row)
        self._log(row)

    def _log(self, row: dict[str, float]) -> None:
        part = self._shown_part()
        line = "epoch %3d  train loss %9.2f  R2 %6.3f   %s loss %9.2f  R2 %6.3f   %5.2f s"
        scores = row["train_loss"], row["train_r2"], part, row[f"{part}_loss"], row[f"{part}_r2"]
        log.info(line, row["epoch"], *scores, row["seconds"])

    def _step_scheduler(self, val_loss: float) -> None:
        assert self.scheduler is not None
        try:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(val_loss)
            else:
                self.scheduler.step()
        except (ArithmeticError, TypeError, ValueError) as error:  # wrong settings show up only now
            raise BciDecodeError(
                f"cannot step ({error})", field="scheduler", remedy="correct its settings"
            ) from error

    def load_best(self) -> int:
        """Give the decoder the weights of the selected epoch; returns that epoch."""
        return load_checkpoint(self.folder / "best.pt", self.decoder)["epoch"]

    def best_epoch(self) -> int:
        """The epoch that `select_on` prefers so far; the earliest of equals."""
        column, sign = SELECTION[self.config.select_on]
        return min(range(len(self.history)), key=lambda epoch: sign * self.history[epoch][column])

    def should_stop(self) -> bool:
        """Whether the validation loss has not fallen for `patience` epochs."""
        if self.config.patience is None:
            return False
        losses = [row["val_loss"] for row in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) >= self.config.patience

    def _postfix(self) -> dict[str, str]:
        last, r2 = self.history[-1], f"{self._shown_part()}_r2"
        return {"train_loss": f"{last['train_loss']:.4g}", r2: f"{last[r2]:.3f}"}

    def _shown_part(self) -> str:
        """The part whose scores the log shows: the one that selects, else one that there is."""
        part = self.config.select_on
        return part if part != "last" else "val" if "val" in self.data.parts else "test"

    def decoder_state(self, epoch: int, decoder: dict[str, Tensor]) -> dict[str, Any]:
        """All that decoding takes: see `training.checkpoint`."""
        return self.about | self._data_state() | {"epoch": epoch, "decoder": decoder}

    def _data_state(self) -> dict[str, Any]:
        return data_state(self.data)

    def own_state(self) -> dict[str, Any]:
        """What `last.pt` holds of a kind of trainer, beside all that every one has."""
        return {}

    def restore_own(self, state: dict[str, Any]) -> None:
        """Take over `own_state` of a `last.pt`; a ValueError where it does not fit."""

    def _write_best(self) -> None:
        state = self.decoder_state(**self.best)
        save_checkpoint(self.folder / "best.pt", state, sync=False)

    def _write_history(self) -> None:
        with written_whole(self.folder / "history.csv", sync=False) as temporary:
            pd.DataFrame(self.history, columns=self.columns).to_csv(temporary, index=False)


def loss_and_r2(scaler: Scaler, true: Tensor, decoded: Tensor) -> tuple[float, np.ndarray]:
    """Loss, in the target's unit squared, and R2 per axis of scaled (bins, D) tensors."""
    true_mm, decoded_mm = (scaler.inverse(a.double().cpu().numpy()) for a in (true, decoded))
    return metrics.mse(true_mm, decoded_mm), metrics.r2(true_mm, decoded_mm)


def _lines_above_the_bar(progress: bool) -> AbstractContextManager[None]:
    """Keep log lines and the bar apart; without progress nothing is printed."""
    if not progress:
        return nullcontext()
    from tqdm.contrib.logging import logging_redirect_tqdm  # warns in notebooks when imported

    return logging_redirect_tqdm()
