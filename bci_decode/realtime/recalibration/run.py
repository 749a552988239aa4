"""The folder of a recalibrated run: a run like any other, which names its parent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bci_decode.config import DataConfig, TrainConfig, TrainerConfig
from bci_decode.data.session import Session, read_session
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.evaluation.scores import scores
from bci_decode.files import expand_user, written_whole
from bci_decode.realtime.recalibration.fit import (
    STEPS,
    Recalibration,
    check_run,
    recalibrate,
)
from bci_decode.realtime.recalibration.read_in import parent_recording, same_units
from bci_decode.realtime.recalibration.seconds import first_seconds
from bci_decode.runs.figures import run_title, trajectory_figure
from bci_decode.runs.folder import check_same_data, file_stat, working_folder
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.runs.ownership import claim, finish, locked, start
from bci_decode.runs.reading import read_predictions, read_report
from bci_decode.runs.report import recording_kind, write_predictions, write_report
from bci_decode.studies.training import translate_errors
from bci_decode.style import save_figure
from bci_decode.training.checkpoint import save_checkpoint

log = logging.getLogger(__name__)

EXPERIMENT = "recalibrated"
NOT_FOUND = "not found"
OPTIONS = {  # what the errors of runs name, and the options of this command
    "overwrite=true trains again": "--overwrite makes it again",
    "another output_dir=": "another --output",
}


@dataclass(frozen=True)
class Request:
    """What a recalibrated run is made with; `output` is its folder, by default inside the run's."""

    seconds: float = 60.0
    steps: int = STEPS
    seed: int = 0
    parent_session: str | Path | None = None
    output: str | Path | None = None
    overwrite: bool = False
    figures: str = "png"


def recalibrated_run(
    run: LoadedRun, file: str | Path, request: Request | None = None
) -> tuple[Path, dict[str, Any]]:
    """Recalibrate a run on the first seconds of a file; returns the new folder and its report.

    The folder is written whole or not at all. A finished one with the same settings is left as it
    is, and its report returned. The session that the run was trained on is looked for where it was.
    """
    request = request or Request()
    check_run(run)
    session, config = opened(run, file, request)
    known = parent_recording(run, request.parent_session)
    settings = {
        "seconds": request.seconds,
        "steps": request.steps,
        "parent_md5": run.md5,
        "parent_session": NOT_FOUND if known is None else run.state["session"]["md5"],
    }

    def fit() -> Recalibration:
        return recalibrate(
            run,
            session,
            request.seconds,
            steps=request.steps,
            seed=request.seed,
            parent_session=None if known is None else read_session(known, source=run.config.source),
        )

    making = NewRun(run, session, config, request, EXPERIMENT, {"recalibration": settings})
    making.parent["session_file"] = None if known is None else str(known)
    return making.made(fit)


def opened(run: LoadedRun, file: str | Path, request: Request) -> tuple[Session, DataConfig]:
    """The session of a file, and how its first seconds are split from the rest."""
    if request.output is not None:
        _check_output(run, expand_user(request.output))
    session = read_session(expand_user(file).absolute(), source=run.config.source)
    return session, first_seconds(run, session, request.seconds)[2]


@dataclass(frozen=True, eq=False)
class NewRun:
    """A run that is fitted to another session, and the `parent` that it comes from.

    `own` is what `config.yaml` has for this `experiment` alone; `parent` is what the report says
    of the parent beside all that it always says.
    """

    run: LoadedRun
    session: Session
    config: DataConfig
    request: Request
    experiment: str
    own: dict[str, Any]
    parent: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        if self.request.output is not None:
            return expand_user(self.request.output)
        name = f"{self.session.name}_{self.request.seconds:g}s"
        return self.run.folder / self.experiment / name

    def made(self, fit: Callable[[], Recalibration]) -> tuple[Path, dict[str, Any]]:
        """Write what `fit` returns, unless the run is finished; returns its folder and report."""
        folder, settings = self.folder, self._settings()
        with translate_errors(OPTIONS), locked(folder) as refusal:
            if claim(folder, settings, self.request.overwrite) is None:
                check_same_data(folder, self.session.path)
                log.info("%s: finished already; --overwrite makes it again", folder)
                return folder, read_report(folder)
            if refusal:
                raise refusal
            found = fit()
            start(folder, settings, overwrite=True)  # what a killed start left is of no use
            report = self._write(working_folder(folder), found)
            finish(folder)
        return folder, report

    def _settings(self) -> dict[str, Any]:
        """What `config.yaml` holds: a run with other settings must not take the folder."""
        about = self.run.state["model"]
        return {
            "names": self.run.state["names"] | {"experiment": self.experiment},
            "seed": self.request.seed,
            "ensemble": about.get("members", 1),
            "session": {"name": self.session.name, "path": str(self.session.path)},
            "data": asdict(self.config),
            "model": about["settings"],
            **self.own,
        }

    def _write(self, folder: Path, found: Recalibration) -> dict[str, Any]:
        parent, request, session = self._parent(found), self.request, self.session
        save_checkpoint(folder / "best.pt", found.state | {"parent": parent})
        history = pd.DataFrame(found.history)
        with written_whole(folder / "history.csv") as temporary:
            history.to_csv(temporary, index=False)
        md5 = found.state["session"]["md5"]
        about = {
            "session": session.name,
            "recording": recording_kind({"name": session.name}, md5),
            "model": found.state["names"]["model"],
            "experiment": self.experiment,
            "seed": request.seed,
            "best_epoch": found.state["epoch"],
            "bidirectional": found.model.members[0].bidirectional,
            "data": file_stat(session.path) | {"md5": md5, "seconds": session.duration},
            "parameters": sum(values.numel() for values in found.state["decoder"].values()),
            "device": str(found.model.device),
            "stages": list(found.stages[: len(history)]),
            "stage_r2": history["test_r2"].tolist(),
            "parent": parent,
        }
        config = TrainConfig(
            seed=request.seed,
            data=found.config,
            trainer=TrainerConfig(select_on="last", patience=None),
        )
        decoded = decode_parts(found.model, found.data)
        write_predictions(folder / "predictions.npz", found.data, decoded["test"], config.data)
        title = run_title(about | {"protocol": {"target": config.data.target}})
        shown = read_predictions(folder / "predictions.npz")
        save_figure(
            trajectory_figure(shown, title, config.trajectory),
            folder / f"trajectory.{request.figures}",
        )
        # its checksums come last: a run that has them is finished
        return write_report(folder, found.data, decoded, history, config, about)

    def _parent(self, found: Recalibration) -> dict[str, Any]:
        """Where a run comes from, how, and the scores of its parent in the rest of the session."""
        run, data = self.run, found.data
        same = same_units(run, data.units)
        test, learned = before(run, self.session, data.slices["test"])
        return {
            "folder": str(run.source.resolve()),
            "md5": run.md5,
            "session": run.state["session"]["name"],
            "seconds": self.request.seconds,
            "steps": self.request.steps,
            "read_in": found.read_in,
            "units": {
                "parent": len(run.units),
                "new session": len(data.units),
                "same channel and row": int(same.any(axis=0).sum()),
            },
            "scores": {"test": test},
            "learned_from": learned,
            **self.parent,
        }


def _check_output(run: LoadedRun, folder: Path) -> None:
    """Refuse a place where the new run would replace its parent, or a file."""
    own, new = run.folder.resolve(), folder.resolve()
    problem = None
    if new in (own, *own.parents):
        problem = "is the folder of RUN" if new == own else "contains the folder of RUN"
    elif folder.exists() and not folder.is_dir():
        problem = "is a file"
    if problem:
        remedy = "choose a folder of its own"
        raise BciDecodeError(problem, file=folder, field="--output", remedy=remedy)


Scores = dict[str, float | None]


def before(run: LoadedRun, session: Session, bins: slice) -> tuple[Scores | None, list[str]]:
    """Scores of a run in these bins of a session as it is, units matched by channel and row.

    None where it has none of the units. Then, the parts in the bins that the run learned from.
    """
    binned = run.bin(session)
    if not same_units(run, binned.units).any():
        return None, []
    start, stop = binned.edges[[bins.start, bins.stop]]
    decoded = run.predictions(session, float(start), float(stop))
    return scores(decoded["true"], decoded["decoded"], run.axes), decoded["overlaps"]
