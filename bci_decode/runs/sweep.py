"""A sweep: the runs that it consists of, and the outcome of each.

The runs may be anywhere: in this process, in others, on a cluster. All that is known of them is in
their folders, so that a run that was killed is seen too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bci_decode.errors import BciDecodeError
from bci_decode.runs.chained import cut_configs
from bci_decode.runs.folder import (
    failure,
    is_complete,
    record_failure,
    working_folder,
)
from bci_decode.runs.processes import jobs_at_a_time
from bci_decode.runs.swept_keys import naming_words

KILLED = "killed or out of memory; the same command resumes it"
NO_RUN = "check its glob() and range(); files of your own are 'session.path=glob(*.mat)'"
OWN_FOLDER = "name each run once, or give each its own output_dir="


@dataclass
class Sweep:
    """A sweep that has started: its runs' folders, and what its closing table needs."""

    finished: dict[
        Path, int | None
    ]  # when each run's metrics.json was written; None: not a finished run
    overwrite: bool
    slurm: bool
    folder: Path
    started: float


class SweepReport(Callback):
    """Hydra's callback that notes, before a sweep, which of its runs are finished."""

    sweep: Sweep | None = None  # of this process

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        try:
            with read_write(config), open_dict(config):
                config.hydra.overrides.task += _naming_words(config)
            folders = _folders(config)
            if "n_jobs" in config.hydra.launcher:
                jobs_at_a_time(config.hydra.launcher.n_jobs)
        except (HydraException, OmegaConfBaseException):
            return  # the first run of the sweep fails with it, in one line
        except BciDecodeError as mistake:  # not the first run's, perhaps
            print(f"error: {mistake}", file=sys.stderr)
            sys.exit(2)
        if not folders:
            words = " ".join(config.hydra.overrides.task)
            print(f"error: {words}: the sweep has no run; {NO_RUN}", file=sys.stderr)
            sys.exit(2)
        shared = [folder for folder in dict.fromkeys(folders) if folders.count(folder) > 1]
        if shared:  # Hydra takes a callback's exceptions for warnings
            print(
                f"error: {shared[0]}: several runs of this sweep share this folder; {OWN_FOLDER}",
                file=sys.stderr,
            )
            sys.exit(2)
        SweepReport.sweep = Sweep(
            finished={folder: _finished_at(folder) for folder in folders},
            overwrite=bool(config.overwrite),
            slurm="Slurm" in config.hydra.launcher._target_,
            folder=Path(config.hydra.sweep.dir),
            started=time.time(),
        )
        for folder in folders:  # what an earlier sweep says of its failures is none of this one's
            record_failure(folder, None)


def _finished_at(folder: Path) -> int | None:
    return (folder / "metrics.json").stat().st_mtime_ns if is_complete(folder) else None


def _naming_words(config: DictConfig) -> list[str]:
    """Words that give every run of the sweep a folder of its own: see `runs.swept_keys`."""
    return naming_words(_jobs(config), config.hydra.runtime.choices)


def _jobs(config: DictConfig) -> list[list[str]]:
    """The words of each run of a sweep, as Hydra expands its overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    loader = GlobalHydra.instance().config_loader()
    # ${...} differs from run to run and is not resolved here
    words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    of_experiment = config.hydra.sweeper.get("params") or {}
    swept = [f"{key}={value}" for key, value in of_experiment.items()]  # a later word overrides
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*swept, *words])
    jobs = next(iter(BasicSweeper.split_arguments(overrides, None)), [])
    return [list(job) for job in jobs]


def _folders(config: DictConfig) -> list[Path]:
    """The run folders of a sweep, as Hydra composes the words of its runs."""
    loader = GlobalHydra.instance().config_loader()
    folders: list[Path] = []
    for job in _jobs(config):
        folders += _folders_of_job(loader.load_sweep_config(config, job))
    HydraConfig.instance().set_config(config)
    return folders


def _folders_of_job(composed: DictConfig) -> list[Path]:
    HydraConfig.instance().set_config(composed)  # `names` are made of `hydra:` values
    return list(cut_configs(composed))


def note_killed(composed: DictConfig) -> None:
    """Record that the process of a job was killed: the failure of the run that it was at."""
    if SweepReport.sweep is None:
        return
    found = outcomes(SweepReport.sweep)
    for folder in _folders_of_job(composed):
        if found[folder][0] == "open" or found[folder][1] == KILLED:
            record_failure(folder, KILLED)
            return


def outcomes(sweep: Sweep, interrupted: bool = False) -> dict[Path, tuple[str, str]]:
    """State of each run, and why: done, skipped (finished before), failed, or open.

    Open runs were interrupted, killed or never begun.
    """
    found = {}
    for folder, before in sweep.finished.items():
        reason, after = failure(folder), _finished_at(folder)
        if reason is not None:
            found[folder] = ("failed", reason.splitlines()[0].removeprefix(f"{folder}: "))
        elif after is not None and after != before:
            found[folder] = ("done", "")
        elif after is not None and not sweep.overwrite:
            found[folder] = ("skipped", "")
        elif (working_folder(folder) / "config.yaml").exists():
            stopped = ("open", "interrupted; the same command resumes it")
            found[folder] = stopped if interrupted else ("failed", KILLED)
        else:
            found[folder] = ("open", "not begun; the same command begins it")
    return found


def end_of_sweep(sweep: Sweep, interrupted: bool = False) -> bool:
    """Print the closing table, and note where a run was killed.

    Returns True if any run failed or is open.
    """
    if sweep.slurm and interrupted:
        print("jobs that SLURM has go on; squeue lists them, scancel ends them")
    elif sweep.slurm:
        _wait_for_slurm(sweep)
    found = outcomes(sweep, interrupted)
    width = max(len(str(folder)) for folder in found)
    for folder, (state, reason) in found.items():
        if state == "failed" and failure(folder) is None:  # a killed run cannot note it
            record_failure(folder, reason)
        print(f"{state:<8} {folder!s:<{width}}  {reason}".rstrip())
    states = [state for state, _ in found.values()]
    shown = ["done", "skipped", "failed"] + ["open"] * ("open" in states)
    print("sweep: " + ", ".join(f"{states.count(state)} {state}" for state in shown))
    return "failed" in states or "open" in states


def _wait_for_slurm(sweep: Sweep, poll: float = 2.0) -> None:
    """Wait until no job of the sweep is left: the launcher stops at the first that was killed."""
    paths = [
        path
        for path in (sweep.folder / ".submitit").glob("[0-9]*")
        if path.stat().st_mtime >= sweep.started - 1
    ]
    jobs = {path.name.split("_")[0] for path in paths}
    while jobs and shutil.which("squeue"):
        command = ["squeue", "-h", "-j", ",".join(sorted(jobs))]
        queue = subprocess.run(command, capture_output=True, text=True)
        if (
            queue.returncode or not queue.stdout.strip()
        ):  # SLURM forgets jobs that ended some time ago
            return
        time.sleep(poll)
