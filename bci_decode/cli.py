"""The console command `bci-decode` and its words: train, search, evaluate and the others."""

from __future__ import annotations

import importlib
import inspect as inspection
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bci_decode import __version__
from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.options import MAX_JOBS, CommandParser, path, seed, whole

if TYPE_CHECKING:
    from bci_decode.data.catalog import CatalogEntry
    from bci_decode.data.download import Downloader
    from bci_decode.data.session import Session

MAX_TRIALS = 1_000_000
COMMANDS = {  # name: (where its function is, its purpose)
    "train": ("bci_decode.train:main", "train a decoder on a session, or sweep over many"),
    "search": ("bci_decode.cli:search", "draw settings at random and keep the best by validation"),
    "evaluate": ("bci_decode.evaluate:main", "score and plot a trained decoder on a session"),
    "stream": ("bci_decode.stream:main", "run a trained decoder live"),
    "export": ("bci_decode.export:main", "write a trained decoder as an ONNX model"),
    "pack": ("bci_decode.pack:main", "write a run as one file to share"),
    "recalibrate": ("bci_decode.recalibrate:main", "fit a run to the units of another day"),
    "calibrate": ("bci_decode.calibrate:main", "adapt a run of many sessions to a new one"),
    "compare": ("bci_decode.cli:compare", "tables and figures of many runs"),
    "inspect": ("bci_decode.cli:inspect", "report what is in a recording"),
    "convert": ("bci_decode.cli:convert", "write a recording as .mat or .npz"),
    "download": ("bci_decode.cli:download", "fetch the published recordings"),
}


def main() -> None:
    """Run the command that the first word names, with the words after it."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"bci-decode {__version__}")
    else:
        run_cli(lambda: run_command(name, words))


def usage() -> str:
    """The commands, a line for each."""
    lines = [f"  {name:<11} {purpose}" for name, (_, purpose) in COMMANDS.items()]
    hint = "'bci-decode COMMAND --help' lists the options of a command."
    return "\n".join(["usage: bci-decode COMMAND ...", "", *lines, "", hint])


def run_command(name: str, words: list[str]) -> None:
    """Import the function of a command and call it; the command reads `words` from `sys.argv`."""
    if name not in COMMANDS:
        choices = f"choose one of {', '.join(COMMANDS)}"
        raise BciDecodeError("no such command", field=name, remedy=choices)
    module, function = COMMANDS[name][0].split(":")
    sys.argv = [f"bci-decode {name}", *words]
    getattr(importlib.import_module(module), function)()


def _doc(command: Callable[[], None]) -> str:
    """The docstring of a command as the beginning of its help."""
    return inspection.getdoc(command) or ""


def compare() -> None:
    """Compare runs: figures and tables of all runs below some folders, each protocol on its own.

    Writes comparison (test loss against epoch) and r2_scatter (models against the baseline, session
    by session) as figures, sessions.csv (a row for each run) and summary.md, and prints the
    summary. With runs of the source study also ablation.csv: its published table beside the runs.
    """
    parser = CommandParser(_doc(compare))
    option = parser.add_argument
    option("folders", nargs="+", type=path, metavar="FOLDER", help="any folder with runs below it")
    option("--output", type=path, help="default: the folder, or the one that all folders are in")
    option("--baseline", metavar="MODEL", help="model that all others are compared with")
    option("--by", metavar="KEY", help="first key of the table of R² by setting, data.lag say")
    option("--figures", default="png", metavar="FORMAT[,...]", help="png, pdf, svg; default: png")
    words = (re.sub(r"^compare\.(?=\w+=)", "--", word) for word in sys.argv[1:])
    arguments = parser.parse_args(list(words))
    from bci_decode.studies.compare import compare_runs

    print(compare_runs(**vars(arguments)))


def search() -> None:
    """Search settings at random: each trial draws the keys of a space and trains.

    A trial is scored by its validation part or, with data.split=chained, by the mean over the cuts'
    blocks, never by the test part. Writes trials.csv and search.yaml into the output folder. The
    same command resumes; more --trials go on.
    """
    parser = CommandParser(_doc(search))
    option = parser.add_argument
    option("space", metavar="NAME|FILE.yaml", help="a file of conf/search/, or your own")
    option("words", nargs="*", metavar="KEY=VALUE", help="settings of all trials, as of train")
    option("--trials", type=whole(1, MAX_TRIALS), default=20, help="how many (default: 20)")
    option("--seed", type=seed, default=0, help="of the draws (default: 0)")
    option("--output", type=path, help="default: outputs/search/NAME")
    arguments = parser.parse_intermixed_args()
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from bci_decode.runs.search import best_line
    from bci_decode.runs.search import search as search_space

    rows = search_space(
        arguments.space, arguments.trials, arguments.output, arguments.words, arguments.seed
    )
    print(best_line(rows))


def inspect() -> None:
    """Report what is in a recording (clock, units, rates, movement) and what may hurt decoding."""
    parser = CommandParser(
        _doc(inspect),
        usage="%(prog)s FILE|NAME [--data-dir DIR] [--source NAME] [--figure [PATH]] [--json]",
    )
    parser.add_argument(
        "session", metavar="FILE|NAME", help="a .mat, .nwb or .npz file, or a named session"
    )
    parser.add_argument(
        "--source", metavar="NAME", help="the movement of an NWB file (default: finger_pos)"
    )
    parser.add_argument(
        "--data-dir", default="data", metavar="DIR", help="where NAME.mat is (default: data)"
    )
    parser.add_argument(
        "--figure",
        nargs="?",
        const="",
        metavar="PATH",
        help="draw rates, raster and movement as png, pdf or svg, by the ending of PATH "
        "(default: outputs/inspection/<session>.png)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args()
    from bci_decode.data.inspection import inspect as inspect_session
    from bci_decode.data.inspection import report_text
    from bci_decode.data.session import read_session

    file = recording_file(arguments.session, arguments.data_dir)
    session = read_session(file, source=arguments.source)
    inspection = inspect_session(session)
    if arguments.json:
        identity = {"session": session.name, "file": str(session.path)}
        content = identity | inspection.numbers | {"warnings": inspection.warnings}
        print(json.dumps(content, indent=2))
    else:
        print(report_text(session, inspection))
    if arguments.figure is not None:
        path = _draw(session, arguments.figure or f"outputs/inspection/{session.name}.png")
        print(f"drew {path}", file=sys.stderr if arguments.json else sys.stdout)


def convert() -> None:
    """Write any recording that can be read in the layout of the published files, or as arrays.

    OUT.mat has the variables of the Zenodo layout: positions only, so a velocity is integrated if
    it is all there is. Where no spikes were recorded they are NaN. OUT.npz keeps all that is read.
    """
    parser = CommandParser(_doc(convert))
    parser.add_argument("session", metavar="FILE|NAME", help="a .mat, .nwb or .npz file")
    parser.add_argument("output", type=path, metavar="OUT", help="OUT.mat or OUT.npz")
    parser.add_argument(
        "--source", metavar="NAME", help="the movement of an NWB file (default: finger_pos)"
    )
    parser.add_argument(
        "--data-dir", default="data", metavar="DIR", help="where NAME.mat is (default: data)"
    )
    arguments = parser.parse_args()
    from bci_decode.data.save import save_session
    from bci_decode.data.session import read_session

    file = recording_file(arguments.session, arguments.data_dir)
    if arguments.output.exists() and arguments.output.samefile(file):
        remedy = "choose another name"
        raise BciDecodeError("is the file that is read", file=arguments.output, remedy=remedy)
    session = read_session(file, source=arguments.source)
    movements = ", ".join(save_session(session, arguments.output))
    print(f"wrote {arguments.output}: {len(session.units)} units, {movements}")


def recording_file(choice: str, data_dir: str) -> Path:
    """The file behind FILE or NAME; for a published session that is absent, how to fetch it.

    That of a simulated day is made.
    """
    from bci_decode.data.catalog import (
        SIMULATED_ARRAY,
        SIMULATED_DAYS,
        catalog,
        downloaded_file,
        similar_names,
    )
    from bci_decode.files import check_regular, expand_user

    path = expand_user(choice)
    check_regular(path)
    if path.exists():
        return path
    if choice in SIMULATED_DAYS:
        from bci_decode.data.simulate import simulated_day

        return simulated_day(data_dir, **SIMULATED_ARRAY, day=SIMULATED_DAYS[choice])
    if choice in catalog():
        return downloaded_file(choice, str(expand_user(data_dir)))
    if path.suffix == ".mat":
        return downloaded_file(path.stem, str(path.parent)) if path.stem in catalog() else path
    raise BciDecodeError(
        "is neither a file nor one of the 47 published sessions",
        file=choice,
        remedy=similar_names(choice) or "check the path or the name",
    )


def _draw(session: Session, target: str) -> Path:
    from bci_decode.data.figures import draw_session
    from bci_decode.files import expand_user

    path = expand_user(target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_session(session, path)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise BciDecodeError(problem, file=path, remedy="choose another place") from error
    return path


def download() -> None:
    """Fetch or list recordings of the published data set (Zenodo 3854034, 47 sessions, 24 GB).

    Each is checked against its published md5. A file that is there is verified and left alone; a
    download that was interrupted resumes where it stopped.
    """
    parser = CommandParser(_doc(download))
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="sessions, or patterns like 'loco_*'; '*' is all")
    add("--list", action="store_true", help="list the sessions and what is on disk, fetch nothing")
    add("--data-dir", default="data", metavar="DIR", help="where to keep them (default: data)")
    add(
        "--jobs",
        type=whole(1, MAX_JOBS),
        default=4,
        help="sessions to fetch at the same time (default: 4)",
    )
    add("--base-url", metavar="URL", help="a mirror with URL/NAME.mat, used instead of Zenodo")
    add(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds of silence after which a connection is given up (default: 30); so is one "
        "that brings less than 60 kB in a minute",
    )
    arguments = parser.parse_args()
    from bci_decode.data.catalog import sessions_named
    from bci_decode.data.download import SOURCES, Downloader, catalog_table
    from bci_decode.data.transfer import TransferPolicy
    from bci_decode.files import expand_user

    if not arguments.names and not arguments.list:
        remedy = "name one, or a pattern such as 'loco_*'; --list shows them"
        raise BciDecodeError("no session is named", remedy=remedy)
    entries = sessions_named(arguments.names or ["*"])
    folder = expand_user(arguments.data_dir)
    if arguments.list:
        print(catalog_table(folder, entries))
        return
    url = arguments.base_url
    if url and not url.startswith(("http://", "https://")):
        raise BciDecodeError("must begin with http:// or https://", field="--base-url")
    sources = (f"{url.rstrip('/')}/{{name}}.mat",) if url else SOURCES
    downloader = Downloader(folder, sources, TransferPolicy(timeout=arguments.timeout))
    _fetch(entries, downloader, arguments.jobs)


def _fetch(entries: list[CatalogEntry], downloader: Downloader, jobs: int) -> None:
    """Fetch all sessions and sum up; an error if any could not be fetched."""
    from bci_decode.data.download import download

    results = download(entries, downloader, jobs)
    done = [result for result in results.values() if isinstance(result, str)]
    errors = {name: r for name, r in results.items() if isinstance(r, BciDecodeError)}
    if len(entries) > 1:
        fetched = sum(result.startswith("fetched") for result in done)
        print(f"{fetched} fetched, {len(done) - fetched} already there, {len(errors)} failed")
    if errors and len(entries) == 1:
        raise next(iter(errors.values()))
    if errors:
        names = ", ".join(sorted(errors))
        raise BciDecodeError(f"not fetched: {names}", remedy="the lines above say why")


if __name__ == "__main__":
    main()
