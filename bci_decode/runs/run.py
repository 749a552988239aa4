"""One run: session -> bins -> parts -> model -> training or fit -> report and figures, in a folder.

`run` needs a composed configuration and no Hydra application around it. With a chained split it is
as many runs as there are cuts: see `runs.chained`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.runs.build import session_file
from bci_decode.runs.chained import run_cuts
from bci_decode.runs.compose import plain, typed_config
from bci_decode.runs.finished import report_finished
from bci_decode.runs.folder import (
    check_same_data,
)
from bci_decode.runs.job import Job
from bci_decode.runs.ownership import claim, locked
from bci_decode.training.distributed import check_alone

log = logging.getLogger(__name__)


def run(
    config: DictConfig,
    folder: Path | None = None,
    *,
    words: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Train, or fit, and score one decoder; returns the folder with all results.

    `folder` is by default the one that the configuration names. A finished run is not repeated, an
    interrupted one resumes. `words` are those of the command line, to name them in error messages.
    With a chained split, one decoder for each cut is trained, in folders inside the returned one.
    """

    def one(config: DictConfig, folder: Path) -> bool:
        run_one(config, folder, words=words, progress=progress)
        return True

    return run_cuts(config, one, folder)


def run_one(
    config: DictConfig, folder: Path, *, words: Sequence[str] = (), progress: bool = True
) -> None:
    """The run of one folder; of a chained split, that of one cut."""
    typed = typed_config(config)
    settings = plain(config)
    if typed.sessions is not None:
        from bci_decode.runs.multi_session import run_sessions

        with disk_faults(folder):
            run_sessions(config, typed, folder, words=words, progress=progress)
        return
    check_alone("start it without torchrun, or name sessions=")
    if typed.init_from:  # the same run from whatever folder the command is given in
        settings["init_from"] = str(expand_user(typed.init_from).resolve())
    config = DictConfig(settings)
    with disk_faults(folder), locked(folder) as refusal:
        working = claim(folder, settings, typed.overwrite)
        if working is not None and refusal:
            raise refusal
        data_file = session_file(config, words)
        if working is None:
            check_same_data(folder, data_file)
            report_finished(folder, typed)
        else:
            job = Job(config, typed, settings, folder, data_file, words, progress)
            job.run()


@contextmanager
def disk_faults(folder: Path) -> Iterator[None]:
    """Say in one line of a full, lost or read-only disk which file or folder it concerns."""
    try:
        yield
    except BrokenPipeError:  # of standard output
        raise
    except OSError as error:
        raise BciDecodeError(
            f"cannot be used ({error.strerror or error})",
            file=error.filename or folder,
            remedy="free some space, or choose another place with output_dir=",
        ) from error
