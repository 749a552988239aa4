"""Decode streams of spike counts as a live decoder would, with any model.

Shapes: T bins, N units, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bci_decode.data.dataset import Dataset
from bci_decode.data.split import enclosing
from bci_decode.evaluation.filters import low_pass
from bci_decode.models.decoder import TrainedDecoder

Predictor = Callable[[np.ndarray | Tensor], np.ndarray]


@torch.no_grad()
def decode_stream(
    decoder: TrainedDecoder, counts: Tensor, history: int | None, batch: int = 256
) -> Tensor:
    """Decode a whole stream (T, N) -> (T, D) as a live decoder would, each bin from bins up to it.

    With `history` every bin is decoded from the last `history` bins, starting from a zero state;
    the stream's first bins from as many as there are. Without, the state is carried from the first
    bin to the last; a bidirectional decoder then reads the whole stream for every bin, as no live
    one could.
    """
    decoder.eval()
    if history is None:
        return decoder(counts[None])[0][0]
    first = [
        decoder(counts[None, : t + 1], first_output=t)[0][0]
        for t in range(min(history - 1, len(counts)))
    ]
    starts = torch.arange(max(len(counts) - history + 1, 0), device=counts.device)[:, None]
    windows = starts + torch.arange(history, device=counts.device)
    rest = [
        decoder.forward_windows(counts, part, history - 1)[:, 0]
        for part in windows.split(batch)
        if len(part)
    ]
    return torch.cat(first + rest)


def predictor(model: object, history: int | None, cutoff: float | None = None) -> Predictor:
    """A function from scaled counts (T, N) to scaled kinematics (T, D), float64, of any model.

    A `models.decoder.TrainedDecoder` decodes the counts as one stream, a closed-form model has
    `predict`. With `cutoff`, in cycles per bin, the outputs pass a causal low-pass filter.
    """
    decode = _decode_trained(model, history) if isinstance(model, TrainedDecoder) else model.predict  # type: ignore[attr-defined]

    def decoded(counts: np.ndarray | Tensor) -> np.ndarray:
        outputs = np.asarray(decode(counts), np.float64)
        return outputs if cutoff is None else low_pass(outputs, cutoff)

    return decoded


def _decode_trained(model: TrainedDecoder, history: int | None) -> Predictor:
    def decode(counts: np.ndarray | Tensor) -> np.ndarray:
        stream = decode_stream(model, torch.as_tensor(counts, device=model.device), history)
        return stream.double().cpu().numpy()

    return decode


def decode_parts(
    model: object, data: Dataset, counts: dict[str, Tensor] | None = None
) -> dict[str, np.ndarray]:
    """Every part but the training one, in the target's unit, float64.

    Each part is one stream (T, D). A part inside another one is cut out of that one's stream.
    `counts` are the scaled counts where they are tensors on the model's device already.
    """
    decode = predictor(model, data.window.history, data.low_pass)
    inside = enclosing(data.slices)
    decoded = {
        name: data.target_scaler.inverse(decode(counts[name] if counts else part.counts))
        for name, part in data.parts.items()
        if name != "train" and name not in inside
    }
    for name, outer in inside.items():
        first = data.slices[outer].start
        bins = data.slices[name]
        decoded[name] = decoded[outer][bins.start - first : bins.stop - first]
    return decoded
