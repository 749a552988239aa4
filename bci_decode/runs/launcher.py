"""Hydra's launcher of this project: the runs of a sweep at the same time, a process for each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from bci_decode.runs.processes import Call, Died, call_all, cores, jobs_at_a_time
from bci_decode.runs.sweep import note_killed

log = logging.getLogger(__name__)


def register_launcher() -> None:
    """Let Hydra find the launcher in this process, where it looks: in the package of plugins."""
    Plugins.instance().register(ProcessLauncher)
    plugins = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    vars(plugins)["bci_decode"] = sys.modules[__name__]
    # a plugin of this name, which earlier versions needed, would come before the file in `conf/`
    launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    launchers.pop("joblib.yaml", None)


class ProcessLauncher(Launcher):
    """Trains `n_jobs` runs at a time, each in a process of its own; -1 is one for each core."""

    __module__ = "hydra_plugins.bci_decode"  # see `register_launcher`

    def __init__(self, n_jobs: int):
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Train all runs; the closing table of the sweep says how each ended."""
        setup_globals()
        hydra = self.config.hydra
        configure_log(hydra.hydra_logging, hydra.verbose)
        Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        jobs = min(jobs_at_a_time(self.n_jobs), len(job_overrides))
        log.info("%d runs, %d at a time", len(job_overrides), jobs)
        returns = [JobReturn(job, status=JobStatus.COMPLETED) for job in job_overrides]

        def calls() -> Iterator[Call]:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                log.info("#%d: %s", number, " ".join(filter_overrides(overrides)))
                yield _train, (self.task, self.context, self._composed(overrides, number))

        def on_end(number: int, outcome: Any) -> None:
            if isinstance(outcome, Exception):
                returns[number].status = JobStatus.FAILED
                returns[number].return_value = outcome
            if isinstance(outcome, Died):
                overrides, job = job_overrides[number], initial_job_idx + number
                log.error("#%d: %s: %s", job, " ".join(filter_overrides(overrides)), outcome)
                note_killed(self._composed(overrides, job))

        call_all(calls(), jobs, max(cores() // jobs, 1), on_end)
        return returns

    def _composed(self, overrides: Sequence[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config


def _train(task: TaskFunction, context: HydraContext, config: DictConfig) -> None:
    """What a process of a sweep does."""
    setup_globals()
    result = run_job(
        hydra_context=context,
        task_function=task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    _ = result.return_value  # raises what the run raised
