"""Checkpoints: `best.pt`, all that decoding takes, and `last.pt`, all that training further takes besides."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole


def save_checkpoint(path: Path, state: dict) -> None:
    """Write `state` (tensors, numbers, text, and lists and dicts of them) whole or not at all."""
    with written_whole(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, decoder: nn.Module) -> dict:
    """Load `best.pt` or `last.pt` into `decoder` and return all that it holds; a checkpoint of another model is refused."""
    remedy = "use the model that wrote it, or start again with overwrite=true"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights = state["decoder"]
    except FileNotFoundError as error:
        raise BciDecodeError("no such checkpoint", file=path, remedy="train the decoder first") from error
    except Exception as error:  # torch.load raises anything from EOFError to UnpicklingError at a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BciDecodeError(f"is no checkpoint of this project ({reason})", file=path, remedy=remedy) from error
    try:
        decoder.load_state_dict(weights)
    except RuntimeError as error:
        mine = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
        theirs = {name: tuple(value.shape) for name, value in weights.items()}
        name = next(name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name))
        difference = f"{name} is {theirs.get(name, 'absent')} there and {mine.get(name, 'absent')} here"
        raise BciDecodeError(f"is of another model ({difference})", file=path, remedy=remedy) from error
    return state
