"""Train a decoder on a session: `python -m bci_decode.train model=lngru session=simulated`.

The command around `runs.run`: Hydra composes the configuration, errors become one line.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from bci_decode.signals import signals_exit, word_and_code

if __name__ == "__main__":
    signals_exit()  # while the libraries below are imported

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import bci_decode
from bci_decode.errors import BciDecodeError, one_line, run_cli
from bci_decode.runs.chained import cut_configs, run_cuts
from bci_decode.runs.compose import CONF, hydra_word, register_configs
from bci_decode.runs.folder import record_failure, remove_empty_parents, run_name
from bci_decode.runs.launcher import register_launcher
from bci_decode.runs.messages import error_line
from bci_decode.runs.own_files import own_files
from bci_decode.runs.ownership import RunBusy
from bci_decode.runs.run import run_one
from bci_decode.runs.sweep import SweepReport, end_of_sweep
from bci_decode.training.distributed import join_slurm, rank, world_size

log = logging.getLogger(__name__)


def job(config: DictConfig) -> None:
    """What one command line trains, alone or of a sweep: a run, or one for each cut."""
    logging.raiseExceptions = False  # a reader that closed the pipe (`head`, say) stops no run
    join_slurm()
    folders: list[Path] = []
    try:
        folders += cut_configs(config)
        run_cuts(config, _run)
    except (BciDecodeError, OmegaConfBaseException) as mistake:
        line = error_line(mistake)
        if not (folders and _in_sweep()):
            _exit(line)
        _record(folders[-1], line)  # the table of the cuts could not be made, say
        log.error("%s", line)


# a name of its own, since the processes of a sweep import `job`
_composed_job = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(job)


def _run(config: DictConfig, folder: Path) -> bool:
    """Whether a run is finished; an error is one line, and in a sweep also in failed.txt."""
    in_sweep = _in_sweep()
    try:
        if in_sweep:
            _name_lines(run_name(folder).partition("/")[2])
        run_one(config, folder, words=HydraConfig.get().overrides.task)
        _record(folder, None)
        return True
    except (BciDecodeError, OmegaConfBaseException) as mistake:
        if not in_sweep:
            if not rank():
                remove_empty_parents(folder)
            _exit(error_line(mistake))
        if not isinstance(mistake, RunBusy):
            _record(folder, error_line(mistake))
        if not rank():
            log.error("%s", error_line(mistake))
    except KeyboardInterrupt as stop:
        same = (
            "the same command, without overwrite=true," if config.overwrite else "the same command"
        )
        _stop(stop, f"{same} resumes from the last whole epoch")
    except Exception as fault:  # of the project, not of its user: all that is known helps
        traceback.print_exc()
        if not in_sweep:
            sys.exit(1)
        line = f"{type(fault).__name__}: {one_line(fault)}"
        _record(folder, f"{line}\n{traceback.format_exc()}")
    return False


def _in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _name_lines(run_name: str) -> None:
    """Begin the printed lines with the run, since runs of a sweep may print at the same time."""
    for handler in logging.getLogger().handlers:
        line = f"%(asctime)s {run_name}: %(message)s"
        handler.setFormatter(logging.Formatter(line, datefmt="%H:%M:%S"))


def _record(folder: Path, reason: str | None) -> None:
    if not rank():  # of several processes the first one writes
        record_failure(folder, reason)


def _exit(line: str, code: int = 2) -> NoReturn:
    if not rank():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def _stop(stop: KeyboardInterrupt, remedy: str) -> NoReturn:
    word, code = word_and_code(stop)
    _exit(f"{word}; {remedy}", code)


def main() -> None:
    """The command; a user's mistake is one line and exit code 2, never a traceback."""
    if not CONF.is_dir():
        _exit(f"{CONF}: no such folder; install the project again")
    words = sys.argv[1:]
    if words == ["--version"]:
        print(f"bci_decode {bci_decode.__version__}")
        return
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own many lines and exits with 1
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.argv = [sys.argv[0], *_normalize_argv(words)]
    _accept_help_that_is_no_str()
    _check_options(sys.argv[1:])
    try:
        _composed_job()
    except BrokenPipeError:
        raise  # of standard output: see `run_cli`
    except KeyboardInterrupt as stop:  # while a launcher waits for processes, or before a run
        _stop(stop, "the same command resumes")
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as mistake:
        if wants_traceback:
            raise
        _exit(error_line(mistake))
    except Exception as fault:
        if SweepReport.sweep is None:
            raise
        # a launcher's: a process of it was killed, say; the table says what became of all runs
        line = f"the launcher stopped: {type(fault).__name__}: {one_line(fault)[:300]}"
        if not SweepReport.sweep.slurm:
            _exit(line, code=1)
        # it takes a job for lost that SLURM requeued, and whose run may finish all the same
        print(f"warning: {line}", file=sys.stderr)
    finally:
        _report_sweep(sys.exc_info()[1])


def _accept_help_that_is_no_str() -> None:
    """Let Hydra 1.3 describe an option by an object, which argparse refuses from Python 3.14 on."""
    if hasattr(argparse.ArgumentParser, "_check_help"):
        argparse.ArgumentParser._check_help = lambda parser, action: None


def _report_sweep(stop: BaseException | None) -> None:
    code = stop.code if isinstance(stop, SystemExit) else None
    interrupted = code in (130, 143)
    if SweepReport.sweep is not None and end_of_sweep(SweepReport.sweep, interrupted):
        sys.exit(code if interrupted else 1)


def _check_options(words: list[str]) -> None:
    """Refuse options that Hydra does not know, in one line; its own parser prints its usage too."""
    parser = get_args_parser()
    parser.error = lambda message: _exit(f"{message}; --help lists all keys")  # type: ignore[method-assign,assignment]
    if parser.parse_args(words).multirun and world_size() > 1:
        _exit("--multirun: a sweep starts its own processes; leave torchrun out")


def _normalize_argv(words: list[str]) -> list[str]:
    """The command line as Hydra wants it.

    -m comes first, patterns of files are replaced, paths are quoted, and all sessions are the
    published ones.
    """
    sweeps = ("-m", "--multirun")
    words = own_files(words, any(word in sweeps for word in words))
    words = sorted(words, key=lambda word: word not in sweeps)
    every = "session=glob(*,exclude=[local,simulated*])"
    return [re.sub(r"^session=glob\(\*\)$", every, hydra_word(word)) for word in words]


class _CallableCommand(ModuleType):
    """`bci_decode.train` is this module and, for users of the package, the function `train`."""

    def __call__(self, *arguments, **options):
        from bci_decode.runs.estimator import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _CallableCommand
# here, since the processes of a sweep import this module and call no main
register_configs()
register_launcher()


if __name__ == "__main__":
    from bci_decode.train import main as importable_main  # other processes cannot import __main__

    run_cli(importable_main)
