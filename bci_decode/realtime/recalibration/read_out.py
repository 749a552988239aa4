"""Fit the last layer of a decoder again, by ridge regression on what it gets.

Shapes: T bins, F inputs of the layer, D axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bci_decode.data.dataset import Dataset
from bci_decode.data.parts import Window
from bci_decode.evaluation.decoding import decode_stream
from bci_decode.models.decoder import Decoder
from bci_decode.models.heads import PerAxisHead
from bci_decode.realtime.recalibration.read_in import ridge


def refit_read_out(member: Decoder, data: Dataset) -> bool:
    """Move the weights of the read-out towards those that fit the training part best.

    The penalty, chosen by cross-validation, is on the change, so that few bins change little.
    Returns False for a head that does not end with a linear map; it stays as it is.
    """
    train, first = data.parts["train"], data.window.first_output
    target = data.target_scaler.transform(train.truth)
    first = 0 if data.window.history else first  # a window of history decodes its last bin
    learned = ~np.isnan(target).any(axis=1)
    learned[:first] = False
    rows = slice(first, None) if learned[first:].all() else learned
    layers = _last_layers(member.head, target.shape[1])
    for layer, axes in layers:
        inputs, outputs = _inputs_and_outputs(member, layer, data)
        change = ridge(inputs[rows], (target[:, axes] - outputs)[rows])
        with torch.no_grad():
            layer.weight.add_(torch.as_tensor(change.coef_).reshape(layer.weight.shape))
            if layer.bias is not None:
                layer.bias.add_(torch.as_tensor(change.intercept_))
    return bool(layers)


def _last_layers(head: nn.Module, axes: int) -> list[tuple[nn.Linear, slice]]:
    """The linear maps that a head ends with, each with its axes of the target."""
    if isinstance(head, PerAxisHead):
        pairs = ((axis[-1], slice(k, k + 1)) for k, axis in enumerate(head.axes))  # type: ignore[index]
        return [(layer, where) for layer, where in pairs if isinstance(layer, nn.Linear)]
    last = head[-1] if isinstance(head, nn.Sequential) and len(head) else head
    return [(last, slice(0, axes))] if isinstance(last, nn.Linear) else []


def _inputs_and_outputs(
    member: Decoder, layer: nn.Linear, data: Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """What a layer gets (T, F) and gives (T, D) in every bin of the training part, decoded live.

    Both are 0 in gaps, which no one learns from.
    """
    window, train, pairs = data.window, data.parts["train"], []
    counts = torch.as_tensor(train.counts, device=member.device)
    for bins in train.pieces:
        seen: list[tuple[Tensor, Tensor]] = []
        hook = layer.register_forward_hook(
            lambda _, inputs, output, seen=seen: seen.append((inputs[0], output))
        )
        try:
            decode_stream(member, counts[bins], window.history, step=window.step)
        finally:
            hook.remove()
        pairs.append([_in_time(pieces, window, counts[bins]) for pieces in zip(*seen, strict=True)])
    if len(pairs) == 1 and len(pairs[0][0]) == len(counts):
        return pairs[0][0], pairs[0][1]
    inputs, outputs = (np.zeros((len(counts), part.shape[1])) for part in pairs[0])
    for bins, (own_inputs, own_outputs) in zip(train.pieces, pairs, strict=True):
        inputs[bins], outputs[bins] = own_inputs, own_outputs
    return inputs, outputs


def _in_time(pieces: Sequence[Tensor], window: Window, counts: Tensor) -> np.ndarray:
    """The rows (T, C) of a decoded stream in order, from what a layer had at each of its calls."""
    # carried states: as many streams as a step has bins, side by side; windows: one after other
    pieces = [p if window.history else p.transpose(0, 1) for p in pieces]
    rows = torch.cat([piece.flatten(0, 1) for piece in pieces])
    return rows[: len(counts)].double().cpu().numpy()
