"""Checkpoints: `best.pt`, all that decoding takes, and `last.pt`, all that training further takes besides."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import nn

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` (tensors, numbers, text, and lists and dicts of them) whole or not at all."""
    content = io.BytesIO()  # straight to a full disk, torch.save raises a RuntimeError about its archive
    torch.save(state, content)
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(path: Path, decoder: nn.Module, keys: tuple[str, ...] = ("epoch",)) -> dict:
    """Load a checkpoint into `decoder` and return all that it holds, `keys` at least; another model's is refused."""
    remedy = "use the model that wrote it, or start again with overwrite=true"
    if not path.exists():
        raise BciDecodeError("no such checkpoint", file=path, remedy="start again with overwrite=true")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights = state["decoder"]
        missing = [key for key in keys if key not in state]
    except Exception as error:  # torch.load raises anything from EOFError to UnpicklingError at a damaged file
        raise BciDecodeError("is damaged, or no checkpoint of this project", file=path, remedy=remedy) from error
    if missing:
        raise BciDecodeError(f"lacks {', '.join(missing)}", file=path, remedy="start again with overwrite=true")
    try:
        decoder.load_state_dict(weights)
    except RuntimeError as error:
        mine = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in weights.items()}
        name = next(name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name))
        difference = f"{name} is {theirs.get(name, 'absent')} there and {mine.get(name, 'absent')} here"
        raise BciDecodeError(f"is of another model ({difference})", file=path, remedy=remedy) from error
    return state
