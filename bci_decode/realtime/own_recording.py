"""The recording that a run was trained on, if it is still there."""

from __future__ import annotations

from pathlib import Path

from bci_decode.files import is_regular, md5_of
from bci_decode.runs.loaded_run import LoadedRun


def recorded_path(run: LoadedRun) -> Path | None:
    """The path of the recording as the run's report has it; None without such a report."""
    if run.packed is None and not (run.folder / "metrics.json").exists():
        return None
    report = run.metrics  # a damaged one is refused: without the recording, results may differ
    try:
        return Path(report["data"]["file"])
    except (KeyError, TypeError):  # none, or one of an earlier version
        return None


def own_recording(run: LoadedRun) -> Path | None:
    """The recording itself: the file has the content that the run learned from.

    A relative path counts from the folder that the run was trained from. That may be the present
    one or any above the run's folder.
    """
    path = recorded_path(run)
    if path is None:
        return None
    places = [path, *(above / path for above in run.folder.resolve().parents)]
    files = (place for place in dict.fromkeys(places) if is_regular(place))
    md5 = run.state["session"]["md5"]
    return next((file.absolute() for file in files if md5_of(file) == md5), None)
