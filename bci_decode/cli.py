"""The console command: `bci-decode train|evaluate|compare|inspect|download`."""

from __future__ import annotations

import argparse
import importlib
import inspect as inspection
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bci_decode.errors import BciDecodeError
from bci_decode.errors import run_cli as run_without_traceback

if TYPE_CHECKING:
    from bci_decode.data.catalog import CatalogEntry
    from bci_decode.data.download import Downloader
    from bci_decode.data.session import Session

COMMANDS = {  # name -> where its function is, and what it does
    "train": ("bci_decode.train:main", "train a decoder on a session, or sweep over many"),
    "evaluate": ("bci_decode.evaluate:main", "score and plot a trained decoder on a session"),
    "compare": ("bci_decode.cli:compare", "tables and figures of many runs"),
    "inspect": ("bci_decode.cli:inspect", "say what is in a recording, and what may hurt decoding"),
    "download": ("bci_decode.cli:download", "fetch the published recordings"),
}


def main() -> None:
    """Run the command that the first word names, with the words after it."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: bci-decode COMMAND ...\n")
        print("\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items()))
        print("\n'bci-decode COMMAND --help' lists what a command takes.")
        return
    if words[0] not in COMMANDS:
        print(
            f"error: {words[0]}: no such command; choose one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    module, function = COMMANDS[words[0]][0].split(":")
    sys.argv = [f"bci-decode {words[0]}", *words[1:]]
    run_cli(getattr(importlib.import_module(module), function))


def run_cli(command: Callable[[], None]) -> None:
    """Run a command; a user's mistake is one line and exit code 2, Ctrl-C exit code 130."""
    try:
        os.environ.setdefault("MPLBACKEND", "Agg")
        run_without_traceback(command)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # a thread that waits for a silent server would delay any other exit


def _doc(command: Callable[[], None]) -> str:
    """The docstring of a command as the beginning of its help."""
    return inspection.getdoc(command) or ""


def compare() -> None:
    """Compare runs: figures and tables of all runs below some folders, each protocol on its own.

    Writes comparison (test loss against epoch) and r2_scatter (models against the baseline, session
    by session) as figures, sessions.csv (a row for each run) and summary.md, and prints the
    summary. With runs of the source study also ablation.csv: its published table beside the runs.
    """
    parser = argparse.ArgumentParser(
        description=_doc(compare), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("folders", nargs="+", type=Path, metavar="FOLDER", help="any folder with runs below it")
    option("--output", type=Path, help="default: the folder, or the one that all folders are in")
    option("--baseline", metavar="MODEL", help="model that all others are compared with")
    option("--by", metavar="KEY", help="first key of the table of R² by setting, data.lag say")
    option("--figures", default="png", metavar="FORMAT[,...]", help="png, pdf, svg; default: png")
    words = (re.sub(r"^compare\.(?=\w+=)", "--", word) for word in sys.argv[1:])
    arguments = parser.parse_args(list(words))
    from bci_decode.studies.compare import compare_runs

    print(compare_runs(**vars(arguments)))


def inspect() -> None:
    """Say what is in a recording:

    shapes, clock, units, rates, movement, and what may hurt decoding.
    """
    parser = argparse.ArgumentParser(
        description=_doc(inspect),
        usage="%(prog)s FILE|NAME [--data-dir DIR] [--figure [PATH]] [--json]",
    )
    parser.add_argument(
        "session", metavar="FILE|NAME", help="a .mat file, or the name of a published session"
    )
    parser.add_argument(
        "--data-dir", default="data", metavar="DIR", help="where NAME.mat lies (default: data)"
    )
    parser.add_argument(
        "--figure",
        nargs="?",
        const="",
        metavar="PATH",
        help="draw raster, rates and movement (default: ./<session>.png)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the numbers as JSON, for scripts"
    )
    arguments = parser.parse_args()
    from bci_decode.data.inspection import inspect as inspect_session
    from bci_decode.data.inspection_text import described
    from bci_decode.data.session import read_session

    session = read_session(recording_file(arguments.session, arguments.data_dir))
    found = inspect_session(session)
    if arguments.json:
        identity = {"session": session.name, "file": str(session.path)}
        print(json.dumps(identity | found.numbers | {"warnings": found.warnings}, indent=2))
    else:
        print(described(session, found))
    if arguments.figure is not None:
        draw_inspection(
            session, Path(arguments.figure or f"{session.name}.png"), quiet=arguments.json
        )


def recording_file(choice: str, data_dir: str) -> Path:
    """The file behind a FILE or a NAME;

    a published session that is absent is told how to be fetched.
    """
    from bci_decode.data.catalog import catalog, downloaded_file

    path = Path(choice)
    if path.exists():
        return path
    if choice in catalog():
        return downloaded_file(choice, data_dir)
    if path.suffix != ".mat":
        raise BciDecodeError(
            "is neither a file nor one of the 47 published sessions",
            file=choice,
            remedy="check the path or the name",
        )
    return downloaded_file(path.stem, str(path.parent)) if path.stem in catalog() else path


def draw_inspection(session: Session, path: Path, quiet: bool) -> None:
    if path.suffix != ".png":
        raise BciDecodeError(
            "is no name for a picture", file=path, field="--figure", remedy="end it with .png"
        )
    from bci_decode.data.figures import draw_session

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_session(session, path)
    except OSError as fault:
        raise BciDecodeError(
            f"cannot be written ({fault})", file=path, remedy="choose another place"
        ) from fault
    if not quiet:
        print(f"drew {path}")


def download() -> None:
    """Fetch recordings of the published data set (Zenodo 3854034, 47 sessions, 24 GB), or list
    them.

    Each is checked against its published md5. A file that is there is verified and left alone; a
    fetch that was interrupted goes on where it stopped.
    """
    parser = argparse.ArgumentParser(
        description=_doc(download), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="sessions, or patterns like 'loco_*'; '*' is all"
    )
    parser.add_argument(
        "--list", action="store_true", help="list the sessions and what is on disk, fetch nothing"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where they are kept (default: data)"
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="sessions fetched at a time (default: 4)"
    )
    parser.add_argument(
        "--base-url", help="a mirror that has NAME.mat below this address; in place of Zenodo"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="s of silence to give a connection up (default: 30)",
    )
    arguments = parser.parse_args()
    from bci_decode.data.catalog import sessions_named
    from bci_decode.data.download import SOURCES, Downloader, catalog_table
    from bci_decode.data.transfer import Line

    if not arguments.names and not arguments.list:
        raise BciDecodeError(
            "no session is named",
            remedy="name one, or a pattern such as 'loco_*'; make data-list (--list) shows them",
        )
    entries = sessions_named(arguments.names or ["*"])
    if arguments.list:
        print(catalog_table(arguments.data_dir, entries))
        return
    for option in ("jobs", "timeout"):
        if not getattr(arguments, option) > 0:
            raise BciDecodeError("must be above 0", field=f"--{option}")
    if arguments.base_url and not arguments.base_url.startswith(("http://", "https://")):
        raise BciDecodeError("must begin with http:// or https://", field="--base-url")
    sources = (f"{arguments.base_url.rstrip('/')}/{{name}}.mat",) if arguments.base_url else SOURCES
    fetch(
        entries,
        Downloader(arguments.data_dir, sources, Line(timeout=arguments.timeout)),
        arguments.jobs,
    )


def fetch(entries: list[CatalogEntry], downloader: Downloader, jobs: int) -> None:
    """Fetch all, sum up, and end in an error if any is missing."""
    from bci_decode.data.download import download

    done = download(entries, downloader, jobs)
    good = [result for result in done.values() if isinstance(result, str)]
    mistakes = {name: result for name, result in done.items() if isinstance(result, BciDecodeError)}
    if len(entries) > 1:
        fetched = sum(result.startswith("fetched") for result in good)
        print(f"{fetched} fetched, {len(good) - fetched} already there, {len(mistakes)} failed")
    if mistakes and len(entries) == 1:
        raise next(iter(mistakes.values()))
    if mistakes:
        raise BciDecodeError(
            f"not fetched: {', '.join(sorted(mistakes))}", remedy="the lines above say why"
        )
