"""Fetch published sessions, check their length and md5, and put complete files in place."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from bci_decode.data.catalog import API_URL, RECORD_URL, CatalogEntry
from bci_decode.data.transfer import SourceRejected, Transfer, TransferPolicy, size_of
from bci_decode.errors import BciDecodeError
from bci_decode.files import md5_of, move_into_place, written_whole

SOURCES = (f"{RECORD_URL}/{{name}}.mat", f"{API_URL}/{{name}}.mat/content")


@dataclass
class Downloader:
    """Fetches sessions into `folder`, from the first of `sources` (with {name}) that works."""

    folder: Path
    sources: Sequence[str] = SOURCES
    policy: TransferPolicy = field(default_factory=TransferPolicy)

    def fetch(self, entry: CatalogEntry) -> str:
        """Have one session on disk, verified; returns what was done. Threads may share this."""
        target = self.folder / f"{entry.name}.mat"
        try:
            if not target.exists():  # or it is a link to nothing, which the file then replaces
                self.folder.mkdir(parents=True, exist_ok=True)
                with _locked(target):
                    if not target.exists():  # another process may just have finished it
                        return self._fetch_absent(entry, target)
            verify(target, entry)
            return "already there, verified"
        except OSError as error:
            raise _disk_error(error, part_of(target)) from error

    def _fetch_absent(self, entry: CatalogEntry, target: Path) -> str:
        begin = time.monotonic()
        part = part_of(target)
        with _partial_file(part) as file:
            size_before = size_of(file)
            self._from_any_source(entry, part, file)
            size = size_of(file)
        move_into_place(part, target)
        write_md5_marker(target, entry)
        before = f", {size_before / 1e6:.1f} MB were there before" if size_before else ""
        return f"fetched, {size / 1e6:.1f} MB in {time.monotonic() - begin:.0f} s{before}"

    def _from_any_source(self, entry: CatalogEntry, part: Path, file: FileIO) -> None:
        problems: dict[str, str] = {}  # problem -> address: those of one host mostly fail alike
        bar = tqdm(desc=entry.name, unit="B", unit_scale=True, leave=False, disable=None)
        with bar:
            for source in self.sources:
                url = source.replace("{name}", entry.name)
                transfer = Transfer(
                    entry.name, url, file, self.folder, entry.size, bar, self.policy
                )
                try:
                    return self._from_source(transfer, part, entry.md5)
                except SourceRejected as problem:
                    problems.setdefault(str(problem), url)
        kept = size_of(file) / 1e6
        raise BciDecodeError(
            "; ".join(f"{url}: {problem}" for problem, url in problems.items()),
            field=entry.name,
            remedy=f"{kept:.1f} MB are kept, the same command resumes from there" if kept else None,
        )

    def _from_source(self, transfer: Transfer, part: Path, published: str) -> None:
        resumed = transfer.run()
        md5 = md5_of(part)
        if resumed and md5 != published:  # a piece of an earlier call may be wrong
            problem = "its pieces do not make up the published file; starting again from zero"
            tqdm.write(f"{transfer.name}: {problem}", file=sys.stderr)
            transfer.file.truncate(0)
            transfer.run()
            md5 = md5_of(part)
        if md5 != published:
            size = size_of(transfer.file)
            transfer.file.truncate(0)
            raise SourceRejected(
                f"the {size} bytes that came have md5 {md5}, the published file has {published}"
            )


def _disk_error(error: OSError, file: Path) -> BciDecodeError:
    """What to raise for an error of the disk while `file` is written."""
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return BciDecodeError(
        "the disk is full" if full else error.strerror or str(error),
        file=error.filename or file,
        remedy="make room, then the same command resumes from here" if full else None,
    )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other processes from fetching the same file; the lock ends with its process."""
    path = target.with_name(f"{target.name}.lock")
    _check_plain(path)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        problem = "another process is fetching this file"
        raise BciDecodeError(problem, file=target, remedy="wait until it is done") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes it as the lock is released
            path.unlink()
        lock.release()


def part_of(target: Path) -> Path:
    """The file that holds what has come so far."""
    return target.with_name(f"{target.name}.part")


@contextmanager
def _partial_file(part: Path) -> Iterator[FileIO]:
    """Open the partial file to read and write; remove it if nothing came.

    A link is not followed: what it leads to would be overwritten.
    """
    _check_plain(part)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        with FileIO(os.open(part, flags, 0o666), "r+") as file:
            yield file
    finally:
        if not part.stat().st_size:
            part.unlink()


def _check_plain(path: Path) -> None:
    """Refuse a link, device, pipe or folder in the place of a file that will be written."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "no plain file"
        raise BciDecodeError(f"is {what}", file=path, remedy="remove it, then try again")


def download(
    entries: Sequence[CatalogEntry], downloader: Downloader, jobs: int
) -> dict[str, str | BciDecodeError]:
    """Fetch `jobs` sessions at a time; returns by name what was done, or the error."""
    results: dict[str, str | BciDecodeError] = {}
    pool = ThreadPoolExecutor(jobs)
    futures = {pool.submit(downloader.fetch, entry): entry.name for entry in entries}
    try:
        for future in as_completed(futures):
            name = futures[future]
            try:
                results[name] = future.result()
                tqdm.write(f"{name}: {results[name]}")
            except BciDecodeError as error:
                results[name] = error
                if len(entries) > 1:  # a single one is reported as the command ends
                    tqdm.write(f"failed: {error}", file=sys.stderr)
    except BaseException:
        downloader.policy.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, timeout=1)  # so that the bars can close
        raise
    pool.shutdown()
    return results


def verify(target: Path, entry: CatalogEntry) -> None:
    """Compare a file's md5 with the published one, and write the marker if it is right."""
    if not target.is_file():  # a pipe or a device has no end
        raise BciDecodeError("is no plain file", file=target, remedy="move it away, then try again")
    if (md5 := md5_of(target)) != entry.md5:
        _marker_path(target).unlink(missing_ok=True)
        raise BciDecodeError(
            f"its md5 is {md5}, the published file has {entry.md5}",
            file=target,
            remedy="move it away or delete it, then fetch it again",
        )
    if not is_verified(target, entry):
        with suppress(BciDecodeError):  # in a folder that only others may write to
            write_md5_marker(target, entry)


def write_md5_marker(target: Path, entry: CatalogEntry) -> None:
    """Note beside a file that it was right: a line for `md5sum -c`, then its size and time."""
    with written_whole(_marker_path(target)) as temporary:
        temporary.unlink(missing_ok=True)  # it may be a link
        temporary.write_bytes(_marker_text(target, entry))


def is_verified(target: Path, entry: CatalogEntry) -> bool:
    """Whether a file was found right and has not changed in size or time since."""
    marker = _marker_path(target)
    try:
        expected = _marker_text(target, entry)
        return marker.lstat().st_size == len(expected) and marker.read_bytes() == expected
    except OSError:
        return False


def _marker_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.md5")


def _marker_text(target: Path, entry: CatalogEntry) -> bytes:
    status = target.stat()
    changed = f"# {status.st_size} bytes, changed at {status.st_mtime_ns} ns"
    return f"{entry.md5}  {target.name}\n{changed}\n".encode()


def catalog_table(folder: Path, entries: list[CatalogEntry]) -> str:
    """A line for each session; sizes in MB where the catalog or the disk knows them."""
    header = ("session", "on disk", "verified", "MB", "channels", "areas", "minutes")
    rows = [header, *(_catalog_row(folder, entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligns = "<<<>><>"  # words to the left, numbers to the right
    lines = [
        "  ".join(f"{cell:{a}{width}}" for cell, a, width in zip(row, aligns, widths, strict=True))
        for row in rows
    ]
    on_disk, verified = (sum(row[column] == "yes" for row in rows) for column in (1, 2))
    return "\n".join(
        [*lines, f"{len(entries)} sessions, {on_disk} on disk, {verified} of them verified"]
    )


def _catalog_row(folder: Path, entry: CatalogEntry) -> tuple[str, ...]:
    file = folder / f"{entry.name}.mat"
    part = part_of(file)
    state, verified, size = "no", "-", entry.size
    if file.exists():
        state, size = "yes", file.stat().st_size
        verified = "yes" if is_verified(file, entry) else "no"
    elif part.exists():
        state = f"part: {part.stat().st_size / 1e6:.0f} MB"
    megabytes = f"{size / 1e6:.0f}" if size else "?"
    areas, minutes = "+".join(entry.areas), f"{entry.duration / 60:.1f}"
    return entry.name, state, verified, megabytes, str(entry.channels), areas, minutes
