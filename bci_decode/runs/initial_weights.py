"""`init_from`: a training that starts from the weights of another run."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from bci_decode.data.dataset import Dataset
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.models.decoder import TrainedDecoder
from bci_decode.runs.checksums import verify
from bci_decode.runs.packed import is_packed, read_packed
from bci_decode.training.checkpoint import load_weights, read_checkpoint

log = logging.getLogger(__name__)


def load_initial_weights(decoder: TrainedDecoder, folder: Path, data: Dataset) -> None:
    """Start a decoder from the weights of a run (`init_from`).

    Inputs are matched by channel and row; those without a match keep their fresh weights. Raises
    `BciDecodeError` where no unit matches, or where the models differ.
    """
    packed = is_packed(expand_user(folder))
    path = expand_user(folder) if packed else expand_user(folder) / "best.pt"
    if not packed:
        verify(path.parent, path.name)
    if decoder.encoder is not None:
        raise BciDecodeError(
            "cannot match units to the inputs of a model with an encoder",
            field="init_from",
            remedy="remove it",
        )
    if not path.exists():
        raise BciDecodeError(
            "no such run, or it has no best.pt",
            file=folder,
            field="init_from",
            remedy="name the folder of a finished run",
        )
    state = read_packed(path).state if packed else read_checkpoint(path, keys=("units",))
    there = {(channel, row): column for column, (channel, _, row) in enumerate(state["units"])}
    keys = zip(data.units["channel"], data.units["row"], strict=True)
    columns = torch.tensor([there.get((str(channel), int(row)), -1) for channel, row in keys])
    matched = columns >= 0
    if not matched.any():
        raise BciDecodeError("has none of these units", file=path, field="init_from")
    fresh, weights = decoder.state_dict(), dict(state["decoder"])
    for name in weights:
        # not the inner layers of a stack, whose inputs are no units
        of_units = name.startswith("recurrent.weight_ih_l0") and name in fresh
        if of_units and weights[name].shape == (len(fresh[name]), len(state["units"])):
            mixed = fresh[name].clone()
            mixed[:, matched] = weights[name][:, columns[matched]]
            weights[name] = mixed
    load_weights(decoder, weights, path)
    log.info("%s: weights for %d of %d units", path, int(matched.sum()), len(matched))
