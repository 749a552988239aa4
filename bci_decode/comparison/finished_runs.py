"""The finished runs below some folders, and the runs there that have no scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bci_decode.comparison.old_runs import present_history, present_metrics, present_settings
from bci_decode.data.catalog import monkeys
from bci_decode.errors import BciDecodeError
from bci_decode.runs.checksums import RUNNING, verify
from bci_decode.runs.folder import FAILED, SESSIONS, reason_in, working_folder
from bci_decode.runs.reading import damaged, read_history, read_report, read_settings

PREDICTIONS, JOINT_TABLE = "predictions.npz", "sessions.csv"
TEXTS = ("session", "model", "experiment", "recording", "select_on", "selection_rule")
SCORES = {"r2_x": "test_r2_x", "r2_y": "test_r2_y", "r2": "test_r2"}  # of a session: of a run
# settings that runs must share before a table may hold both
PROTOCOL = ("data.", "optimizer.", "scheduler.", "trainer.", "init_from")
FREE = (
    *(f"trainer.{key}" for key in ("device", "threads", "monitor_layers", "profile")),
    "data.split.cut",  # runs of all cuts make one score
)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: `metrics.json`, `history.csv`, and `config.yaml` as {"data.lag": 0.0}."""

    folder: Path
    metrics: dict[str, Any]
    history: pd.DataFrame
    settings: dict[str, Any]

    @property
    def model(self) -> str:
        """Its name, "rnn-bidirectional" for instance."""
        return self.metrics["model"]

    @property
    def cut(self) -> int | None:
        """The cut of a chained split that the run is of; None with any other split."""
        return self.settings.get("data.split.cut")

    @property
    def label(self) -> str:
        cut = "" if self.cut is None else f" cut {self.cut}"
        return f"{self.metrics['session']} {self.model} seed {self.metrics['seed']}{cut}"

    @property
    def recording(self) -> str:
        """What was decoded: "simulated", "recorded" (published), "excerpt" of it, "own file"."""
        return self.metrics["recording"]

    @property
    def protocol(self) -> dict[str, Any]:
        """The settings that the runs of one table share: all but those of the model.

        Experiment and kind of recording are among them. A setting that is null counts as absent.
        """
        about = {key: self.metrics[key] for key in ("experiment", "recording")}
        chained = self.settings.get("data.split.cuts") is not None
        unused = () if chained else ("data.split.block",)
        return about | {
            key: value
            for key, value in self.settings.items()
            if key.startswith(PROTOCOL) and key not in (*FREE, *unused) and value is not None
        }

    @property
    def model_settings(self) -> dict[str, Any]:
        own = ("model.", "ensemble")
        return {key: value for key, value in self.settings.items() if key.startswith(own)}

    @property
    def plateau(self) -> float:
        """The target's variance on the test part: the loss of decoding the mean."""
        return float(self.metrics["target_variance"]["test"])

    @property
    def closed_form(self) -> bool:
        """Whether the model was solved at once, so that its history is a single row."""
        return len(self.history) == 1

    def row(self) -> dict[str, Any]:
        """The run as a row of tables.

        `half_plateau_epoch`: see `half_plateau_epoch`. `best_val_epoch`: the epoch of the lowest
        validation loss. Both are empty for a model in closed form. `holdout_`: scores of test bins
        that selected nothing, at the epoch that the other test bins selected, and at the one that
        the whole test part selected.
        """
        about, protocol = self.metrics, self.metrics["protocol"]
        test, holdout = about["scores"]["test"], about.get("holdout") or {}
        at_selected = holdout.get("at_test_selected_epoch", {})
        start, stop = protocol["split_bins"]["test"]
        kinematics = ("target", "unit", "source", "bin_width_s", "lag_s", "units", "units_used")
        return {
            **{key: about[key] for key in ("experiment", "session", "recording")},
            "monkey": monkey_of(about["session"]),
            **{key: about[key] for key in ("model", "seed")},
            "cut": self.cut,
            **{key: about[key] for key in ("select_on", "best_epoch", "epochs")},
            **{name: _number(test[key]) for key, name in SCORES.items()},
            "test_loss": float(about["loss"]["test"]),
            "plateau": self.plateau,
            "closed_form": self.closed_form,
            "half_plateau_epoch": self._half_plateau_epoch(),
            "best_val_epoch": self._best_val_epoch(),
            "test_bins": stop - start,
            "holdout_epoch": holdout.get("epoch"),
            "holdout_bins": holdout["bins"][1] - holdout["bins"][0] if holdout else None,
            **{f"holdout_{key}": _number(holdout.get(key)) for key in SCORES},
            **{
                f"holdout_{key}_at_test_selected_epoch": _number(at_selected.get(key))
                for key in SCORES
            },
            **{key: protocol[key] for key in kinematics},
            "seconds": float(about["seconds"]),
        }

    def _half_plateau_epoch(self) -> int | None:
        return None if self.closed_form else half_plateau_epoch(self.history, self.plateau)

    def _best_val_epoch(self) -> int | None:
        losses = self.history.get("val_loss", pd.Series(dtype=float))
        known = "val" in self.metrics["target_variance"] and losses.notna().any()
        if self.closed_form or not known:
            return None
        return int(self.history.loc[losses.idxmin(), "epoch"])


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def half_plateau_epoch(history: pd.DataFrame, plateau: float) -> int | None:
    """The first epoch with a test loss below half of the plateau, the target's variance."""
    return first_epoch_below(history, plateau / 2)


def first_epoch_below(history: pd.DataFrame, loss: float) -> int | None:
    """The first epoch with a test loss below `loss`; None if there is none."""
    below = history.loc[history["test_loss"] < loss, "epoch"]
    return int(below.iloc[0]) if len(below) else None


def monkey_of(session: str) -> str:
    """The monkey in the name of a session; of a simulated or own session the name itself."""
    prefix = session.split("_")[0]
    return prefix if prefix in monkeys() else session


@dataclass(frozen=True)
class IncompleteRuns:
    """Runs without scores: folders of failed ones with the reason, unfinished and damaged ones.

    `failed_restarts` are finished runs, which count, whose later start failed or still trains.
    """

    failed: list[tuple[Path, str]]
    unfinished: list[Path]
    damaged: list[tuple[Path, str]]
    failed_restarts: list[tuple[Path, str]]

    @property
    def folders(self) -> set[Path]:
        return {*self.unfinished, *(path for path, _ in self.failed + self.damaged)}

    def lines(self) -> list[str]:
        remedy = "start it again, with overwrite=true if that does not mend it"
        lines = [f"failed: {path} ({reason})" for path, reason in self.failed]
        lines += [f"not finished: {path}" for path in self.unfinished]
        return lines + [f"damaged: {path} ({reason}; {remedy})" for path, reason in self.damaged]


def read_runs(*folders: Path) -> tuple[list[Run], IncompleteRuns]:
    """All finished runs below the folders, and the runs there that have no scores."""
    remedy = "train first; runs lie in outputs/<experiment>"
    for folder in folders:
        if not folder.is_dir():
            raise BciDecodeError("no such folder", file=folder, remedy=remedy)
    # of a decoder of many sessions, each session's run counts
    begun = [path for path in _begun(folders) if not (path / JOINT_TABLE).exists()]
    finished = [path for path in begun if (path / "metrics.json").exists()]
    others = [path for path in begun if path not in finished]
    reasons = {path: _reason(path) for path in begun}
    runs = {path: _read_run(path) for path in finished}
    incomplete = IncompleteRuns(
        failed=[(path, reason) for path in others if (reason := reasons[path])],
        unfinished=[path for path in others if not reasons[path]],
        damaged=[
            (path, f"{Path(str(run.file)).name} {run.problem}")
            for path, run in runs.items()
            if isinstance(run, BciDecodeError)
        ],
        failed_restarts=[(path, reason) for path in finished if (reason := _restart(path))],
    )
    if len(incomplete.damaged) == len(finished):
        there = "; ".join(["", *incomplete.lines()[:3]])
        names = ", ".join(map(str, folders))
        raise BciDecodeError(f"holds no finished run{there}", file=names, remedy=remedy)
    return [run for run in runs.values() if isinstance(run, Run)], incomplete


def _begun(folders: tuple[Path, ...]) -> list[Path]:
    """Folders of all runs that were started, once each, without the mark of one that trains."""
    names = ("config.yaml", "metrics.json", FAILED)
    marks = [mark for folder in folders for name in names for mark in folder.rglob(name)]
    parents = [mark.parent for mark in marks if not _is_hidden(mark.parent)]
    found = {path.resolve(): path for path in (_without_mark(path) for path in parents)}
    return sorted(found.values())


def _is_hidden(folder: Path) -> bool:
    """Whether a folder is one that is exchanged, or that of a session in a run that trains."""
    above = folder.parents[1].name if folder.parent.name == SESSIONS else ""
    return folder.name.startswith(".") or above.startswith(".") or above.endswith(RUNNING)


def _without_mark(folder: Path) -> Path:
    return folder.with_name(folder.name.removesuffix(RUNNING))


def _reason(folder: Path) -> str:
    """Why the last start of a run failed; "" if it did not."""
    for place in (working_folder(folder), folder):
        reason = reason_in(place)
        if reason is not None:
            return reason.splitlines()[0] if reason else "no reason given"
    return ""


def _restart(folder: Path) -> str:
    return _reason(folder) or "a later start is not finished" * working_folder(folder).is_dir()


def _read_run(folder: Path) -> Run | BciDecodeError:
    """The run in a folder, or what is wrong with its files."""
    try:
        settings = present_settings(read_settings(folder))
        metrics, history = read_report(folder), present_history(read_history(folder))
        if "checksums" in metrics and not (folder / PREDICTIONS).is_file():
            raise damaged(folder / PREDICTIONS, "it is missing")
        verify(folder, PREDICTIONS)
        run = Run(folder, present_metrics(metrics, settings), history, settings)
        _check(run)
    except BciDecodeError as error:
        return error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        return damaged(folder / "metrics.json", f"{type(error).__name__}: {error}")
    return run


def _check(run: Run) -> None:
    """Everything that a comparison reads is there; raises any of the errors of `_read_run`."""
    row, about = run.row(), run.metrics
    texts = [about[key] for key in TEXTS] + [about["data"]["md5"], row["unit"], row["target"]]
    counts = [about[key] for key in ("seed", "best_epoch", "epochs")] + [row["test_bins"]]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("an epoch, a seed or a number of bins is none")
    if Path(about["session"]).name != about["session"]:
        raise ValueError("the name of the session leads out of its folder")
    whole = run.history["epoch"].iloc[-1] == about["epochs"] >= about["best_epoch"]
    scores = [row[name] for name in SCORES.values()]
    if not whole or any(score > 1 or math.isinf(score) for score in scores):
        raise ValueError("the files of the run contradict each other")
    if not all(math.isfinite(row[key]) for key in ("test_loss", "plateau", "seconds")):
        raise ValueError("a loss is no number")
