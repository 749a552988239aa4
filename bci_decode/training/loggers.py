"""Experiment loggers: every epoch and the final scores, sent to a tool that the user chose.

Nothing is imported unless it is chosen: `logger=tensorboard|mlflow|wandb`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bci_decode.config import flatten
from bci_decode.errors import BciDecodeError


class Logger(Protocol):
    """Receives numbers by name at every epoch, and the final ones once."""

    def log(self, numbers: dict[str, float], epoch: int) -> None: ...

    def close(self) -> None: ...


def open_logger(kind: str, folder: Path, name: str, settings: dict[str, Any]) -> Logger | None:
    """The logger of a run: `name` shows up in the tool, `settings` are its parameters.

    TensorBoard writes into `folder`; MLflow and Weights & Biases go where their own environment
    variables say. Raises `BciDecodeError` if the tool is not installed or cannot start.
    """
    if kind == "none":
        return None
    try:
        return LOGGERS[kind](folder, name, flatten(settings))
    except ImportError as error:
        raise BciDecodeError(
            f"is {kind}, which is not installed",
            field="logger",
            remedy=f"pip install 'bci_decode[{kind}]', or set logger=none",
        ) from error
    except Exception as error:  # a server that does not answer, an account that is missing
        raise BciDecodeError(
            f"{kind} cannot start ({error})", field="logger", remedy="mend it, or set logger=none"
        ) from error


def finite(numbers: dict[str, Any]) -> dict[str, float]:
    """The numbers that a plot can show."""
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


class _TensorBoard:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        self.writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
        self.writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in settings.items()))

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.writer.close()


class _MLflow:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        self.mlflow = importlib.import_module("mlflow")
        self.mlflow.set_experiment("bci_decode")
        self.mlflow.start_run(run_name=name)
        self.mlflow.log_params({key: str(value)[:250] for key, value in settings.items()})

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self.mlflow.log_metrics(numbers, step=epoch)

    def close(self) -> None:
        self.mlflow.end_run()


class _Wandb:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        wandb = importlib.import_module("wandb")
        self.run = wandb.init(project="bci_decode", name=name, config=settings, dir=str(folder))

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self.run.log(numbers, step=epoch)

    def close(self) -> None:
        self.run.finish()


LOGGERS: dict[str, Callable[[Path, str, dict[str, Any]], Logger]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
}
