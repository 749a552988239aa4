"""Checkpoints: `best.pt`, all that decoding takes, and `last.pt`, all that more training takes too.

Both hold tensors, numbers, text, and lists and dictionaries of them, so that
`torch.load(weights_only=True)` reads them. `best.pt` has

    format, version   of this layout, and of bci_decode
    names             of the experiment and the model
    model             the resolved settings that make the model, with input_size and output_size
    data              the `config.DataConfig` as a dictionary: bins, lag, units, split, window
    session           name and md5 of the recording, and the bins of its parts
    units             [channel, area, row] of each input
    axes              of the target
    mean, std         of counts and target: the scaling
    epoch, decoder    the selected epoch and its weights
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bci_decode
from bci_decode.data.dataset import Dataset
from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole

FORMAT = 2


def data_state(data: Dataset) -> dict[str, Any]:
    """What a checkpoint holds of the data: units, axes and scaling."""
    scalers = {"counts": data.counts_scaler, "target": data.target_scaler}
    return {
        "format": FORMAT,
        "version": bci_decode.__version__,
        "units": [
            [str(unit.channel), str(unit.area), int(unit.row)] for unit in data.units.itertuples()
        ],
        "axes": list(data.axes),
        "mean": {name: torch.from_numpy(scaler.mean) for name, scaler in scalers.items()},
        "std": {name: torch.from_numpy(scaler.std) for name, scaler in scalers.items()},
    }


def save_checkpoint(path: Path, state: dict, sync: bool = True) -> None:
    """Write `state` (tensors, numbers, text, and lists and dicts of them) whole or not at all."""
    content = io.BytesIO()  # straight to a full disk, torch.save raises a RuntimeError
    torch.save(state, content)
    with written_whole(path, sync) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_checkpoint(path: Path, keys: Sequence[str] = ("epoch",)) -> dict:
    """All that a checkpoint holds; `keys` at least must be there."""
    if not path.exists():
        raise BciDecodeError("no such checkpoint", file=path, remedy="train with overwrite=true")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = [key for key in ("decoder", *keys) if key not in state]
    except Exception as error:  # torch.load raises anything from EOFError to UnpicklingError
        raise BciDecodeError(
            "is damaged, or no checkpoint of this project",
            file=path,
            remedy="use the model that wrote it, or start again with overwrite=true",
        ) from error
    if missing:
        raise BciDecodeError(
            f"lacks {', '.join(missing)}", file=path, remedy="start again with overwrite=true"
        )
    return state


def load_checkpoint(path: Path, decoder: nn.Module, keys: Sequence[str] = ("epoch",)) -> dict:
    """Load the weights of a checkpoint into `decoder` and return all that the checkpoint holds."""
    state = read_checkpoint(path, keys)
    load_weights(decoder, state["decoder"], path)
    return state


def load_weights(decoder: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load weights into `decoder`, or refuse those of another model.

    `path` is where they are from.
    """
    try:
        decoder.load_state_dict(weights)
    except RuntimeError as error:
        mine = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in weights.items()}
        name = next(name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name))
        there, here = theirs.get(name, "absent"), mine.get(name, "absent")
        raise BciDecodeError(
            f"is of another model ({name} is {there} there and {here} here)",
            file=path,
            remedy="use the model that wrote it, or start again with overwrite=true",
        ) from error
