"""Where a training runs, and whether its settings fit the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from bci_decode.config import TrainerConfig
from bci_decode.data.dataset import Dataset
from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)


def chosen_device(name: str) -> torch.device:
    """The device that `trainer.device` names; auto takes a GPU that PyTorch sees."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BciDecodeError(
            "is cuda, but PyTorch sees no GPU",
            field="trainer.device",
            remedy="choose auto or cpu",
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def torch_state_kept() -> Iterator[None]:
    """Put PyTorch's number of threads and its random state back afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def set_threads(threads: int) -> None:
    """Set PyTorch's number of CPU threads, with a warning if the cores are fewer."""
    cores = os.cpu_count() or 1
    if threads > cores:
        log.warning("trainer.threads=%d on %d cores makes training slower", threads, cores)
    torch.set_num_threads(threads)


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse what is no optimizer, and one that the loop cannot step."""
    unfit = {LBFGS: "needs the loss again in each step", SparseAdam: "needs sparse gradients"}
    problems = [problem for kind, problem in unfit.items() if isinstance(optimizer, kind)]
    if not isinstance(optimizer, Optimizer):
        problems = ["is no optimizer of torch.optim"]
    if problems:
        raise BciDecodeError(
            f"{type(optimizer).__name__} {problems[0]}",
            field="optimizer",
            remedy="choose another one, optimizer=adamw say",
        )


def check_scheduler(scheduler: LRScheduler | None, data: Dataset) -> None:
    """Refuse what is no schedule, and one of the validation loss without a validation part."""
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise BciDecodeError(
            f"{type(scheduler).__name__} is no schedule of torch.optim.lr_scheduler",
            field="scheduler",
            remedy="choose another one, scheduler=cosine say",
        )
    if isinstance(scheduler, ReduceLROnPlateau) and "val" not in data.parts:
        raise BciDecodeError(
            "follows the validation loss, and there is no validation part",
            field="scheduler",
            remedy="raise data.split.val, or choose another scheduler",
        )


def check_config(config: TrainerConfig, data: Dataset) -> None:
    """Refuse to select an epoch, or to stop, on a part that there is not."""
    if config.select_on not in data.parts and config.select_on == "test":
        raise BciDecodeError(
            f"is {config.select_on}, and there is no such part",
            field="trainer.select_on",
            remedy="choose val",
        )
    if "val" not in data.parts and (config.select_on == "val" or config.patience is not None):
        raise BciDecodeError(
            "is 0, so there is no validation part to select the epoch or to stop on",
            field="data.split.val",
            remedy="raise it, or set trainer.select_on=last trainer.patience=null",
        )
