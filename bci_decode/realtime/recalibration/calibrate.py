"""Adapt a decoder of many sessions to a new one: first its read-in, then all weights.

Shapes: S sessions, N units of the new session, M units of all sessions, K outputs of a read-in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from bci_decode.data.session import Session, read_session
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.recalibration.fit import (
    Recalibration,
    check_run,
    new_state,
    record,
    unit_parameters,
    with_read_in,
)
from bci_decode.realtime.recalibration.gradient_steps import take_steps
from bci_decode.realtime.recalibration.read_in import same_units
from bci_decode.realtime.recalibration.run import NewRun, Request, opened
from bci_decode.realtime.recalibration.seconds import first_seconds
from bci_decode.runs.build import build_model
from bci_decode.runs.load_joint import JointRun, load_joint
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.training.surroundings import torch_state_kept

# docs/multi_session.md has what chose these
STEPS = 150  # of each stage
LEARNING_RATE = 3e-3
# what a change of the weights with a norm of 1 costs in each stage, divided by the seconds
ANCHORS = (3.0, 30.0)
LATEST = 0.5  # weight of the later session, where two have a unit of the same channel and row
STAGES = ("units matched by channel and row", "read-in", "all weights")
WEIGHTS = ("all", "read-in")  # what is learned: both stages, or the first one alone
EXPERIMENT = "calibrated"
READ_IN = "encoder.linear.weight"  # (K, N), the weights of the units
log = logging.getLogger(__name__)


def calibrated_run(
    joint: JointRun, file: str | Path, request: Request | None = None, weights: str = WEIGHTS[0]
) -> tuple[Path, dict[str, Any]]:
    """Calibrate a run of many sessions on the first seconds of a file.

    Returns the new folder and its report. The folder is written whole or not at all; a finished
    one with the same settings is left as it is.
    """
    request = request or Request(steps=STEPS)
    parent = merged(joint)
    check_run(parent)
    session, config = opened(parent, file, request)
    _check_new(joint, session)
    own = {
        "seconds": request.seconds,
        "steps": request.steps,
        "weights": weights,
        "parent_md5": parent.md5,
    }
    making = NewRun(parent, session, config, request, EXPERIMENT, {"calibration": own})
    making.parent["sessions"] = joint.sessions
    how = request.seconds, request.steps, weights, request.seed
    return making.made(lambda: _calibrate(parent, session, *how))


def calibrate(
    run: JointRun | str | Path,
    session: Session | str | Path,
    seconds: float = 60.0,
    *,
    steps: int = STEPS,
    weights: str = WEIGHTS[0],
    seed: int = 0,
) -> LoadedRun:
    """A decoder for a new session from a run of many, which sees the first `seconds` alone.

    `run` is the folder of a training with `sessions=`; `weights` is "all" or "read-in". Nothing is
    written. Raises `BciDecodeError` where the run or the session does not allow it.
    """
    joint = run if isinstance(run, JointRun) else load_joint(run)
    parent = merged(joint)
    check_run(parent)
    if not isinstance(session, Session):
        session = read_session(session, source=parent.config.source)
    _check_new(joint, session)
    return _calibrate(parent, session, seconds, steps, weights, seed).run


def _check_new(joint: JointRun, session: Session) -> None:
    """Refuse a session that the run was trained on."""
    md5 = session.md5
    known = [one["name"] for one in joint.state["sessions"] if one["md5"] == md5]
    if known:
        raise BciDecodeError(
            f"is {known[0]}, one of the sessions that {joint.file} was trained on",
            file=session.path,
            remedy=f"name another session; sessions/{known[0]} of the run has its decoder",
        )


def merged(joint: JointRun) -> LoadedRun:
    """One decoder for the units of all sessions, from those of the sessions in their order.

    Where sessions have a unit of the same channel and row, its weights are a mean in which each
    session counts as much as all earlier ones together; likewise the read-outs, if each session has
    its own. A unit's scaling is that of its latest session, the target's the mean over sessions.
    """
    sessions = joint.state["sessions"]
    units = {(c, row): [c, area, row] for one in sessions for c, area, row in one["units"]}
    place = {unit: column for column, unit in enumerate(units)}
    weights: dict[str, Tensor] = {}
    scaling = {key: torch.zeros(len(units), dtype=torch.float64) for key in ("mean", "std")}
    seen = torch.zeros(len(units), dtype=torch.bool)
    for number, session in enumerate(sessions):
        own = joint.decoder.session_decoder(number).state_dict()
        columns = torch.tensor([place[c, row] for c, _, row in session["units"]])
        read_in = weights.get(READ_IN, own[READ_IN].new_zeros(len(own[READ_IN]), len(units)))
        old = read_in[:, columns]
        read_in[:, columns] = torch.where(
            seen[columns], old.lerp(own[READ_IN], LATEST), own[READ_IN]
        )
        weights = {name: _mean(weights.get(name), values) for name, values in own.items()}
        weights[READ_IN] = read_in
        seen[columns] = True
        for key, values in scaling.items():
            values[columns] = session[key]["counts"]
    whole: dict[str, Any] = sessions[-1] | {"units": list(units.values())}
    for key, values in scaling.items():
        target = torch.stack([one[key]["target"] for one in sessions]).mean(0)
        whole[key] = {"counts": values, "target": target}
    settings, axes = DictConfig(joint.state["model"]["settings"]), len(joint.state["axes"])
    model = build_model(settings, len(units), axes)
    model.load_state_dict(weights)
    return joint.of_one(model, whole)


def _mean(earlier: Tensor | None, values: Tensor) -> Tensor:
    """Weights of the sessions so far with those of one more; shared ones stay to the bit."""
    if earlier is None or earlier.shape != values.shape or not values.is_floating_point():
        return values
    return earlier.lerp(values, LATEST)


def stages(
    parent: LoadedRun, session: Session, seconds: float, steps: int = STEPS, seed: int = 0
) -> Iterator[Recalibration]:
    """Fit the `merged` decoder to the first seconds of a session; yields it after each stage.

    The scaling of the target stays, as the hand moves alike from day to day and few seconds tell
    little of it. The less they are, the closer all weights stay to what they were.
    """
    data, _, config = first_seconds(parent, session, seconds)
    if data.unit != parent.unit:  # the scaling of the target is kept, and would mean another thing
        raise BciDecodeError(
            f"has {config.target} in {data.unit}, {parent.source} decodes it in {parent.unit}",
            file=session.path,
            field="data.source",
            remedy="train on sessions with this target, or convert the file's unit",
        )
    data = replace(data, target_scaler=parent.scaler("target"))
    names, same = unit_parameters(parent), same_units(parent, data.units)
    if not same.any():
        raise BciDecodeError(
            f"has no unit with the channel and row of one that {parent.source} knows",
            file=session.path,
            remedy="train on it together with the other sessions, as one of sessions=",
        )
    log.info(
        "%s: %d of %d units have the channel and row of one of %d of the trained sessions",
        session.name, int(same.any(axis=0).sum()), same.shape[1], same.shape[0],
    )  # fmt: skip
    started = time.perf_counter()
    model = with_read_in(parent, data, same, names)
    how = "the read-ins of the trained sessions"
    found = Recalibration(parent, model, data, config, how, STAGES, EXPERIMENT)
    yield _finished(found, session, started)
    (decoder,) = model.members
    assert decoder.encoder is not None
    learned = list(decoder.encoder.parameters()), list(decoder.parameters())
    for weights, anchor in zip(learned, ANCHORS, strict=True):
        started = time.perf_counter()
        with torch_state_kept():
            torch.manual_seed(seed)
            take_steps(model, data, weights, steps, seed, LEARNING_RATE, anchor / seconds)
        yield _finished(found, session, started)


def _finished(found: Recalibration, session: Session, started: float) -> Recalibration:
    record(found, started)
    found.state = new_state(found, session)
    return found


def _calibrate(
    parent: LoadedRun, session: Session, seconds: float, steps: int, weights: str, seed: int
) -> Recalibration:
    if weights not in WEIGHTS:
        remedy = f"choose {' or '.join(WEIGHTS)}"
        raise BciDecodeError(f"is {weights!r}", field="weights", remedy=remedy)
    if steps < 0:
        raise BciDecodeError(f"is {steps}", field="steps", remedy="give 0 or more")
    number = 1 if steps == 0 else 1 + len(WEIGHTS) - WEIGHTS.index(weights)
    *_, found = islice(stages(parent, session, seconds, steps, seed), number)
    return found
