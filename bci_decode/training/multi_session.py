"""Train one decoder on many sessions: the loop of `training.trainer`, batches that mix them.

Shapes: B windows, L bins of a window, D axes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bci_decode.data.dataset import Preparation
from bci_decode.data.many_sessions import ManySessions
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.layers.norms import BatchNorm
from bci_decode.models.multi_session import MultiSessionDecoder
from bci_decode.training.augmentation import Augmentation
from bci_decode.training.checkpoint import scaling_state, written_by
from bci_decode.training.distributed import Group
from bci_decode.training.history import part_columns
from bci_decode.training.many_windows import ALONE, Batch, ManyWindows
from bci_decode.training.trainer import Trainer, loss_and_r2

SCORED_AT_ONCE = 256  # windows


class MultiSessionTrainer(Trainer):
    """Trains a `MultiSessionDecoder` on `ManySessions`.

    The loss of a batch is the mean squared error over all its outputs, each in its session's scaled
    target. A row of the history is the mean over the sessions, whose own rows are in
    `session_history`.

    The processes of a `group` share out each batch. The first one scores and writes, and the others
    get its rows of the history.
    """

    decoder: MultiSessionDecoder
    data: ManySessions  # type: ignore[assignment]
    training: ManyWindows  # type: ignore[assignment]

    def __init__(self, *arguments: Any, group: Group = ALONE, **options: Any):
        self.group = group
        super().__init__(*arguments, **options)
        if group.size > 1:
            check_layers(self.decoder)

    def _place_tensors(self) -> None:
        self.training = ManyWindows(self.data, self.device)
        self.augments = [
            Augmentation(self.config, one.prepared.counts_scaler, self.device)
            for one in self.data.sessions
        ]
        self.session_history: list[list[dict[str, float]]] = [[] for _ in self.data.sessions]
        self.session_rows: list[dict[str, float]] = [{} for _ in self.data.sessions]

    def _fit(self) -> None:
        self.group.copy_from_first(self.decoder)
        super()._fit()

    def _is_begun(self) -> bool:
        return self.group.first(super()._is_begun)

    def _resume(self) -> None:
        self.group.together(super()._resume)

    def _train_epoch(self) -> tuple[float, np.ndarray]:
        self.decoder.train()
        started, scores = time.perf_counter(), _Scores(self.data)
        config, group = self.config, self.group
        group.seed(self.shuffle_rng.initial_seed(), len(self.history))
        how = config.batch_size, config.shuffle, self.shuffle_rng, group
        for batch in self.training.batches(*how):
            self.optimizer.zero_grad()
            known = 0
            if batch:
                outputs, wanted = self._outputs(batch, augmented=True)
                loss = self.training.loss(torch.cat(outputs), torch.cat(wanted))
                loss.backward()
                scores.add(batch, wanted, outputs)
                known = sum(int(one.isfinite().sum()) for one in wanted) if group.size > 1 else 1
            group.mean_gradients(self.decoder.parameters(), known)
            self._step()
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
        for batch in self.training.batches(SCORED_AT_ONCE, False, group=self.group):
            if batch:
                outputs, wanted = self._outputs(batch, augmented=False)
                scores.add(batch, wanted, outputs)
        return self._means(scores)

    def _means(self, scores: _Scores) -> tuple[float, np.ndarray]:
        """Loss and R2 of the training windows, mean over the sessions; each goes into its row.

        All processes have a part of the windows, and only the first one gets the numbers.
        """
        found = scores.found(self.group)
        if not found:
            return math.nan, np.full(len(self.data.axes), math.nan)
        self.session_rows = [
            {"train_loss": loss, "train_r2": float(r2.mean())} for loss, r2 in found
        ]
        losses, r2 = zip(*found, strict=True)
        return float(np.mean(losses)), np.mean(r2, axis=0)

    def _epoch_record(
        self, epoch: int, train_loss: float, train_r2: np.ndarray
    ) -> dict[str, float]:
        """The row of all processes; each scores some of the sessions."""
        self.scored_columns = self._scored_columns()
        record = super()._epoch_record
        return self.group.first(lambda: record(epoch, train_loss, train_r2))

    def _scored_columns(self) -> list[dict[str, float]]:
        """The columns of every session in the first process, decoded one after another."""
        scored: Any = self.scored
        columns = {}
        for number in self.group.share(torch.arange(len(self.data.sessions))).tolist():
            prepared = self.data.sessions[number].prepared
            data = prepared.dataset(*(name for name in self.data.parts if name != "train"))
            decoded = decode_parts(scored.session_decoder(number), data)
            columns[number] = part_columns(data, decoded)
        found = {key: row for own in self.group.gathered(columns) for key, row in own.items()}
        return [found[number] for number in sorted(found)]

    def _part_columns(self) -> dict[str, float]:
        """The mean over the sessions."""
        columns = self.scored_columns
        for own, row in zip(self.session_rows, columns, strict=True):
            own |= row
        return {name: float(np.mean([row[name] for row in columns])) for name in columns[0]}

    def _finish_epoch(self, row: dict[str, float]) -> None:
        if not self.group.rank:
            shared = {name: row[name] for name in ("epoch", "lr", "seconds")}
            for rows, own in zip(self.session_history, self.session_rows, strict=True):
                rows.append({name: (own | shared)[name] for name in row})
        super()._finish_epoch(row)

    def _write_epoch(self, row: dict[str, float]) -> None:
        write = super()._write_epoch
        self.group.first(lambda: write(row))

    def _write_best(self) -> None:
        if not self.group.rank:
            super()._write_best()

    def _write_history(self) -> None:
        if not self.group.rank:
            super()._write_history()

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

    def found(self, group: Group) -> list[tuple[float, np.ndarray]]:
        """Loss and R2 of each session, in its target's unit; nothing but in the first process."""
        # pieces of a session that has no window here are none
        own = [[_joined(pairs)] if pairs else [] for pairs in self.pairs]
        every = group.gathered(own)
        found = zip(self.scalers, *every, strict=True) if every else ()
        return [
            loss_and_r2(scaler, *_joined([pair for own in parts for pair in own]))
            for scaler, *parts in found
        ]


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    wanted, decoded = zip(*pairs, strict=True)
    return torch.cat(wanted).cpu(), torch.cat(decoded).cpu()


def check_layers(decoder: nn.Module) -> None:
    """Refuse layers that need all windows of a batch in one process."""
    if any(
        isinstance(layer, (BatchNorm, nn.modules.batchnorm._BatchNorm))
        for layer in decoder.modules()
    ):
        raise BciDecodeError(
            "takes its statistics over a batch, which several processes share out",
            field="model.recurrent.norm",
            remedy="choose another norm, or train in one process",
        )


def split_bins(prepared: Preparation) -> dict[str, list[int]]:
    """The bins of the parts, as a checkpoint holds them."""
    return {name: [bins.start, bins.stop] for name, bins in prepared.slices.items()}
