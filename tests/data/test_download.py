"""Fetching from a real HTTP server on this machine that cuts, lies, stalls and corrupts."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from recordings import ROOT
from tqdm import tqdm

from bci_decode.data.catalog import CatalogEntry, catalog, sessions_named
from bci_decode.data.download import Downloader, _disk_error, download, is_verified
from bci_decode.data.transfer import Transfer, TransferPolicy
from bci_decode.errors import BciDecodeError

NAMES = ["indy_20160927_04", "indy_20160927_06", "loco_20170210_03"]
CONTENT = {name: os.urandom(300_000) for name in NAMES}
NAME = NAMES[0]
BODY = CONTENT[NAME]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def entry(name: str = NAME, size: int | None = len(BODY)) -> CatalogEntry:
    return CatalogEntry(name, "indy", "2016-09-27", md5(CONTENT[name]), size, 96, ("M1",), 389.0)


class Handler(BaseHTTPRequestHandler):
    """Answers with the next of `server.script`, or as a good server does once that is used up."""

    def do_GET(self):
        server = self.server
        with server.lock:
            server.requests.append((self.path, self.headers.get("Range")))
            answer = server.script.pop(0) if server.script else good
        with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
            answer(self)

    def log_message(self, *arguments):
        pass

    @property
    def content(self) -> bytes:
        return next((content for name, content in CONTENT.items() if name in self.path), b"")

    @property
    def asked(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def reply(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Close with RST, as a crashed host or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile.flush()
        self.connection.close()


def good(handler):
    whole, start = handler.content, handler.asked
    if not whole:
        handler.reply(404)
    elif start >= len(whole):
        handler.reply(416, Content_Range=f"bytes */{len(whole)}")
    elif start:
        handler.reply(
            206, whole[start:], Content_Range=f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        )
    else:
        handler.reply(200, whole)


def without_ranges(handler):
    handler.reply(200, handler.content)


def cut(size, answer=good):
    """`size` bytes of an answer, then the end."""

    def cutting(handler):
        reply = handler.reply
        handler.reply = lambda status, body=b"", **h: reply(
            status, body[:size], **({"Content_Length": len(body)} | h)
        )
        answer(handler)

    return cutting


def status(code, **headers):
    return lambda handler: handler.reply(code, b"sorry", **headers)


def sends(body, code=200, **headers):
    return lambda handler: handler.reply(code, body, **headers)


def resets(handler):
    handler.reset()


def stalls(handler):
    handler.reply(200, BODY[:70_000], Content_Length=len(BODY))
    handler.server.release.wait(10)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.script, http.requests, http.lock, http.release = (
        [],
        [],
        threading.Lock(),
        threading.Event(),
    )
    http.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield http
    http.release.set()
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def downloader(server, tmp_path, waits) -> Downloader:
    sources = (f"{server.url}/direct/{{name}}.mat", f"{server.url}/api/{{name}}.mat/content")
    return Downloader(
        tmp_path / "data",
        sources,
        TransferPolicy(timeout=0.5, tries=4, least=10_000, sleep=waits.append),
    )


def target(downloader: Downloader) -> Path:
    return downloader.folder / f"{NAME}.mat"


def part(downloader: Downloader, content: bytes | None = None) -> Path:
    path = downloader.folder / f"{NAME}.mat.part"
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return path


def assert_fetched(downloader: Downloader) -> None:
    assert target(downloader).read_bytes() == BODY
    assert {path.name for path in downloader.folder.iterdir()} == {f"{NAME}.mat", f"{NAME}.mat.md5"}
    assert is_verified(target(downloader), entry())


def refusal(downloader: Downloader, size: int | None = len(BODY)) -> str:
    with pytest.raises(BciDecodeError) as caught:
        downloader.fetch(entry(size=size))
    assert "\n" not in str(caught.value)
    return str(caught.value)


SIZES = pytest.mark.parametrize("size", [len(BODY), None], ids=["known size", "unknown size"])


@SIZES
def test_fetch_then_skip(downloader, server, size, waits):
    assert downloader.fetch(entry(size=size)).startswith("fetched, 0.3 MB")
    assert_fetched(downloader)
    assert downloader.fetch(entry(size=size)) == "already there, verified"
    assert server.requests == [(f"/direct/{NAME}.mat", None)] and waits == []


HARD_WAYS = {
    "a cut": [cut(100_000)],
    "a cut without a byte": [cut(0)],
    "many cuts, each with progress": [cut(20_000)] * 9,
    "a reset": [resets],
    "a stall": [stalls],
    "5xx": [status(500), status(502), status(503)],
    "ranges ignored": [cut(100_000), without_ranges],
    "ranges ignored and cut": [cut(100_000), cut(200_000, without_ranges)],
    "a wrong range": [cut(100_000), sends(BODY[50:], 206, Content_Range="bytes 50-299999/300000")],
    "a range untold": [cut(100_000), sends(BODY[100_000:], 206)],
    "a range of a range": [
        cut(100_000),
        sends(BODY[100_000:150_000], 206, Content_Range="bytes 100000-149999/300000"),
    ],
    "a length of *": [
        cut(100_000),
        sends(BODY[100_000:], 206, Content_Range="bytes 100000-299999/*"),
    ],
    "no length": [sends(BODY, Content_Length=None)],
    "more than was announced": [sends(BODY + b"more", Content_Length=len(BODY))],
    "a redirect": [status(302, Location=f"/elsewhere/{NAME}.mat")],
    "a cut, then a redirect": [cut(100_000), status(302, Location=f"/elsewhere/{NAME}.mat")],
    "not there, but at the second address": [status(404)],
    "forbidden, but at the second address": [status(403)],
    "a web page, but at the second address": [
        sends(b"<html>log in</html>", Content_Type="text/html")
    ],
    "a wrong file, but at the second address": [sends(os.urandom(len(BODY)))],
}


@SIZES
@pytest.mark.parametrize("way", HARD_WAYS)
def test_it_arrives_all_the_same(downloader, server, way, size):
    server.script[:] = HARD_WAYS[way]
    downloader.fetch(entry(size=size))
    assert_fetched(downloader)
    assert server.script == []


@pytest.mark.parametrize(
    "answer", [sends(BODY[:-9]), sends(BODY, Content_Length=len(BODY) + 9)], ids=["less", "more"]
)
def test_a_wrong_length_is_seen_before_the_file_comes(downloader, server, answer):
    server.script[:] = [answer]
    downloader.fetch(entry())
    assert_fetched(downloader)
    assert [path for path, _ in server.requests] == [
        f"/direct/{NAME}.mat",
        f"/api/{NAME}.mat/content",
    ]


def test_a_length_too_great_where_the_right_one_is_unknown(downloader, server):
    """The rest is asked for, there is none, and the md5 is right."""
    server.script[:] = [sends(BODY, Content_Length=len(BODY) + 9)]
    downloader.fetch(entry(size=None))
    assert_fetched(downloader)
    assert [asked for _, asked in server.requests] == [None, "bytes=300000-"]


def test_a_cut_is_resumed_where_it_was(downloader, server):
    server.script[:] = [cut(100_000), cut(50_000)]
    downloader.fetch(entry())
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


@SIZES
@pytest.mark.parametrize("start", [1, 200_000, len(BODY)])
def test_a_part_of_an_earlier_call(downloader, server, size, start):
    part(downloader, BODY[:start])
    assert "were there before" in downloader.fetch(entry(size=size))
    assert_fetched(downloader)
    asked = [] if start == size else [f"bytes={start}-"]  # a whole one is only compared
    assert [asked for _, asked in server.requests] == asked


@SIZES
@pytest.mark.parametrize(
    "content",
    [
        BODY + b"more",
        os.urandom(len(BODY) + 5),
        os.urandom(len(BODY)),
        BODY[:100_000] + bytes(50_000),
    ],
    ids=["longer", "another, longer", "another", "wrong tail"],
)
def test_a_wrong_part_is_fetched_anew_once(downloader, server, size, content, capsys):
    part(downloader, content)
    downloader.fetch(entry(size=size))
    assert_fetched(downloader)
    assert server.requests[-1] == (f"/direct/{NAME}.mat", None)
    assert (
        capsys.readouterr().err
        == f"{NAME}: its pieces do not make up the published file; starting again from zero\n"
    )


def test_an_answer_that_is_not_the_file_leaves_the_part(downloader, server):
    page = sends(b"<html>down for maintenance</html>", Content_Type="text/html; charset=utf-8")
    for answers in ([page, page], [sends(b"{}"), sends(b"{}")], [status(404), status(410)]):
        part(downloader, BODY[:1000])
        server.script[:] = answers
        assert "0.0 MB are kept, the same command resumes" in refusal(downloader)
        assert part(downloader).read_bytes() == BODY[:1000]


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
@SIZES
def test_a_web_page_is_no_recording(downloader, server, size, kind):
    server.script[:] = [sends(b"<!DOCTYPE html>", Content_Type=kind)] * 2
    words = {
        "text/html": "a web page",
        "application/octet-stream": "offers 15 bytes" if size else "15 bytes that came",
    }
    assert words[kind] in refusal(downloader, size)
    assert list(downloader.folder.iterdir()) == []


@SIZES
@pytest.mark.parametrize("had", [0, 1000])
def test_a_corrupt_file_names_both_sums_and_is_not_kept(downloader, server, size, had):
    corrupt = BODY[:-1] + bytes([BODY[-1] ^ 1])
    part(downloader, BODY[:had])
    server.script[:] = [sends(corrupt)] * 8
    message = refusal(downloader, size)
    assert md5(corrupt) in message and md5(BODY) in message
    assert list(downloader.folder.iterdir()) == []
    # each address once, and once more what was resumed
    assert len(server.requests) == 2 + bool(had)


def test_a_wrong_file_on_disk_stays(downloader, server):
    downloader.fetch(entry())
    target(downloader).write_bytes(b"my own")
    message = refusal(downloader)
    assert md5(b"my own") in message and md5(BODY) in message and "move it away" in message
    assert target(downloader).read_bytes() == b"my own"
    assert not is_verified(target(downloader), entry()) and len(server.requests) == 1


def test_verified_until_it_changes(downloader):
    downloader.fetch(entry())
    file = target(downloader)
    assert is_verified(file, entry())
    os.utime(file, ns=(0, 0))
    assert not is_verified(file, entry())
    downloader.fetch(entry())
    assert is_verified(file, entry())
    with file.open("ab") as handle:
        handle.write(b"x")
    assert not is_verified(file, entry())
    file.write_bytes(b"")
    assert not is_verified(file, entry())


def test_waiting_grows_and_ends(downloader, server, waits):
    server.script[:] = [status(500)] * 4 + [resets] * 4
    message = refusal(downloader)
    assert "HTTP 500" in message and "reset" in message and f"{server.url}/direct" in message
    assert len(waits) == 6 and len(server.requests) == 8
    for wait, longest in zip(waits, [1, 2, 4] * 2, strict=True):
        assert longest / 2 <= wait <= longest


@pytest.mark.parametrize("code", [429, 503])
def test_a_server_that_asks_to_wait_is_obeyed(downloader, server, waits, code):
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=120), usegmt=True)
    server.script[:] = [
        status(code, Retry_After=7),
        status(code, Retry_After=later),
        status(code, Retry_After="soon"),
    ]
    downloader.fetch(entry())
    assert waits[0] == 7 and 60 < waits[1] <= 120 and 2 <= waits[2] <= 4


def test_a_server_that_asks_to_wait_for_days_is_left(downloader, server, waits):
    server.script[:] = [status(429, Retry_After=200_000)] * 2
    assert "HTTP 429 Too Many Requests; it asks to wait 200000 s" in refusal(downloader)
    assert waits == []


def test_not_found(downloader, server):
    server.script[:] = [status(404)] * 2
    assert refusal(downloader) == f"{NAME}: {server.url}/direct/{NAME}.mat: HTTP 404 Not Found"


def test_redirects_in_a_circle(downloader, server):
    server.script[:] = [status(302, Location=f"/direct/{NAME}.mat")] * 40
    assert "HTTP 302" in refusal(downloader)


def test_a_cut_that_never_gets_further(downloader, server):
    server.script[:] = [cut(100_000, without_ranges)] * 8
    assert "the connection ended at 100000 of 300000 bytes (try 4)" in refusal(downloader)
    assert part(downloader).read_bytes() == BODY[:100_000]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_network_from_the_start(downloader, waits):
    for host in (f"127.0.0.1:{unused_port()}", "no-such-host.invalid"):
        downloader.sources = [f"http://{host}/{{name}}.mat"]
        assert "is there a network?" in refusal(downloader)
    assert waits == [] and list(downloader.folder.iterdir()) == []


def test_a_network_that_goes_away_is_waited_for(downloader, waits):
    downloader.policy.reached = True
    downloader.sources = [f"http://127.0.0.1:{unused_port()}/{{name}}.mat"]
    assert "Connection refused (try 4)" in refusal(downloader)
    assert len(waits) == 3


def test_an_address_that_is_none(downloader):
    downloader.sources = ["http://127.0.0.1:no/{name}.mat"]
    assert "not a usable address" in refusal(downloader)


@SIZES
def test_too_little_room_is_seen_before_a_byte_is_written(downloader, monkeypatch, size):
    part(downloader, BODY[:1000])
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 100_000)
    )
    assert refusal(downloader, size).endswith("data: 0.3 MB are needed, 0.1 MB are free; make room")
    assert part(downloader).read_bytes() == BODY[:1000]


def test_a_disk_that_fills_up(downloader, server):
    """/dev/full takes no byte, as a full disk."""
    downloader.folder.mkdir()
    url = f"{server.url}/direct/{NAME}.mat"
    with FileIO("/dev/full", "r+") as file, tqdm(disable=True) as bar:
        transfer = Transfer(NAME, url, file, downloader.folder, None, bar, downloader.policy)
        with pytest.raises(OSError) as caught:
            transfer.run()
    error = _disk_error(caught.value, part(downloader))
    assert str(error).startswith(f"{part(downloader)}: the disk is full; make room")


def test_a_folder_that_is_none(downloader):
    downloader.folder.write_text("a file")
    assert str(downloader.folder) in refusal(downloader)


def test_two_fetch_the_same_file(downloader, server):
    """The second is refused while the first waits for the server; the file comes out right."""
    started = threading.Event()

    def slow(handler):
        started.set()
        server.release.wait(10)
        good(handler)

    server.script[:] = [slow]
    downloader.policy.timeout = 10
    first = threading.Thread(target=downloader.fetch, args=(entry(),))
    first.start()
    assert started.wait(10)
    assert "another process is fetching this file" in refusal(downloader)
    server.release.set()
    first.join()
    assert_fetched(downloader)


def test_several_go_on_when_one_fails(downloader, server, capsys):
    everywhere = downloader.sources
    wrong = CatalogEntry("indy_nowhere", "indy", "2016-09-27", "0" * 32, None, 96, ("M1",), 389.0)
    done = download([entry(NAMES[0]), wrong, entry(NAMES[1])], downloader, jobs=2)
    assert set(done) == {NAMES[0], "indy_nowhere", NAMES[1]} and isinstance(
        done["indy_nowhere"], BciDecodeError
    )
    assert all(
        (downloader.folder / f"{name}.mat").read_bytes() == CONTENT[name] for name in NAMES[:2]
    )
    out, err = capsys.readouterr()
    assert out.count(": fetched, 0.3 MB") == 2
    url = everywhere[0].replace("{name}", "indy_nowhere")
    assert err == f"failed: indy_nowhere: {url}: HTTP 404 Not Found\n"


# ---- the command line: another process, a copy of the package with a catalog of small files


@pytest.fixture
def command(server, tmp_path):
    """Arguments and environment of `scripts/download.py` with the files of this test."""
    shutil.copytree(
        ROOT / "bci_decode",
        tmp_path / "copy" / "bci_decode",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copytree(
        ROOT / "scripts",
        tmp_path / "copy" / "scripts",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    lines = [
        f"{name},{name[:4]},2016-09-27,{md5(CONTENT[name])},300000,96,M1,389.312" for name in NAMES
    ]
    header = "session,monkey,date,md5,size_bytes,channels,areas,duration_s"
    (tmp_path / "copy" / "bci_decode" / "data" / "catalog.csv").write_text(
        "\n".join([header, *lines]) + "\n"
    )
    arguments = [sys.executable, "scripts/download.py", "--base-url", f"{server.url}/mirror"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "copy")}
    return {"args": arguments, "cwd": tmp_path / "copy", "env": environment}


def run(command, *arguments: str) -> subprocess.CompletedProcess:
    options = command | {"args": [*command["args"], *arguments]}
    return subprocess.run(**options, capture_output=True, text=True, timeout=60)


def test_the_command_fetches_lists_and_sums_up(command, server):
    data = command["cwd"] / "data"
    data.mkdir()
    (data / f"{NAMES[1]}.mat").write_bytes(CONTENT[NAMES[1]])
    (data / f"{NAMES[2]}.mat.part").write_bytes(CONTENT[NAMES[2]][:7])
    listed = run(command, "--list").stdout.splitlines()
    assert listed[0].split() == [
        "session",
        "on",
        "disk",
        "verified",
        "MB",
        "channels",
        "areas",
        "minutes",
    ]
    assert [line.split()[1:-4] for line in listed[1:4]] == [
        ["no", "-"],
        ["yes", "no"],
        ["part:", "0", "MB", "-"],
    ]
    server.script[:] = [status(404)]
    done = run(command, "indy_*", "--jobs", "1")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        f"{NAMES[1]}: already there, verified",
        "0 fetched, 1 already there, 1 failed",
    ]
    assert done.stderr.splitlines() == [
        f"failed: {NAME}: {server.url}/mirror/{NAME}.mat: HTTP 404 Not Found",
        f"error: not fetched: {NAME}; the lines above say why",
    ]
    done = run(command, NAME, "loco_20170210_03.mat", "loco*")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "2 fetched, 0 already there, 0 failed"
    listed = run(command, "--list").stdout.splitlines()
    assert [line.split() for line in listed[1:4]] == [
        [name, "yes", "yes", "0", "96", "M1", "6.5"] for name in NAMES
    ]
    assert listed[4] == "3 sessions, 3 on disk, 3 of them verified"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "error: no session is named"),
        (
            ["indy_20160927_05"],
            f"error: indy_20160927_05: no session has this name; "
            f"is it {NAMES[1]} or {NAMES[0]}? (--list",
        ),
        ([NAME, "--jobs", "0"], "error: --jobs: is 0; give 1 to 1000"),
        (
            [NAME, "--base-url", "file:///tmp"],
            "error: --base-url: must begin with http:// or https://",
        ),
    ],
)
def test_a_mistake_is_one_line(command, server, arguments, words):
    done = run(command, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(words) and done.stderr.count("\n") == 1
    assert server.requests == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_called_again(command, server, sent):
    """A process is killed, or ended by Ctrl-C, while the server sends: the next call resumes."""
    server.script[:] = [stalls]
    file = command["cwd"] / "data" / f"{NAME}.mat.part"
    options = command | {"args": [*command["args"], NAME]}
    with subprocess.Popen(**options, stderr=subprocess.PIPE, text=True) as process:
        while not (file.exists() and file.stat().st_size == 70_000):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(sent)
        _, err = process.communicate(timeout=20)
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert err == "interrupted\n"
    done = run(command, NAME)
    assert done.returncode == 0 and "0.1 MB were there before" in done.stdout
    assert server.requests[-1][1] == "bytes=70000-"
    assert file.with_suffix("").read_bytes() == BODY and not file.exists()


def test_names_and_patterns():
    assert [found.name for found in sessions_named(["loco_2017030*"])] == [
        "loco_20170301_05",
        "loco_20170302_02",
    ]
    both = sessions_named(["loco_20170301_05.mat", "indy_20160927_04", "indy_20160927_04"])
    assert [found.name for found in both] == ["indy_20160927_04", "loco_20170301_05"]
    assert len(sessions_named(["*"])) == 47
    for wrong in ("indy_2016927_04", "moco_*", ""):
        with pytest.raises(BciDecodeError, match=r"no session has this name") as caught:
            sessions_named([wrong])
        assert "is it" in str(caught.value) or all(name in str(caught.value) for name in catalog())


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        ("indy_2016", "'indy_2016*' matches 33 sessions (--list shows all)"),
        ("indy_20160930", "'indy_20160930*' matches 2 sessions (--list shows all)"),
        ("indy_20160927_05", "is it indy_20160927_06 or indy_20160927_04"),
    ],
)
def test_an_incomplete_name_proposes_its_pattern(start, remedy):
    with pytest.raises(
        BciDecodeError, match=re.escape(f"{start}: no session has this name; {remedy}")
    ):
        sessions_named([start])


def test_a_lock_left_by_a_killed_process_does_not_hold(downloader):
    downloader.folder.mkdir()
    (downloader.folder / f"{NAME}.mat.lock").touch()
    downloader.fetch(entry())
    assert_fetched(downloader)


@contextmanager
def without_root():
    """Root may write anywhere, so the file system is used as nobody."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_in_a_read_only_folder_is_verified(downloader):
    with TemporaryDirectory(dir="/tmp") as folder:  # pytest's folders are closed to nobody
        downloader.folder = Path(folder)
        target(downloader).write_bytes(BODY)
        downloader.folder.chmod(0o555)
        with without_root():
            assert not os.access(folder, os.W_OK, effective_ids=True)
            assert downloader.fetch(entry()) == "already there, verified"
        downloader.folder.chmod(0o755)
