"""Fetch published sessions: checked by length and md5, and put in place only when whole and right."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from tqdm import tqdm

from bci_decode.data.catalog import API_URL, RECORD_URL, CatalogEntry
from bci_decode.data.transfer import Line, Refused, Transfer, size_of
from bci_decode.errors import BciDecodeError
from bci_decode.files import md5_of, written_whole

SOURCES = (f"{RECORD_URL}/{{name}}.mat", f"{API_URL}/{{name}}.mat/content")


@dataclass
class Downloader:
    """Fetches sessions into `folder`, from the first of `sources` (addresses with {name}) that gives the very file."""

    folder: Path
    sources: Sequence[str] = SOURCES
    line: Line = field(default_factory=Line)

    def fetch(self, entry: CatalogEntry) -> str:
        """Have one session on disk, verified; tells what was done for it. Several threads may call this."""
        target = self.folder / f"{entry.name}.mat"
        part = target.with_name(f"{target.name}.part")
        begin = time.monotonic()
        try:
            if target.exists():
                verify(target, entry)
                return "already there, verified"
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(part) as file:
                had = size_of(file)
                self._from_any_source(entry, part, file)
                size = size_of(file)
                os.replace(part, target)
            remember(target, entry)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise BciDecodeError(
                "the disk is full" if full else error.strerror or str(error),
                file=error.filename or part,
                remedy="make room, then the same command goes on from here" if full else None,
            ) from error
        resumed = f", {had / 1e6:.1f} MB were there before" if had else ""
        return f"fetched, {size / 1e6:.1f} MB in {time.monotonic() - begin:.0f} s{resumed}"

    def _from_any_source(self, entry: CatalogEntry, part: Path, file: FileIO) -> None:
        problems: dict[str, str] = {}  # by their words, as addresses of one host mostly fail alike
        with tqdm(desc=entry.name, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            for source in self.sources:
                url = source.replace("{name}", entry.name)
                try:
                    return self._from_source(
                        Transfer(entry.name, url, file, self.folder, entry.size, bar, self.line),
                        part,
                        entry.md5,
                    )
                except Refused as problem:
                    problems.setdefault(str(problem), url)
        kept = size_of(file)
        raise BciDecodeError(
            "; ".join(f"{url}: {problem}" for problem, url in problems.items()),
            field=entry.name,
            remedy=f"{kept / 1e6:.1f} MB are kept, the same command goes on from there"
            if kept
            else None,
        )

    def _from_source(self, transfer: Transfer, part: Path, right: str) -> None:
        pieces = transfer.complete()
        md5 = md5_of(part)
        if (
            pieces and md5 != right
        ):  # a piece of an earlier call may be to blame: once more from zero
            tqdm.write(
                f"{transfer.name}: its pieces do not make up the file; starting anew",
                file=sys.stderr,
            )
            transfer.file.truncate(0)
            transfer.complete()
            md5 = md5_of(part)
        if md5 != right:
            size = size_of(transfer.file)
            transfer.file.truncate(0)
            raise Refused(
                f"the {size} bytes that came have md5 {md5}, the published file has {right}"
            )


def download(
    entries: Sequence[CatalogEntry], downloader: Downloader, jobs: int
) -> dict[str, str | BciDecodeError]:
    """Fetch several sessions at a time, saying each as it is done; by name what was done, or the mistake."""
    done: dict[str, str | BciDecodeError] = {}
    pool = ThreadPoolExecutor(jobs)
    futures = {pool.submit(downloader.fetch, entry): entry.name for entry in entries}
    try:
        for future in as_completed(futures):
            name = futures[future]
            try:
                done[name] = future.result()
                tqdm.write(f"{name}: {done[name]}")
            except BciDecodeError as mistake:
                done[name] = mistake
                if len(entries) > 1:  # a lone one's is said as the command ends
                    tqdm.write(f"failed: {mistake}", file=sys.stderr)
    except BaseException:
        downloader.line.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=1)  # so that the bars can close
        raise
    pool.shutdown()
    return done


def verify(target: Path, entry: CatalogEntry) -> None:
    """Compare a file's md5 with the published one, and remember it where it is right."""
    if (md5 := md5_of(target)) != entry.md5:
        _mark(target).unlink(missing_ok=True)
        raise BciDecodeError(
            f"its md5 is {md5}, the published file has {entry.md5}",
            file=target,
            remedy="move it away or delete it, then fetch it again",
        )
    if not is_verified(target, entry):
        with suppress(
            OSError
        ):  # in a folder that only others may write to it is just not remembered
            remember(target, entry)


def remember(target: Path, entry: CatalogEntry) -> None:
    """Note beside a file that it was right: a line for `md5sum -c`, and the size and time that it had."""
    with written_whole(_mark(target)) as temporary:
        temporary.write_text(_marking(target, entry))


def is_verified(target: Path, entry: CatalogEntry) -> bool:
    """Whether a file was found right, and has the size and the time of change that it had then."""
    return _mark(target).exists() and _mark(target).read_text() == _marking(target, entry)


def _mark(target: Path) -> Path:
    return target.with_name(f"{target.name}.md5")


def _marking(target: Path, entry: CatalogEntry) -> str:
    stat = target.stat()
    return f"{entry.md5}  {target.name}\n# {stat.st_size} bytes, changed at {stat.st_mtime_ns} ns\n"


@contextmanager
def _locked(part: Path) -> Iterator[FileIO]:
    """The partial file, ours alone; removed if nothing came. The lock ends with its process, killed or not."""
    with FileIO(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(
                os.fstat(file.fileno()), part.stat()
            )  # another may just have put it in place
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise BciDecodeError(
                "another process is fetching this file", file=part, remedy="wait until it is done"
            )
        try:
            yield file
        finally:
            if not size_of(file):
                part.unlink(missing_ok=True)


def catalog_table(folder: Path, entries: list[CatalogEntry]) -> str:
    """Sessions, one a line; sizes in MB where the catalogue or the disk knows them."""
    rows = [("session", "on disk", "verified", "MB", "channels", "areas", "minutes")]
    on_disk = verified = 0
    for entry in entries:
        file = folder / f"{entry.name}.mat"
        part = file.with_name(f"{file.name}.part")
        there, right = file.exists(), file.exists() and is_verified(file, entry)
        on_disk, verified = on_disk + there, verified + right
        state = (
            "yes"
            if there
            else f"part: {part.stat().st_size / 1e6:.0f} MB"
            if part.exists()
            else "no"
        )
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
    return "\n".join(
        [*lines, f"{len(entries)} sessions, {on_disk} on disk, {verified} of them verified"]
    )
