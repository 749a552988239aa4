"""Train a decoder: one visible loop over epochs, that can be stopped anywhere and goes on from `last.pt`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bci_decode.config import TrainerConfig
from bci_decode.data.dataset import Dataset
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.files import written_whole
from bci_decode.layers.cpu.matmul import fast_matmul
from bci_decode.models.decoder import Decoder, check_window, decode_stream
from bci_decode.training.checkpoint import load_checkpoint, save_checkpoint
from bci_decode.training.monitor import LayerMonitor, monitor_input
from bci_decode.training.timing import Stopwatch

log = logging.getLogger(__name__)

AXES = ("x", "y")
MOST = 1_000_000  # of epochs, windows or threads: beyond it, surely a slip
# how the best epoch is chosen: the column of the history that decides, and the sign that makes the best the lowest
SELECTION = {"val": ("val_loss", 1.0), "test": ("test_r2", -1.0)}


def history_columns(parts: tuple[str, ...] = ("val", "test")) -> list[str]:
    """Columns of `history.csv`; "held" stands among the parts where `data.split.val_of_rest` is set."""
    scores = ("loss", "r2", *(f"r2_{axis}" for axis in AXES))
    scored = [f"{part}_{score}" for part in parts for score in scores]
    return ["epoch", "train_loss", "train_r2", *scored, "lr", "seconds"]


class Trainer:
    """Trains one decoder on one data set, keeping `history.csv`, `best.pt` and `last.pt` in `folder` after every epoch.

    `optimizer(parameters)` makes a `torch.optim` optimiser, `scheduler(optimizer)` a learning-rate schedule that is
    stepped once an epoch (`ReduceLROnPlateau` on the validation loss). `fingerprint` identifies the data: a `last.pt` of
    other data is refused. Losses are mean squared errors in the target's unit squared, averaged over the axes; the
    training uses the same in scaled units.
    """

    def __init__(
        self,
        decoder: Decoder,
        data: Dataset,
        folder: Path,
        config: TrainerConfig,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
        fingerprint: str = "",
        stopwatch: Stopwatch | None = None,
    ):
        _check_config(config, data)
        check_window(decoder, data.window.history)
        self.device = _device(config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.decoder, self.data, self.folder, self.config = decoder.to(self.device), data, folder, config
        self.optimizer = optimizer(decoder.parameters())
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        if isinstance(self.scheduler, ReduceLROnPlateau) and "val" not in data.parts:
            raise BciDecodeError(
                "follows the validation loss, and there is no validation part",
                field="scheduler",
                remedy="raise data.split.val, or choose another scheduler",
            )
        self.fingerprint, self.stopwatch = fingerprint, stopwatch or Stopwatch()
        self.order = torch.Generator().manual_seed(seed)  # of the windows
        self.history: list[dict[str, float]] = []
        self.scored = ("val", "test", *(["held"] if "held" in data.parts else []))
        self.counts = {name: torch.as_tensor(data.parts[name].counts, device=self.device) for name in data.bins}
        target = data.target_scaler.transform(data.parts["train"].target)
        self.train_target = torch.as_tensor(target, dtype=torch.float32, device=self.device)
        starts = data.window.starts(len(target))[:, None]
        self.windows = torch.as_tensor(starts + np.arange(data.window.length), device=self.device)  # bins (windows, T)
        self.watch = None
        if config.watch:  # never the test part: what is seen while training may tempt to change it
            seen = self.counts["val" if "val" in data.bins else "train"]
            self.watch = LayerMonitor(decoder.recurrent, monitor_input(seen, data.window))
        self.columns = history_columns(self.scored) + (self.watch.names if self.watch else [])

    def fit(self) -> pd.DataFrame:
        """Train to the last epoch, or until the validation loss has not fallen for `patience` epochs; the history."""
        with fast_matmul(self.config.gemm):
            self._fit()
        return pd.DataFrame(self.history, columns=self.columns)

    def _fit(self) -> None:
        self._resume()
        if not self.history:
            with self.stopwatch.part("untrained scores"):
                row = self._row(0, *self._untrained())
            self._finish_epoch(row)
        self.stopwatch.once("start to first epoch", self.stopwatch.begun)
        bar = tqdm(total=self.config.epochs, initial=len(self.history) - 1, unit="epoch", disable=None)
        with bar, logging_redirect_tqdm():
            while len(self.history) <= self.config.epochs and not self.is_over():
                started = time.perf_counter()
                epoch = len(self.history)
                with self.stopwatch.part("training epoch"):
                    train_loss, train_r2 = self._train_epoch()
                with self.stopwatch.part("evaluation"):
                    row = self._row(epoch, train_loss, train_r2)
                row["seconds"] = time.perf_counter() - started
                self._finish_epoch(row)
                bar.set_postfix(train_loss=f"{train_loss:.4g}", **self._shown_r2())
                bar.update()

    def _train_epoch(self) -> tuple[float, np.ndarray]:
        """One pass over the training windows; loss and R2 of the outputs as they were when they were learned from."""
        self.decoder.train()
        counts, target, first = self.counts["train"], self.train_target, self.data.window.first_output
        windows, started = self.windows, time.perf_counter()
        if self.config.shuffle:
            windows = windows[torch.randperm(len(windows), generator=self.order).to(self.device)]
        decoded, wanted = [], []
        for bins in windows.split(self.config.batch_size):  # (B, T)
            y = target[bins[:, first:]]
            outputs = self.decoder.forward_windows(counts, bins, first)
            loss = F.mse_loss(outputs, y)
            self.optimizer.zero_grad()
            loss.backward()
            if self.watch:
                self.watch.after_backward()
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.decoder.parameters(), self.config.clip_norm)
            self.optimizer.step()
            decoded.append(outputs.detach().flatten(0, 1))
            wanted.append(y.flatten(0, 1))
            self.stopwatch.once("first batch", started)
        return self._loss_and_r2(torch.cat(wanted), torch.cat(decoded))

    @torch.no_grad()
    def _untrained(self) -> tuple[float, np.ndarray]:
        """What `_train_epoch` would say of a decoder that learns nothing, without dropout."""
        self.decoder.eval()
        counts, target, first = self.counts["train"], self.train_target, self.data.window.first_output
        parts = self.windows.split(256)
        decoded = [self.decoder.forward_windows(counts, bins, first).flatten(0, 1) for bins in parts]
        return self._loss_and_r2(
            torch.cat([target[bins[:, first:]].flatten(0, 1) for bins in parts]), torch.cat(decoded)
        )

    def _scores(self) -> dict[str, tuple[float, np.ndarray]]:
        """Loss and R2 per axis of every part but the training one, each decoded as a stream."""
        decoded = decode_parts(self.decoder, self.data, self.counts)
        targets = {name: self.data.parts[name].target for name in decoded}
        return {name: (metrics.mse(targets[name], a), metrics.r2(targets[name], a)) for name, a in decoded.items()}

    def _loss_and_r2(self, true: Tensor, decoded: Tensor) -> tuple[float, np.ndarray]:
        """The same of scaled (bins, D) tensors."""
        true_mm, decoded_mm = (self.data.target_scaler.inverse(a.double().cpu().numpy()) for a in (true, decoded))
        return metrics.mse(true_mm, decoded_mm), metrics.r2(true_mm, decoded_mm)

    def _row(self, epoch: int, train_loss: float, train_r2: np.ndarray) -> dict[str, float]:
        """A row of the history; epoch 0 is the decoder before any training."""
        row = {"epoch": epoch, "train_loss": train_loss, "train_r2": float(train_r2.mean())}
        scores = self._scores()
        for name in self.scored:
            loss, r2 = scores.get(name, (math.nan, np.full(len(AXES), math.nan)))
            row |= {f"{name}_loss": loss, f"{name}_r2": float(r2.mean())}
            row |= {f"{name}_r2_{axis}": float(value) for axis, value in zip(AXES, r2, strict=True)}
        lost = [name for name in self.data.parts if not math.isfinite(row[f"{name}_loss"])]
        if lost:
            kept = f"last.pt keeps epoch {epoch - 1}; " if epoch else ""
            raise BciDecodeError(
                f"the {lost[0]} loss became {row[f'{lost[0]}_loss']} at epoch {epoch}",
                file=self.folder,
                remedy=f"{kept}lower optimizer.lr or set trainer.clip_norm, and start again with overwrite=true",
            )
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": 0.0}
        return row | (self.watch.columns() if self.watch else {})

    def _finish_epoch(self, row: dict[str, float]) -> None:
        """Step the schedule, then put the epoch on disk: best.pt, history.csv, and last.pt, which makes it count."""
        self.history.append(row)
        if self.scheduler is not None and row["epoch"]:
            self._step_scheduler(row["val_loss"])
        with self.stopwatch.part("write"):
            if self.best_epoch() == row["epoch"]:
                save_checkpoint(self.folder / "best.pt", self._decoder_state())
            self._write_history()
            save_checkpoint(self.folder / "last.pt", self._state())
        part = self.config.select_on
        log.info(
            "epoch %3d  train loss %9.2f  R2 %6.3f   %s loss %9.2f  R2 %6.3f   %5.2f s",
            row["epoch"], row["train_loss"], row["train_r2"], part, row[f"{part}_loss"], row[f"{part}_r2"], row["seconds"],
        )  # fmt: skip

    def _step_scheduler(self, val_loss: float) -> None:
        assert self.scheduler is not None
        try:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(val_loss)
            else:
                self.scheduler.step()
        except (ArithmeticError, TypeError, ValueError) as error:  # it takes any settings and fails with the first step
            raise BciDecodeError(f"cannot step ({error})", field="scheduler", remedy="correct its settings") from error

    def best_epoch(self) -> int:
        """The epoch that `select_on` prefers so far; the earliest of equals."""
        column, sign = SELECTION[self.config.select_on]
        return min(range(len(self.history)), key=lambda epoch: sign * self.history[epoch][column])

    def is_over(self) -> bool:
        """Whether it stops before the last epoch: the validation loss has not fallen for `patience` epochs."""
        if self.config.patience is None:
            return False
        losses = [row["val_loss"] for row in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) >= self.config.patience

    def _shown_r2(self) -> dict[str, str]:
        name = f"{self.config.select_on}_r2"
        return {name: f"{self.history[-1][name]:.3f}"}

    def _decoder_state(self) -> dict:
        """All that decoding takes: the weights, and how counts and target were scaled and which units they are of."""
        scalers = {"counts": self.data.counts_scaler, "target": self.data.target_scaler}
        return {
            "epoch": len(self.history) - 1,
            "decoder": self.decoder.state_dict(),
            "mean": {name: torch.from_numpy(scaler.mean) for name, scaler in scalers.items()},
            "std": {name: torch.from_numpy(scaler.std) for name, scaler in scalers.items()},
            "units": [
                f"{channel} row {row}"
                for channel, row in zip(*self.data.units[["channel", "row"]].values.T, strict=True)
            ],
        }

    def _state(self) -> dict:
        """All that the next epoch depends on."""
        return self._decoder_state() | {
            "fingerprint": self.fingerprint,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else {},
            "history": self.history,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "order": self.order.get_state(),
        }

    def _write_history(self) -> None:
        with written_whole(self.folder / "history.csv") as temporary:
            pd.DataFrame(self.history, columns=self.columns).to_csv(temporary, index=False)

    def _resume(self) -> None:
        """Take up the run that `last.pt` left, to the last bit as if it had never stopped."""
        path = self.folder / "last.pt"
        if not path.exists():
            return
        state = load_checkpoint(path, self.decoder, keys=tuple(self._state()))
        if state["fingerprint"] != self.fingerprint:
            raise BciDecodeError("was trained on other data", file=path, remedy="start again with overwrite=true")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.order.set_state(state["order"])
        self.history = state["history"]
        self._write_history()  # a row may have been written without its last.pt
        log.info("going on from epoch %d", state["epoch"])


def decode_part(decoder: Decoder, data: Dataset, name: str, counts: Tensor | None = None) -> np.ndarray:
    """Decode a part of the data as one stream: (T, D) float64 in the target's unit."""
    if counts is None:
        counts = torch.as_tensor(data.parts[name].counts, device=next(decoder.parameters()).device)
    decoded = decode_stream(decoder, counts, data.window.history)
    return data.target_scaler.inverse(decoded.double().cpu().numpy())


def decode_parts(decoder: Decoder, data: Dataset, counts: dict[str, Tensor] | None = None) -> dict[str, np.ndarray]:
    """Every part but the training one, decoded once; a stretch of the test part is cut out of its stream."""
    own = {name: None if counts is None else counts[name] for name in data.bins if name != "train"}
    decoded = {name: decode_part(decoder, data, name, part) for name, part in own.items()}
    return decoded | {name: decoded["test"][where] for name, where in data.stretches.items()}


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise BciDecodeError(f"is {name!r}", field="trainer.device", remedy="choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BciDecodeError("is cuda, but PyTorch sees no GPU", field="trainer.device", remedy="choose auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_config(config: TrainerConfig, data: Dataset) -> None:
    for name, lowest in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("threads", 1)):
        value = getattr(config, name)
        if value is not None and not lowest <= value <= MOST:
            raise BciDecodeError(f"is {value}", field=f"trainer.{name}", remedy=f"choose {lowest} to {MOST}")
    if config.clip_norm is not None and not config.clip_norm > 0:
        raise BciDecodeError(
            f"is {config.clip_norm}", field="trainer.clip_norm", remedy="choose a positive norm, or null"
        )
    if config.gemm not in ("auto", "default"):
        raise BciDecodeError(f"is {config.gemm!r}", field="trainer.gemm", remedy="choose auto or default")
    if config.select_on not in SELECTION:
        raise BciDecodeError(f"is {config.select_on!r}", field="trainer.select_on", remedy="choose val or test")
    if config.select_on == "val" and data.stretches:
        raise BciDecodeError(
            "lies inside the test part, which trainer.select_on=val must not choose on",
            field="data.split.val_of_rest",
            remedy="set it to 0 and data.split.val=0.1, say, or choose trainer.select_on=test",
        )
    if "val" not in data.parts and (config.select_on == "val" or config.patience is not None):
        raise BciDecodeError(
            "is 0, so there is no validation part to choose the epoch or to stop on",
            field="data.split.val",
            remedy="raise it, or set trainer.select_on=test trainer.patience=null",
        )
