"""Fetch recordings of the published data set (Zenodo 3854034, 47 sessions, 24 GB), or list them.

Each is checked against its published md5. A file that is there is verified and left alone; a fetch that was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bci_decode.catalog import CatalogEntry, sessions_named
from bci_decode.download import SOURCES, Downloader, download, is_verified
from bci_decode.errors import BciDecodeError, exit_on_mistake
from bci_decode.transfer import Line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="sessions, or patterns like 'loco_*'; '*' is all")
    parser.add_argument("--list", action="store_true", help="list the sessions and what is on disk, fetch nothing")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where they are kept (default: data)")
    parser.add_argument("--jobs", type=int, default=4, help="sessions fetched at a time (default: 4)")
    parser.add_argument("--base-url", help="a mirror that has NAME.mat below this address; in place of Zenodo")
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="s of silence to give a connection up (default: 30)"
    )
    arguments = parser.parse_args()
    if not arguments.names and not arguments.list:
        raise BciDecodeError(
            "no session is named", remedy="name one, or a pattern such as 'loco_*'; make data-list (--list) shows them"
        )
    entries = sessions_named(arguments.names or ["*"])
    if arguments.list:
        print(table(arguments.data_dir, entries))
        return
    for option in ("jobs", "timeout"):
        if not getattr(arguments, option) > 0:
            raise BciDecodeError("must be above 0", field=f"--{option}")
    if arguments.base_url and not arguments.base_url.startswith(("http://", "https://")):
        raise BciDecodeError("must begin with http:// or https://", field="--base-url")
    sources = (f"{arguments.base_url.rstrip('/')}/{{name}}.mat",) if arguments.base_url else SOURCES
    fetch(entries, Downloader(arguments.data_dir, sources, Line(timeout=arguments.timeout)), arguments.jobs)


def fetch(entries: list[CatalogEntry], downloader: Downloader, jobs: int) -> None:
    """Fetch all, sum up, and end in an error if any is missing."""
    done = download(entries, downloader, jobs)
    good = [result for result in done.values() if isinstance(result, str)]
    mistakes = {name: result for name, result in done.items() if isinstance(result, BciDecodeError)}
    if len(entries) > 1:
        fetched = sum(result.startswith("fetched") for result in good)
        print(f"{fetched} fetched, {len(good) - fetched} already there, {len(mistakes)} failed")
    if mistakes and len(entries) == 1:
        raise next(iter(mistakes.values()))
    if mistakes:
        raise BciDecodeError(f"not fetched: {', '.join(sorted(mistakes))}", remedy="the lines above say why")


def table(folder: Path, entries: list[CatalogEntry]) -> str:
    """Sessions, one a line; sizes in MB where the catalogue or the disk knows them."""
    rows = [("session", "on disk", "verified", "MB", "channels", "areas", "minutes")]
    on_disk = verified = 0
    for entry in entries:
        file = folder / f"{entry.name}.mat"
        part = file.with_name(f"{file.name}.part")
        there, right = file.exists(), file.exists() and is_verified(file, entry)
        on_disk, verified = on_disk + there, verified + right
        state = "yes" if there else f"part: {part.stat().st_size / 1e6:.0f} MB" if part.exists() else "no"
        size = file.stat().st_size if there else entry.size
        check = "-" if not there else "yes" if right else "no"
        megabytes = f"{size / 1e6:.0f}" if size else "?"
        rows.append(
            (entry.name, state, check, megabytes, str(entry.channels), "+".join(entry.areas), f"{entry.duration / 60:.1f}")
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 1, 2, 5}  # words; numbers stand to the right
    lines = [
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]  # fmt: skip
    return "\n".join([*lines, f"{len(entries)} sessions, {on_disk} on disk, {verified} of them verified"])


if __name__ == "__main__":
    try:
        exit_on_mistake(main)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # a thread that waits for a silent server would hold up any other exit
