"""Runs of every kind without their training: what streaming does, it does with any weights."""

from __future__ import annotations

from pathlib import Path

import torch
from composing import compose
from omegaconf import OmegaConf

import bci_decode as bd
from bci_decode.data.binning import bin_session
from bci_decode.data.dataset import prepare
from bci_decode.runs.build import build_decoder, data_config
from bci_decode.runs.load import load_run
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.training.checkpoint import data_state, save_checkpoint
from bci_decode.training.closed_form import fit_closed_form

CLOSED_FORM = ("wiener", "cascade", "kalman", "kalman_velocity")


def made_run(folder: Path, session: bd.Session, *words: str, scale: float = 0.1) -> LoadedRun:
    """A run in `folder` that was not trained, but whose weights are not the initial ones.

    Closed-form models are fitted. The `words` are those of a command line.
    """
    config = compose(*words)
    typed = data_config(config)
    data = prepare(bin_session(session, **typed.binning_kwargs()), typed)
    model = build_decoder(config, data)
    if config.names.model in CLOSED_FORM:
        fit_closed_form(model, data)
        weights = {name: torch.as_tensor(values) for name, values in model.fitted_arrays().items()}
    else:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(scale * parameter.abs().mean() * noise)
        weights = model.state_dict()
    settings = OmegaConf.to_container(config, resolve=True)
    sizes = {"input_size": len(data.units), "output_size": 2, "members": int(config.ensemble)}
    split = {name: [bins.start, bins.stop] for name, bins in data.slices.items()}
    about = {
        "names": settings["names"],
        "model": {"settings": settings["model"], **sizes},
        "data": settings["data"],
        "session": {"name": session.name, "md5": "", "split_bins": split},
    }
    folder.mkdir(parents=True, exist_ok=True)
    state = about | data_state(data) | {"epoch": 1, "decoder": weights}
    save_checkpoint(folder / "best.pt", state, sync=False)
    return load_run(folder)
