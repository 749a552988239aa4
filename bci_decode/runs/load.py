"""From a finished run back to a decoder: read its checkpoint, and make its model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.models.decoder import TrainedDecoder
from bci_decode.runs.build import build_model
from bci_decode.runs.checksums import verify
from bci_decode.runs.folder import SESSIONS
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.runs.packed import Packed, is_packed, read_packed
from bci_decode.runs.targets import check_model
from bci_decode.training.checkpoint import check_same_model, load_weights, read_checkpoint

PROBED = 3  # bins that show whether a model in closed form has all that it needs
log = logging.getLogger(__name__)

KEYS = ("format", "names", "model", "data", "session", "units", "axes", "mean", "std", "epoch")


def load_run(folder: str | Path, *, trust: tuple[str, ...] = ()) -> LoadedRun:
    """The trained decoder of a run's folder, of a `best.pt` alone, or of a packed run.

    A checkpoint names the classes of its model. Only layers and models of this project and of
    `torch.nn` are made, unless `trust` adds prefixes such as ("mylab.",). Raises `BciDecodeError`
    where the checkpoint is missing, damaged, of an earlier version, or not as it was when the run
    finished.
    """
    return run_of_content(*run_content(folder), trust=trust)


def run_content(folder: str | Path) -> tuple[dict[str, Any], Path, Packed | None]:
    """The content of a run's `best.pt` or of a packed run, and its file."""
    path = expand_user(folder)
    if is_packed(path) and path.exists():
        packed = read_packed(path)
        return packed.state, path, packed
    if path.is_dir():
        verify(path, "best.pt")
        path /= "best.pt"
    if not path.exists():
        raise _no_checkpoint(path)
    return read_checkpoint(path), path, None


def run_of_content(
    state: dict[str, Any], path: Path, packed: Packed | None, *, trust: tuple[str, ...] = ()
) -> LoadedRun:
    """The run of what `run_content` returns."""
    run = run_of_checkpoint(state, path, trust=trust)
    return run if packed is None else replace(run, folder=path.with_suffix(""), packed=packed)


def run_of_checkpoint(state: dict, path: Path, *, trust: tuple[str, ...] = ()) -> LoadedRun:
    """The trained decoder of the content of a `best.pt`, read from `path`; see `load_run`."""
    if "sessions" in state:
        raise _of_many(state, path)
    if any(key not in state for key in KEYS):
        raise BciDecodeError(
            "was written by an earlier version, without the settings of its model",
            file=path,
            remedy="train again with overwrite=true",
        )
    about = state["model"]
    check_model(about["settings"], state["decoder"], path, trust)
    model = _made(about, state["decoder"], path)
    restore_model(model, state, path)
    return LoadedRun(path.parent, model, state, path)


def _of_many(state: dict[str, Any], path: Path) -> BciDecodeError:
    names = [one["name"] for one in state["sessions"]]
    shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    places = path.parent / SESSIONS
    if places.is_dir() and not is_packed(path):
        remedy = f"name a folder of {places}: {shown}"
    else:
        remedy = f"in Python, bd.load_joint(FILE).run(NAME) has that of {shown}"
    return BciDecodeError(
        f"decodes {len(names)} sessions, each with a decoder of its own",
        file=path,
        remedy=f"{remedy}; calibrate makes one of a new session",
    )


def _made(about: dict[str, Any], weights: dict[str, torch.Tensor], path: Path) -> Any:
    """The model of a checkpoint, untrained; refused before its weights take memory if others fit.

    `about` is "model" of the checkpoint.
    """
    settings, members = DictConfig(about["settings"]), about.get("members", 1)
    sizes = about["input_size"], about["output_size"]
    try:
        with torch.device("meta"):
            outline = build_model(settings, *sizes, members=members)
        if isinstance(outline, TrainedDecoder):
            check_same_model(outline, weights, path)
        return build_model(settings, *sizes, members=members)
    except BciDecodeError as error:
        if error.file is not None:
            raise
        raise BciDecodeError(
            f"its model cannot be made ({error.problem})", file=path, remedy="use the original file"
        ) from error


def _no_checkpoint(path: Path) -> BciDecodeError:
    """A folder without `best.pt` may be that of a chained split, whose cuts are the runs."""
    cuts = sorted(path.parent.glob("cut*/best.pt"), key=lambda cut: (len(str(cut)), cut))
    if cuts:
        names = " or ".join(str(cut.parent) for cut in cuts)
        return BciDecodeError(
            "holds a chained split, a run for each cut", file=path.parent, remedy=f"name {names}"
        )
    remedy = "name the folder of a finished run: outputs/<experiment>/<session>/<model>/seed<k>"
    return BciDecodeError("no such run, or it has no best.pt", file=path, remedy=remedy)


def restore_model(model: Any, state: dict, path: Path) -> None:
    """Give a model of any kind the weights of a checkpoint; `path` is where they are from."""
    if isinstance(model, TrainedDecoder):
        load_weights(model, state["decoder"], path)
        model.eval()
    else:
        try:
            model.restore({name: values.numpy() for name, values in state["decoder"].items()})
            decoded = model.predict(np.zeros((PROBED, len(state["units"])), np.float32))
            fits = decoded.shape == (PROBED, len(state["axes"])) and np.isfinite(decoded).all()
        except Exception:  # what a model makes of arrays of other names or shapes
            fits = False
        if not fits:
            remedy = "use the model that wrote it, or start again with overwrite=true"
            raise BciDecodeError("is of another model", file=path, remedy=remedy)
