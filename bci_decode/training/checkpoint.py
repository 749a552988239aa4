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

That of many sessions has a list `sessions` instead of units, mean and std, each with name, md5,
bins of the parts, units, mean and std; its model has a `read_out`, shared or of each session.

In `last.pt` epoch and decoder are of the last epoch, and there is all that a resumed run depends
on, so that no other file can change its results: settings of the run, best (the selected epoch and
its weights), history, fingerprint of the data, states of optimizer, scheduler and random numbers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bci_decode
from bci_decode.data.dataset import Dataset, Preparation
from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole
from bci_decode.training.checkpoint_checks import check_archive, own_tensors, seal, wrong_key

FORMAT = 3


def data_state(data: Dataset) -> dict[str, Any]:
    """What a checkpoint holds of the data: units, axes and scaling."""
    return written_by() | {"axes": list(data.axes)} | scaling_state(data)


def written_by() -> dict[str, Any]:
    """The layout of a checkpoint, and the version that writes it."""
    return {"format": FORMAT, "version": bci_decode.__version__}


def scaling_state(data: Dataset | Preparation) -> dict[str, Any]:
    """What a checkpoint holds of the units of a session, and of the scaling."""
    scalers = {"counts": data.counts_scaler, "target": data.target_scaler}
    return {
        "units": [
            [str(unit.channel), str(unit.area), int(unit.row)] for unit in data.units.itertuples()
        ],
        "mean": {name: torch.from_numpy(scaler.mean) for name, scaler in scalers.items()},
        "std": {name: torch.from_numpy(scaler.std) for name, scaler in scalers.items()},
    }


def save_checkpoint(path: Path, state: dict, sync: bool = True) -> None:
    """Write `state` (tensors, numbers, text, and lists and dicts of them) whole or not at all."""
    content = io.BytesIO()  # straight to a full disk, torch.save raises a RuntimeError
    torch.save(state, content)
    seal(content)
    with written_whole(path, sync) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_checkpoint(path: Path, keys: Sequence[str] = ("epoch",)) -> dict[str, Any]:
    """All that a checkpoint holds; `keys` at least must be there.

    One that has "best" is a `last.pt`, which only this project may write. Raises `BciDecodeError`
    where the file is damaged or holds anything of another form.
    """
    if not path.is_file():
        raise BciDecodeError("no such checkpoint", file=path, remedy="train with overwrite=true")
    try:
        own = check_archive(path)
        # mapped, a tensor cannot reach outside the file, whatever size the file claims for it
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        missing = [key for key in ("decoder", *keys) if key not in state]
        own_tensors(state, path.stat().st_size)
        if "best" in state and not own:
            raise ValueError("it was changed by another program")
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
    check_content(state, path)
    return state


def check_content(state: dict[str, Any], path: Path) -> None:
    """Refuse the content of a checkpoint in which a value has another form than it should."""
    wrong = wrong_key(state)
    if wrong is not None:
        raise BciDecodeError(
            "is not as this project writes it",
            file=path,
            field=wrong,
            remedy="bring back the original file, or start again with overwrite=true",
        )


def load_checkpoint(path: Path, decoder: nn.Module, keys: Sequence[str] = ("epoch",)) -> dict:
    """Load the weights of a checkpoint into `decoder` and return all that the checkpoint holds."""
    state = read_checkpoint(path, keys)
    load_weights(decoder, state["decoder"], path)
    return state


def load_weights(decoder: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load weights into `decoder`, or refuse those of another model.

    `path` is where they are from.
    """
    check_same_model(decoder, weights, path)
    decoder.load_state_dict(weights)


def check_same_model(decoder: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse weights of other names, shapes or types than those of `decoder`."""
    mine = {name: _form(values) for name, values in decoder.state_dict().items()}
    theirs = {name: _form(values) for name, values in weights.items()}
    for name in [*mine, *theirs]:
        there, here = theirs.get(name, "absent"), mine.get(name, "absent")
        if there != here:
            raise BciDecodeError(
                f"is of another model ({name} is {there} there and {here} here)",
                file=path,
                remedy="use the model that wrote it, or start again with overwrite=true",
            )


def _form(values: torch.Tensor) -> str:
    kind = "" if values.dtype is torch.float32 else f" {str(values.dtype).removeprefix('torch.')}"
    return f"{tuple(values.shape)}{kind}"
