"""All that the next epoch of a training depends on, to `last.pt` and back.

A resumed training gives the same result to the bit as one without a stop.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bci_decode.errors import BciDecodeError
from bci_decode.training.checkpoint import load_weights, read_checkpoint
from bci_decode.training.checkpoint_checks import finite

if TYPE_CHECKING:
    from bci_decode.training.trainer import Trainer

log = logging.getLogger(__name__)

AGAIN = "start again with overwrite=true"
FACTORED = ("row_var", "col_var")  # of Adafactor: smaller than the weights


def training_state(trainer: Trainer) -> dict[str, Any]:
    """What `last.pt` holds: see `training.checkpoint`."""
    modules = {"averaged": trainer.averaged, "reconstruction": trainer.reconstruction}
    cuda = trainer.device.type == "cuda"
    return (
        trainer.decoder_state(len(trainer.history) - 1, trainer.decoder.state_dict())
        | {name: module.state_dict() for name, module in modules.items() if module}
        | {
            "settings": trainer.settings,
            "best": trainer.best,
            "fingerprint": trainer.fingerprint,
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": trainer.scheduler.state_dict() if trainer.scheduler else {},
            "history": trainer.history,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(trainer.device) if cuda else None,
            "shuffle_rng": trainer.shuffle_rng.get_state(),
        }
        | trainer.own_state()
    )


def restore(trainer: Trainer, path: Path) -> None:
    """Continue the training that `last.pt` left; refuse one of another run, of whatever form."""
    older = ("settings", "best")  # keys that a last.pt of an earlier version lacks
    keys = [key for key in training_state(trainer) if key not in older]
    state = read_checkpoint(path, keys)
    load_weights(trainer.decoder, state["decoder"], path)
    if state["fingerprint"] != trainer.fingerprint:
        raise BciDecodeError("was trained on other data", file=path, remedy=AGAIN)
    if "settings" in state and trainer.check_settings:
        trainer.check_settings(state["settings"])
    try:
        _restore(trainer, state)
        trainer.best = state["best"] if "best" in state else _best_of_file(trainer, state)
        _check_best(trainer, "best" not in state)
    except BciDecodeError:
        raise
    except Exception as error:  # PyTorch raises anything where a state has another form
        problem = "holds the state of another training, or a damaged one"
        raise BciDecodeError(problem, file=path, remedy=AGAIN) from error
    log.info("resuming from epoch %d", state["epoch"])


def _restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Take over all states; a ValueError, or whatever PyTorch raises, where one does not fit."""
    if trainer.averaged:
        trainer.averaged.load_state_dict(state["averaged"])
    if trainer.reconstruction:
        trainer.reconstruction.load_state_dict(state["reconstruction"])
    groups = [dict(group) for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(state["optimizer"])
    _check_optimizer(trainer.optimizer, groups)
    if trainer.scheduler is not None:
        _check_alike(trainer.scheduler.state_dict(), state["scheduler"])
        trainer.scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] is not None and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(state["random_cuda"], trainer.device)
    trainer.shuffle_rng.set_state(state["shuffle_rng"])
    trainer.history = state["history"]
    losses = [f"{name}_loss" for name in trainer.data.parts]
    known = all(math.isfinite(row[loss]) for row in trainer.history for loss in losses)
    same = set(trainer.history[0]) == set(trainer.columns)
    if not (known and same and len(trainer.history) - 1 == state["epoch"]):
        raise ValueError("the history is of another training")
    trainer.restore_own(state)


def _check_optimizer(optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Refuse options of another kind than `groups` have, and states of other shapes."""
    for before, group in zip(groups, optimizer.param_groups, strict=True):
        _check_alike(before, group)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shapes = (torch.Size([]), parameter.shape)
            fits = name in FACTORED or not isinstance(value, Tensor) or value.shape in shapes
            if not isinstance(parameter, Tensor) or not fits:
                raise ValueError(f"{name} has another shape")


def _check_alike(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse a state that lacks a key, or has a value of another kind, than the one before."""
    for key, value in before.items():
        private = key.startswith("_") and key not in after  # other versions of PyTorch have others
        if key == "params" or private or value is None or after[key] is None:
            continue
        kinds = (int, float) if type(value) in (int, float) else type(value)
        if not isinstance(after[key], kinds) or not _finite(after[key]):
            raise ValueError(f"{key} is of another kind")


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return finite(value)
    return not isinstance(value, float) or not math.isnan(value)


def _best_of_file(trainer: Trainer, state: dict[str, Any]) -> dict[str, Any]:
    """The selected epoch and its weights from `best.pt`, for a `last.pt` that does not hold them.

    An earlier version wrote it. The two files must be of one run, and of one moment or, after a
    stop between them, best.pt of the next epoch.
    """
    path = trainer.folder / "best.pt"
    best = read_checkpoint(path)
    about = ("names", "model", "data", "session", "units", "axes")
    if any(best.get(key) != state.get(key) for key in about):
        raise BciDecodeError("is of another run than last.pt", file=path, remedy=AGAIN)
    return {"epoch": best["epoch"], "decoder": best["decoder"]}


def _check_best(trainer: Trainer, may_be_ahead: bool) -> None:
    """Refuse other weights than those of the selected epoch, or of the next one to be trained.

    The next one is trained again, and selected again.
    """
    forms = [
        {name: (values.shape, values.dtype) for name, values in weights.items()}
        for weights in (trainer.best["decoder"], trainer.decoder.state_dict())
    ]
    epochs = [trainer.best_epoch()]
    if may_be_ahead and len(trainer.history) <= trainer.config.epochs and not trainer.should_stop():
        epochs.append(len(trainer.history))
    if trainer.best["epoch"] not in epochs or forms[0] != forms[1]:
        raise ValueError("the selected weights are of another epoch or model")
