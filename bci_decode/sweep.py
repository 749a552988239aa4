"""A sweep: which runs it stands for, and what became of each of them.

The runs themselves may be anywhere, in this process, in others, on a cluster; all that is known of them is what
their folders hold, so that a run that was killed is seen as well.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from bci_decode.run_folder import failure, is_complete, record_failure, relative

log = logging.getLogger(__name__)

OWN_FOLDER = "give each its own, as in 'output_dir=outputs/bins_${data.bin_width}'"


class SweepReport(Callback):
    """Hydra's callback that notes, before a sweep starts, its runs' folders and which of them are finished already."""

    runs: dict[Path, bool] | None = None  # folder -> whether it was finished before; of the sweep of this process

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        folders = _folders(config)
        shared = [folder for folder in dict.fromkeys(folders) if folders.count(folder) > 1]
        if shared:  # Hydra takes a callback's exceptions for warnings
            print(f"error: {shared[0]}: several runs of this sweep share this folder; {OWN_FOLDER}", file=sys.stderr)
            sys.exit(2)
        SweepReport.runs = {folder: is_complete(folder) for folder in folders}
        for folder in folders:  # what an earlier sweep says of its failures is none of this one's
            record_failure(folder, None)


def _folders(config: DictConfig) -> list[Path]:
    """The run folders of a sweep, by Hydra's own expansion and composition of its overrides."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    loader = GlobalHydra.instance().config_loader()
    words: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # ${...} is each run's own affair
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(words)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    folders = []
    for job in jobs:
        composed = loader.load_sweep_config(config, list(job))
        HydraConfig.instance().set_config(composed)  # the folder's name is made of `hydra:` values
        folders.append(relative(Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir)))
    HydraConfig.instance().set_config(config)
    return folders


def outcomes(runs: dict[Path, bool]) -> dict[Path, tuple[str, str]]:
    """What became of each run: "done", "skipped" (finished before) or "failed", and in the last case why."""
    found = {}
    for folder, finished_before in runs.items():
        reason = failure(folder)
        if reason is not None:
            found[folder] = ("failed", reason)
        elif is_complete(folder):
            found[folder] = ("skipped" if finished_before else "done", "")
        else:
            found[folder] = ("failed", "no result and no word: killed, out of memory or never begun; see train.log")
            record_failure(folder, found[folder][1])
    return found


def report(runs: dict[Path, bool]) -> int:
    """Print the sweep's closing table; the number of failed runs."""
    found = outcomes(runs)
    width = max(len(str(folder)) for folder in found)
    for folder, (state, reason) in found.items():
        print(f"{state:<8} {folder!s:<{width}}  {reason}".rstrip())
    states = [state for state, _ in found.values()]
    print("sweep: " + ", ".join(f"{states.count(state)} {state}" for state in ("done", "skipped", "failed")))
    return states.count("failed")


def wait_for_slurm(sweep_dir: Path, poll: float = 2.0) -> None:
    """Wait until no SLURM job of a sweep is left: the launcher stops at the first that was killed, the others go on."""
    jobs = {path.name.split("_")[0] for path in (sweep_dir / ".submitit").glob("[0-9]*")}
    while jobs:
        queue = subprocess.run(["squeue", "-h", "-j", ",".join(sorted(jobs))], capture_output=True, text=True)
        if queue.returncode or not queue.stdout.strip():  # SLURM forgets jobs that ended some time ago
            return
        time.sleep(poll)
