"""Experiment loggers: every epoch and the final scores, sent to a tool that the user chose.

Nothing is imported unless it is chosen: `logger=tensorboard|mlflow|wandb`.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from bci_decode.config import flatten
from bci_decode.errors import BciDecodeError, one_line

log = logging.getLogger(__name__)


class Tool(Protocol):
    """One tool: it receives numbers by name, and whether the run failed at the end."""

    def log(self, numbers: dict[str, float], epoch: int) -> None: ...

    def close(self, failed: bool) -> None: ...


class Logger:
    """Sends the numbers of a run to a tool; a fault of the tool ends the logging, not the run."""

    def __init__(self, kind: str, tool: Tool | None):
        self.kind, self.tool = kind, tool

    def log(self, numbers: dict[str, Any], epoch: int) -> None:
        """Send the finite numbers."""
        if self.tool is not None:
            self._guarded(self.tool.log, finite(numbers), epoch)

    def close(self, failed: bool) -> None:
        if self.tool is not None:
            self._guarded(self.tool.close, failed)

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # a lost connection, a full disk
            log.warning("logger=%s stopped: %s", self.kind, one_line(error))
            self.tool = None


@contextmanager
def experiment_logger(
    kind: str, folder: Path, name: str, settings: dict[str, Any]
) -> Iterator[Logger]:
    """The logger of a run: `name` is the run's in the tool, `settings` are its parameters.

    TensorBoard writes into `folder`; MLflow and Weights & Biases go where their own environment
    variables say. Raises `BciDecodeError` if the tool is not installed or cannot start.
    """
    logger = Logger(kind, _open(kind, folder, name, settings))
    try:
        yield logger
    except BaseException:
        logger.close(failed=True)
        raise
    logger.close(failed=False)


def check_installed(kind: str) -> None:
    """Refuse a tool that cannot be imported, before anything is written."""
    if kind != "none" and importlib.util.find_spec(kind) is None:
        raise BciDecodeError(
            f"is {kind}, which is not installed",
            field="logger",
            remedy=f"install it, in a clone with pip install '.[{kind}]', or set logger=none",
        )


def _open(kind: str, folder: Path, name: str, settings: dict[str, Any]) -> Tool | None:
    if kind == "none":
        return None
    try:
        return TOOLS[kind](folder, name, flatten(settings))
    except Exception as error:  # a server that does not answer, an account that is missing
        raise BciDecodeError(
            f"{kind} cannot start ({one_line(error)})",
            field="logger",
            remedy="correct its settings, or set logger=none",
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

    def close(self, failed: bool) -> None:
        self.writer.close()


class _MLflow:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        self.mlflow = importlib.import_module("mlflow")
        self.mlflow.set_experiment("bci_decode")
        self.mlflow.start_run(run_name=name)
        self.mlflow.log_params({key: str(value)[:250] for key, value in settings.items()})

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self.mlflow.log_metrics(numbers, step=epoch)

    def close(self, failed: bool) -> None:
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


class _Wandb:
    def __init__(self, folder: Path, name: str, settings: dict[str, Any]):
        wandb = importlib.import_module("wandb")
        self.run = wandb.init(project="bci_decode", name=name, config=settings, dir=str(folder))

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self.run.log(numbers, step=epoch)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


TOOLS: dict[str, Callable[[Path, str, dict[str, Any]], Tool]] = {
    "tensorboard": _TensorBoard,
    "mlflow": _MLflow,
    "wandb": _Wandb,
}
