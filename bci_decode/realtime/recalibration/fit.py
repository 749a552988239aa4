"""Fit a trained decoder to the units of another day: new read-in and read-out, the same core.

Shapes: T bins, N units of the new session, M inputs of the decoder, D axes of the target.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from bci_decode.config import DataConfig
from bci_decode.data.binning import BinnedSession
from bci_decode.data.dataset import Dataset
from bci_decode.data.session import Session
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation import metrics
from bci_decode.evaluation.decoding import by_segment, decode_parts, predictor
from bci_decode.models.decoder import TrainedDecoder
from bci_decode.models.multi_session import ReadIn
from bci_decode.realtime.recalibration.gradient_steps import take_steps
from bci_decode.realtime.recalibration.read_in import Encoding, read_in, same_units
from bci_decode.realtime.recalibration.read_out import refit_read_out
from bci_decode.realtime.recalibration.seconds import first_seconds
from bci_decode.runs.build import build_model
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.training.checkpoint import data_state
from bci_decode.training.history import history_columns, part_columns
from bci_decode.training.surroundings import torch_state_kept

log = logging.getLogger(__name__)

STEPS = 200  # of the gradient; docs/recalibration.md has what chose them
STAGES = ("units matched by channel and row", "ridge regression", "gradient steps")


@dataclass(eq=False)
class Recalibration:
    """A decoder for a new session, of which it has seen the training part of `data` alone.

    `parent` is the run that it comes from, `state` the content of its `best.pt`. `history` has a
    row for each of the `stages` that there was; `read_in` says what the read-in was made from.
    """

    parent: LoadedRun
    model: TrainedDecoder
    data: Dataset
    config: DataConfig
    read_in: str
    stages: tuple[str, ...] = STAGES
    experiment: str = "recalibrated"
    history: list[dict[str, float]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> LoadedRun:
        """The decoder as one that is loaded, before it has a folder of its own."""
        return LoadedRun(self.parent.folder, self.model, self.state)


def recalibrate(
    run: LoadedRun,
    session: Session,
    seconds: float = 60.0,
    *,
    steps: int = STEPS,
    seed: int = 0,
    parent_session: Session | None = None,
) -> Recalibration:
    """Refit the read-in and the read-out of a run on the first `seconds` of another session.

    Scaling, read-in and read-out are fitted again; the recurrent core stays. The read-in begins
    from units of the same channel and row and, with the `parent_session` that the run learned from,
    from how its inputs depended on the movement (see `read_in`). Then the read-out is fitted by
    ridge regression, and `steps` of the gradient, drawn from `seed`, improve both. Raises
    `BciDecodeError` for a run or a session that this is impossible with.
    """
    check_run(run)
    data, binned, config = first_seconds(run, session, seconds)
    encoding = Encoding.fit(run, parent_session) if parent_session is not None else None
    with torch_state_kept():
        torch.manual_seed(seed)
        model, how, names = _start(run, data, binned, session, encoding)
        found = Recalibration(run, model, data, config, how)
        record(found, time.perf_counter())
        _fit(found, run, binned, session, encoding, names, steps, seed)
    found.state = new_state(found, session)
    return found


def check_run(run: LoadedRun) -> None:
    """Refuse a run without a recurrent core, or one that looks ahead."""
    model = run.model
    if not isinstance(model, TrainedDecoder):
        raise BciDecodeError(
            "is fitted in closed form and has no recurrent core to keep",
            file=run.source,
            remedy="train it on the new session: its fit takes seconds",
        )
    if run.config.window.kind == "sequence" and any(one.bidirectional for one in model.members):
        raise BciDecodeError(
            "is bidirectional, so it decodes no session while it is recorded",
            file=run.source,
            remedy="choose a run that reads its input in one direction",
        )


def _start(
    run: LoadedRun,
    data: Dataset,
    binned: BinnedSession,
    session: Session,
    encoding: Encoding | None,
) -> tuple[TrainedDecoder, str, list[str]]:
    """The decoder with units matched by channel and row, what its read-in is made from, and the
    names of its weights."""
    names = unit_parameters(run)
    same = same_units(run, data.units)
    if encoding is None and not same.any():
        raise BciDecodeError(
            "has none of the decoder's units, and the session of the run is not known",
            file=session.path,
            remedy="name that with --parent-session FILE",
        )
    log.info(
        "%s: %d of %d units have the channel and row of one of the decoder's %d",
        session.name, int(same.any(axis=0).sum()), same.shape[1], same.shape[0],
    )  # fmt: skip
    # a mix of units is no input of an encoder that is not linear in the counts
    linear = all(isinstance(one.encoder, ReadIn | None) for one in run.model.members)
    mixes = encoding is not None and linear
    how = "same units" + ", and the tuning of the parent's inputs" * mixes
    return with_read_in(run, data, same, names), how, names


def unit_parameters(run: LoadedRun) -> list[str]:
    """Names of the weights with a column for each unit: those whose shape depends on how many."""
    one, other = (_new_model(run, len(run.units) + more).state_dict() for more in (0, 1))
    _check_names(run, one, other)
    return [name for name in one if one[name].shape != other[name].shape]


def _check_names(run: LoadedRun, one: Iterable[str], other: Iterable[str]) -> None:
    """Refuse a model of which the number of units decides what weights there are."""
    if differing := sorted(set(one) ^ set(other)):
        raise BciDecodeError(
            f"has the weights {', '.join(differing)} with one number of units and not with another",
            file=run.source,
            remedy="choose a run in which no layer has as many inputs as hidden units",
        )


def with_read_in(
    run: LoadedRun, data: Dataset, read_in: np.ndarray, names: list[str]
) -> TrainedDecoder:
    """The run's decoder, each input replaced by a sum (M, N) of the new session's units."""
    model, weights = _new_model(run, len(data.units)), dict(run.state["decoder"])
    _check_names(run, model.state_dict(), weights)
    for name in names:
        weights[name] = weights[name] @ torch.as_tensor(read_in, dtype=weights[name].dtype)
    model.load_state_dict(weights)
    return model.eval()


def _new_model(run: LoadedRun, units: int) -> TrainedDecoder:
    about = run.state["model"]
    settings = DictConfig(about["settings"])
    return build_model(settings, units, about["output_size"], members=about.get("members", 1))


def _fit(
    found: Recalibration,
    run: LoadedRun,
    binned: BinnedSession,
    session: Session,
    encoding: Encoding | None,
    names: list[str],
    steps: int,
    seed: int,
) -> None:
    """The stages after the first one, each with a row of the history."""
    started = time.perf_counter()
    if encoding is not None and "tuning" in found.read_in:
        mapped = read_in(run, found.data, binned, session, encoding)
        found.model = with_read_in(run, found.data, mapped, names)
    for member in found.model.members:
        if not refit_read_out(member, found.data):
            log.warning("%s: %s has no linear read-out to refit", run.source, type(member.head))
    record(found, started)
    if steps:
        started = time.perf_counter()
        take_steps(found.model, found.data, _read_in_and_heads(found.model, names), steps, seed)
        record(found, started)


def _read_in_and_heads(model: TrainedDecoder, names: list[str]) -> list[nn.Parameter]:
    heads = {id(p) for member in model.members for p in member.head.parameters()}
    return [p for name, p in model.named_parameters() if name in names or id(p) in heads]


def record(found: Recalibration, started: float) -> None:
    """A row of the history: loss and R2 in the seconds and in the rest, which chooses nothing."""
    data, model = found.data, found.model
    decode = predictor(model, data.window.history, data.window.step, data.low_pass)
    train = data.parts["train"]
    decoded = data.target_scaler.inverse(by_segment(decode, train.counts, train.pieces))
    row: dict[str, float] = {
        "epoch": len(found.history),
        "train_loss": metrics.mse(train.truth, decoded),
        "train_r2": float(metrics.r2(train.truth, decoded).mean()),
    }
    row |= part_columns(data, decode_parts(model, data))
    row |= {"lr": math.nan, "seconds": time.perf_counter() - started}
    found.history.append({name: row[name] for name in history_columns(axes=data.axes)})


def new_state(found: Recalibration, session: Session) -> dict[str, Any]:
    """All that `best.pt` holds: see `training.checkpoint`."""
    parent, data = found.parent.state, found.data
    split = {name: [bins.start, bins.stop] for name, bins in data.slices.items()}
    return parent | data_state(data) | {
        "names": parent["names"] | {"experiment": found.experiment},
        "model": parent["model"] | {"input_size": len(data.units)},
        "data": asdict(found.config),
        "session": {"name": session.name, "md5": session.md5, "split_bins": split},
        "epoch": len(found.history) - 1,
        "decoder": found.model.state_dict(),
    }  # fmt: skip
