"""A command whose run is finished already: its score again, and figures that are not there yet."""

from __future__ import annotations

import logging
from pathlib import Path

from bci_decode.config import TrainConfig, TrajectoryConfig
from bci_decode.errors import BciDecodeError
from bci_decode.files import check_writable
from bci_decode.runs.checksums import verify
from bci_decode.runs.folder import RESULTS
from bci_decode.runs.reading import damaged, read_report

log = logging.getLogger(__name__)


def report_finished(folder: Path, config: TrainConfig) -> None:
    """Repeat the score of a finished run; draw its figures in a format that is not there yet."""
    from bci_decode.runs.figures import draw_run, figure_files
    from bci_decode.runs.report import score_line

    verify(folder, *RESULTS)
    report = read_report(folder)
    try:
        line = score_line(report)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder / "metrics.json", error) from error
    log.info("%s: finished already; overwrite=true trains again", folder)
    log.info("%s", line)
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
