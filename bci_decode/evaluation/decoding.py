"""Decode streams of spike counts as a live decoder would, with any model.

Shapes: T bins, N units, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    decoder: TrainedDecoder, counts: Tensor, history: int | None, batch: int = 256, step: int = 1
) -> Tensor:
    """Decode a whole stream (T, N) -> (T, D) as a live decoder would, each bin from bins up to it.

    With `history` every bin is decoded from the last `history` bins, starting from a zero state;
    the stream's first bins from as many as there are. Without, the state is carried from the first
    bin to the last; a bidirectional decoder then reads the whole stream for every bin, as no live
    one could. With `step`, a bin's predecessor is the bin `step` before it, so that the stream is
    as many streams, each of every `step`-th bin.
    """
    decoder.eval()
    if history is None:
        return _decode_carried(decoder, counts, step)
    bins = torch.arange(len(counts), device=counts.device)
    # `step` bins each have 1, 2, ... bins to be decoded from, all others have `history`
    early = bins[: (history - 1) * step].split(step)
    late = bins[(history - 1) * step :].split(batch)
    decoded = []
    for seen, part in [*enumerate(early, start=1), *((history, part) for part in late)]:
        if len(part):
            windows = part[:, None] - step * torch.arange(seen - 1, -1, -1, device=bins.device)
            decoded.append(decoder.forward_windows(counts, windows, seen - 1)[:, 0])
    return torch.cat(decoded)


def _decode_carried(decoder: TrainedDecoder, counts: Tensor, step: int) -> Tensor:
    """Decode `step` interleaved streams, each with its own state; zeros after the last bin."""
    if step == 1:
        return decoder(counts[None])[0][0]
    padded = torch.nn.functional.pad(counts, (0, 0, 0, -len(counts) % step))
    streams = padded.unflatten(0, (-1, step)).transpose(0, 1)  # (step, T / step, N)
    return decoder(streams)[0].transpose(0, 1).flatten(0, 1)[: len(counts)]


def predictor(
    model: object, history: int | None, step: int = 1, cutoff: float | None = None
) -> Predictor:
    """A function from scaled counts (T, N) to scaled kinematics (T, D), float64, of any model.

    A `models.decoder.TrainedDecoder` decodes the counts as one stream, with `history` and `step` as
    in `decode_stream`; a closed-form model has `predict`. With `cutoff`, in cycles per bin, the
    outputs pass a causal low-pass filter.
    """
    trained = isinstance(model, TrainedDecoder)
    decode: Any = _decode_trained(model, history, step) if trained else model.predict  # type: ignore

    def decoded(counts: np.ndarray | Tensor) -> np.ndarray:
        outputs = np.asarray(decode(counts), np.float64)
        return outputs if cutoff is None else low_pass(outputs, cutoff)

    return decoded


def _decode_trained(model: TrainedDecoder, history: int | None, step: int) -> Predictor:
    def decode(counts: np.ndarray | Tensor) -> np.ndarray:
        counts = torch.as_tensor(counts, device=model.device)
        stream = decode_stream(model, counts, history, step=step)
        return stream.double().cpu().numpy()

    return decode


def by_segment(
    decode: Predictor, counts: np.ndarray | Tensor, pieces: Sequence[slice]
) -> np.ndarray:
    """Decode counts (T, N), each piece of them as a stream of its own; NaN (T, D) between them.

    A model, and a filter after it, knows nothing of what was before a gap.
    """
    if len(pieces) == 1 and pieces[0] == slice(0, len(counts)):
        return decode(counts)
    found = [decode(counts[bins]) for bins in pieces]
    decoded = np.full((len(counts), *found[0].shape[1:]), np.nan)
    for bins, outputs in zip(pieces, found, strict=True):
        decoded[bins] = outputs
    return decoded


def decode_parts(
    model: object, data: Dataset, counts: dict[str, Tensor] | None = None
) -> dict[str, np.ndarray]:
    """Every part but the training one, in the target's unit, float64.

    Each part is one stream (T, D), or one in each segment, with NaN in the gaps. A part inside
    another one is cut out of that one's stream.
    `counts` are the scaled counts where they are tensors on the model's device already.
    """
    decode = predictor(model, data.window.history, data.window.step, data.low_pass)
    inside = enclosing(data.slices)
    decoded = {
        name: data.target_scaler.inverse(
            by_segment(decode, counts[name] if counts else part.counts, part.pieces)
        )
        for name, part in data.parts.items()
        if name != "train" and name not in inside
    }
    for name, outer in inside.items():
        first = data.slices[outer].start
        bins = data.slices[name]
        decoded[name] = decoded[outer][bins.start - first : bins.stop - first]
    return decoded
