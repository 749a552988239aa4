"""Train one decoder on many sessions: the loop of `training.trainer`, batches that mix them.

Shapes: S sessions, G grids, T bins of a training part, W windows, B of a batch, L bins of a window,
N units, D axes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bci_decode.data.dataset import Preparation
from bci_decode.data.many_sessions import ManySessions
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.models.multi_session import MultiSessionDecoder
from bci_decode.training.augmentation import Augmentation
from bci_decode.training.checkpoint import scaling_state, written_by
from bci_decode.training.history import part_columns
from bci_decode.training.trainer import Trainer, loss_and_r2
from bci_decode.training.windows import TrainingWindows

SCORED_AT_ONCE = 256  # windows
Batch = list[tuple[int, Tensor]]  # numbers of sessions, and windows (B, L) of each


class StoredWindows(TrainingWindows):
    """The windows of a session whose counts stay on disk; numbers of bins are as in its parent."""

    def __init__(self, data: Preparation, device: torch.device):
        train, window = data.slices["train"], data.window
        bins = train.stop - train.start
        grids = [data.binned, *(data.binned.shifted if bins > window.span else ())]
        # the other grids are a bin shorter
        slices = [slice(train.start, train.stop - (number > 0)) for number in range(len(grids))]
        self.stored = [grid.counts[one] for grid, one in zip(grids, slices, strict=True)]
        hand = [grid.kinematics[one] for grid, one in zip(grids, slices, strict=True)]
        target = data.target_scaler.transform(np.concatenate(hand))
        self.target = torch.as_tensor(target, dtype=torch.float32)
        self.windows = torch.as_tensor(window.bins(bins))
        self.first_output = window.first_output
        self.grids, self.last_bin = len(grids), bins - 1
        self.units = slice(None) if data.active.all() else np.flatnonzero(data.active)
        scaler = data.counts_scaler
        self.mean, self.std = (
            torch.as_tensor(values.astype(np.float32), device=device)
            for values in (scaler.mean, scaler.std)
        )
        self.device = device

    def counts_of(self, windows: Tensor) -> Tensor:
        """The scaled counts (B, L, N) of windows (B, L)."""
        bins = windows.numpy()
        first = self.last_bin + 1  # of the second grid
        grid = np.where(bins[:, 0] < first, 0, (bins[:, 0] - first) // max(self.last_bin, 1) + 1)
        start = np.where(grid == 0, 0, first + (grid - 1) * self.last_bin)
        inside = bins - start[:, None]
        found = np.empty((*bins.shape, self.stored[0].shape[1]), np.float32)
        for number in np.unique(grid):
            chosen = grid == number
            found[chosen] = self.stored[number][inside[chosen]]
        counts = torch.as_tensor(found[..., self.units], device=self.device)
        return (counts - self.mean) / self.std

    def target_of(self, windows: Tensor) -> Tensor:
        return super().target_of(windows).to(self.device)


class ManyWindows:
    """The training windows of all sessions, each of them a row."""

    def __init__(self, data: ManySessions, device: torch.device):
        self.sessions = [StoredWindows(one.prepared, device) for one in data.sessions]
        self.ends = torch.as_tensor(np.cumsum([len(one) for one in self.sessions]))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batches(
        self, size: int, shuffle: bool, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Every window once, `size` at a time; shuffled, a batch mixes sessions.

        Without a `generator` all windows are of the first grid.
        """
        rows = torch.arange(len(self))
        windows = [one.windows for one in self.sessions]
        if generator is not None:
            windows = [one.order(False, generator) for one in self.sessions]
            rows = torch.randperm(len(self), generator=generator) if shuffle else rows
        starts = self.ends - torch.tensor([len(one) for one in self.sessions])
        for batch in rows.split(size):
            of = torch.bucketize(batch, self.ends, right=True)
            yield [
                (number, windows[number][batch[of == number] - starts[number]])
                for number in of.unique().tolist()
            ]


class MultiSessionTrainer(Trainer):
    """Trains a `MultiSessionDecoder` on `ManySessions`.

    The loss of a batch is the mean squared error over all its outputs, each in its session's scaled
    target. A row of the history is the mean over the sessions, whose own rows are in
    `session_history`.
    """

    decoder: MultiSessionDecoder
    data: ManySessions  # type: ignore[assignment]
    training: ManyWindows  # type: ignore[assignment]

    def _place_tensors(self) -> None:
        self.training = ManyWindows(self.data, self.device)
        self.augments = [
            Augmentation(self.config, one.prepared.counts_scaler, self.device)
            for one in self.data.sessions
        ]
        self.session_history: list[list[dict[str, float]]] = [[] for _ in self.data.sessions]
        self.session_rows: list[dict[str, float]] = [{} for _ in self.data.sessions]

    def _train_epoch(self) -> tuple[float, np.ndarray]:
        self.decoder.train()
        started, scores = time.perf_counter(), _Scores(self.data)
        config = self.config
        for batch in self.training.batches(config.batch_size, config.shuffle, self.shuffle_rng):
            self.optimizer.zero_grad()
            outputs, wanted = self._outputs(batch, augmented=True)
            loss = F.mse_loss(torch.cat(outputs), torch.cat(wanted))
            loss.backward()
            self._step()
            scores.add(batch, wanted, outputs)
            self.stopwatch.once("first batch", started)
        return self._means(scores)

    def _outputs(self, batch: Batch, augmented: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and scaled target (B, L - first_output, D) of each session of a batch."""
        sessions, numbers = self.training.sessions, [number for number, _ in batch]
        counts = [sessions[number].counts_of(windows) for number, windows in batch]
        if augmented:
            augments = [self.augments[number] for number in numbers]
            counts = [augment(own) for augment, own in zip(augments, counts, strict=True)]
        wanted = [sessions[number].target_of(windows) for number, windows in batch]
        return self.decoder(counts, numbers, self.data.window.first_output), wanted

    @torch.no_grad()
    def _score_training_windows(self) -> tuple[float, np.ndarray]:
        self.decoder.eval()
        scores = _Scores(self.data)
        for batch in self.training.batches(SCORED_AT_ONCE, shuffle=False):
            outputs, wanted = self._outputs(batch, augmented=False)
            scores.add(batch, wanted, outputs)
        return self._means(scores)

    def _means(self, scores: _Scores) -> tuple[float, np.ndarray]:
        """Loss and R2 of the training windows, mean over the sessions; each goes into its row."""
        found = scores.found()
        self.session_rows = [
            {"train_loss": loss, "train_r2": float(r2.mean())} for loss, r2 in found
        ]
        losses, r2 = zip(*found, strict=True)
        return float(np.mean(losses)), np.mean(r2, axis=0)

    def _part_columns(self) -> dict[str, float]:
        """The mean over the sessions, which are decoded one after another."""
        scored: Any = self.scored
        columns = []
        for number, session in enumerate(self.data.sessions):
            data = session.prepared.dataset(*(name for name in self.data.parts if name != "train"))
            columns.append(part_columns(data, decode_parts(scored.session_decoder(number), data)))
            self.session_rows[number] |= columns[-1]
        return {name: float(np.mean([row[name] for row in columns])) for name in columns[0]}

    def _finish_epoch(self, row: dict[str, float]) -> None:
        shared = {name: row[name] for name in ("epoch", "lr", "seconds")}
        for rows, own in zip(self.session_history, self.session_rows, strict=True):
            rows.append({name: (own | shared)[name] for name in row})
        super()._finish_epoch(row)

    def _data_state(self) -> dict[str, Any]:
        sessions = [
            {
                "name": one.name,
                "md5": one.stored.md5,
                "split_bins": split_bins(one.prepared),
                **scaling_state(one.prepared),
            }
            for one in self.data.sessions
        ]
        return written_by() | {"units": [], "axes": list(self.data.axes), "sessions": sessions}

    def own_state(self) -> dict[str, Any]:
        return {"session_history": self.session_history}

    def restore_own(self, state: dict[str, Any]) -> None:
        history = state["session_history"]
        same = all(len(rows) == len(self.history) for rows in history)
        columns = set(self.columns)
        if len(history) != len(self.data.sessions) or not same or set(history[0][0]) != columns:
            raise ValueError("the histories of the sessions are of another training")
        self.session_history = history


class _Scores:
    """Target and outputs of an epoch's windows, and their scores for each session."""

    def __init__(self, data: ManySessions):
        self.scalers = [one.prepared.target_scaler for one in data.sessions]
        self.pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in data.sessions]

    def add(self, batch: Batch, wanted: list[Tensor], outputs: list[Tensor]) -> None:
        for (number, _), y, decoded in zip(batch, wanted, outputs, strict=True):
            self.pairs[number].append((y.flatten(0, 1), decoded.detach().flatten(0, 1)))

    def found(self) -> list[tuple[float, np.ndarray]]:
        """Loss and R2 of each session, in its target's unit."""
        joined = [[torch.cat(one) for one in zip(*pairs, strict=True)] for pairs in self.pairs]
        return [
            loss_and_r2(scaler, *pair) for scaler, pair in zip(self.scalers, joined, strict=True)
        ]


def split_bins(prepared: Preparation) -> dict[str, list[int]]:
    """The bins of the parts, as a checkpoint holds them."""
    return {name: [bins.start, bins.stop] for name, bins in prepared.slices.items()}
