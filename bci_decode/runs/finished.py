"""A command whose run is finished already: its score again, and figures that are not there yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bci_decode.config import TrainConfig, TrajectoryConfig
from bci_decode.errors import BciDecodeError
from bci_decode.files import check_writable
from bci_decode.runs.checksums import verify
from bci_decode.runs.folder import RESULTS
from bci_decode.runs.reading import damaged, read_report

log = logging.getLogger(__name__)


def report_finished(folder: Path, config: TrainConfig) -> None:
    """Repeat the score of a finished run; draw its figures in a format that is not there yet."""
    from bci_decode.runs.report import score_line

    repeat_score(folder, RESULTS, score_line)
    draw_missing(folder, config)


def repeat_score(
    folder: Path, files: Sequence[str], text: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """Log the `text` of a finished run's report, which is returned; `files` are verified."""
    verify(folder, *files)
    report = read_report(folder)
    try:
        line = text(report)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder / "metrics.json", error) from error
    log.info("%s: finished already; overwrite=true trains again", folder)
    log.info("%s", line)
    return report


def draw_missing(folder: Path, config: TrainConfig) -> None:
    """Draw the figures of a finished run unless they are there."""
    from bci_decode.runs.figures import draw_run, figure_files

    files = figure_files(folder, config.figures)
    complete = all(path.exists() and path.stat().st_size for path in files)
    if complete and config.trajectory == TrajectoryConfig():
        return
    try:
        check_writable(folder)
    except BciDecodeError as error:
        log.warning("no figures: %s", error)
    else:
        draw_run(folder, config.figures, config.trajectory)
