"""Fetching from a server that means harm: one line in the end, no traceback, no hang, no damage."""

from __future__ import annotations

import hashlib
import io
import os
import random
import ssl
import sys
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request

import pytest
from hostile import (
    HostileServer,
    chunked,
    cut,
    endless,
    head,
    sends,
    status,
)

from bci_decode.cli import download as download_command
from bci_decode.data.catalog import CatalogEntry, catalog
from bci_decode.data.download import Downloader, catalog_table, is_verified
from bci_decode.data.transfer import TransferPolicy
from bci_decode.data.web import _Redirects
from bci_decode.errors import BciDecodeError, one_line, printable

NAME = "indy_20160927_04"
BODY = random.Random(1).randbytes(50_000)
MD5 = hashlib.md5(BODY).hexdigest()
DIGITS = "9" * 5000


def entry(size: int | None = None) -> CatalogEntry:
    return CatalogEntry(NAME, "indy", "2016-09-27", MD5, size, 96, ("M1",), 389.0)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with HostileServer(BODY) as hostile:
        yield hostile


@pytest.fixture
def waits():
    return []


@pytest.fixture
def downloader(server, tmp_path, waits):
    """Limits that a test reaches soon; `sleep` returns at once."""
    policy = TransferPolicy(timeout=5, tries=2, least=1000, most=200_000, sleep=waits.append)
    return Downloader(tmp_path / "data", [f"{server.url}/{{name}}.mat"], policy)


def part(downloader: Downloader) -> Path:
    return downloader.folder / f"{NAME}.mat.part"


def refusal(downloader: Downloader, size: int | None = None) -> str:
    with pytest.raises(BciDecodeError) as caught:
        downloader.fetch(entry(size))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert not (downloader.folder / f"{NAME}.mat").exists()
    return str(caught.value)


def assert_fetched(downloader: Downloader, size: int | None = None) -> None:
    downloader.fetch(entry(size))
    found = {path.name: path.read_bytes() for path in downloader.folder.iterdir()}
    assert found.pop(f"{NAME}.mat.md5") and found == {f"{NAME}.mat": BODY}


@pytest.mark.parametrize("header", [f"bytes 2000-{DIGITS}/{DIGITS}", "bytes \u00b2-3/4", "\x1b[2J"])
def test_a_range_that_cannot_be_is_asked_for_anew(downloader, server, header, capsys):
    downloader.policy.tries = 3
    server.script[:] = [cut(2000), sends(head("206 Partial", Content_Range=header), BODY)]
    assert_fetched(downloader)
    assert server.asked == [0, 2000, 0]
    assert capsys.readouterr().err.replace("\n", "").isprintable()


@pytest.mark.parametrize("length", [DIGITS, "-5", "five", "1e3"])
def test_a_length_that_cannot_be(downloader, server, length):
    server.script[:] = [sends(head(Content_Length=length), BODY)]
    assert_fetched(downloader)


@pytest.mark.parametrize(
    "value",
    [
        "nan",
        "-inf",
        "-1",
        "Thu, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 1999 23:59:59 -0000",
        f"Fri, 31 Dec {10**20} 23:59:59 GMT",
        f"Fri, 31 Dec {DIGITS} 23:59:59 GMT",
        f"Fri, 31 Dec 2099 23:59:59 +{10**20}",
        "Fri, 99 Foo 2099 99:99:99 GMT",
    ],
)
def test_a_senseless_time_to_wait_counts_as_none(downloader, server, waits, value):
    server.script[:] = [status("503 Busy", Retry_After=value)]
    assert_fetched(downloader)
    assert 0 < waits[0] <= 1


@pytest.mark.parametrize("value", [DIGITS, "inf", "1e400", "Fri, 31 Dec 9999 23:59:59 -2359"])
def test_who_asks_to_wait_forever_is_left(downloader, server, waits, value):
    server.script[:] = [status("503 Busy", Retry_After=value)]
    assert "HTTP 503 Busy; it asks to wait " in refusal(downloader)
    assert waits == []


@pytest.mark.parametrize("to", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "gopher://x"])
def test_a_redirect_to_another_scheme_is_not_followed(downloader, server, to):
    server.script[:] = [status("302 Found", Location=to)]
    assert "HTTP 302 Found" in refusal(downloader)
    assert server.asked == [0]


@pytest.mark.parametrize(
    ("start", "to", "followed"),
    [
        ("http", "http", True), ("http", "https", True),
        ("https", "https", True), ("https", "http", False),
    ],
)  # fmt: skip
def test_a_redirect_never_gives_up_encryption(start, to, followed):
    arguments = (Request(f"{start}://a.example/x"), io.BytesIO(), 302, "Found", Message())
    if followed:
        request = _Redirects().redirect_request(*arguments, f"{to}://b.example/y")
        assert request is not None and request.full_url == f"{to}://b.example/y"
    else:
        with pytest.raises(HTTPError, match="Found to http, which is not followed from https"):
            _Redirects().redirect_request(*arguments, f"{to}://b.example/y")


@pytest.fixture
def secure(monkeypatch):
    """A server with a certificate that this process believes."""
    pem = Path(__file__).with_name("loopback.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with HostileServer(BODY, context) as hostile:
        yield hostile


@pytest.mark.parametrize("to", ["/again", "http"])
def test_https_stays_https(downloader, server, secure, to):
    """A file comes over https, and a redirect of it does not lead to http."""
    downloader.sources = [f"{secure.url}/{{name}}.mat"]
    secure.script[:] = [status("302 Found", Location=to if to == "/again" else f"{server.url}/x")]
    if to == "/again":
        assert_fetched(downloader)
    else:
        says = "HTTP 302 Found to http, which is not followed from https"
        assert says in refusal(downloader)
    assert server.asked == []


def test_an_unknown_certificate_is_refused(downloader, secure, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    downloader.sources = [f"{secure.url}/{{name}}.mat"]
    assert "cannot be reached (" in refusal(downloader)
    assert secure.asked == []


def test_the_number_of_redirects_is_limited(downloader, server):
    server.script[:] = [status("302 Found", Location=f"/{turn}") for turn in range(20)]
    assert "HTTP 302" in refusal(downloader)
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:99999/", "http://[::1", f"http://{'a' * 70}.example/"]
)
def test_a_redirect_to_no_address(downloader, server, to):
    server.script[:] = [status("302 Found", Location=to)] * 2
    refusal(downloader)


def test_the_body_of_a_redirect_is_not_read(downloader, server):
    start = head("302 Found", Location=f"/{NAME}.mat", Content_Length=10**15)
    server.script[:] = [endless(start, bytes(65536))]
    assert_fetched(downloader)


SLOW = {
    "body": endless(head(Content_Length=len(BODY)), b"x", 0.02),
    "body without a length": endless(head(), b"x", 0.02),
    "status line": endless(b"HTTP/1.1 200 O", b"K", 0.02),
    "header": endless(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.02),
    "chunks": endless(head(Transfer_Encoding="chunked"), b"1\r\nx\r\n", 0.02),
}


@pytest.mark.parametrize("where", SLOW)
def test_a_byte_now_and_then_is_too_slow(downloader, server, where):
    downloader.policy.period = 0.15
    server.script[:] = [SLOW[where]] * 2
    assert " bytes came in 0." in refusal(downloader)
    assert len(server.asked) == 2


def test_what_came_slowly_is_kept(downloader, server):
    """The rest comes from a better server."""
    downloader.policy.period = 0.15
    server.script[:] = [
        sends(head(Content_Length=len(BODY)), BODY[:2000], *[0.03, b"x"] * 20) for _ in range(2)
    ]
    assert "the same command resumes" in refusal(downloader)
    assert part(downloader).read_bytes().startswith(BODY[:2000])
    downloader.policy.period = 60.0
    assert_fetched(downloader)


ENDLESS = {
    "no length": endless(head(), bytes(10_000)),
    "chunks": endless(head(Transfer_Encoding="chunked"), b"2710\r\n" + bytes(10_000) + b"\r\n"),
    "a length": endless(head(Content_Length=10**14), bytes(10_000)),
    "trailers": endless(head(Transfer_Encoding="chunked") + b"0\r\n", b"X: y\r\n" * 1000),
    "answers to come": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "a header": endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
    "a chunk's size": endless(head(Transfer_Encoding="chunked"), b"1" * 1000),
    "a status line": endless(b"HTTP/1.1 200 ", b"O" * 1000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_answer_without_an_end(downloader, server, what):
    server.script[:] = [ENDLESS[what]] * 4
    refusal(downloader)
    assert not part(downloader).exists()


def test_the_ceiling_is_above_every_published_file():
    known = [entry.size for entry in catalog().values() if entry.size]
    assert max(known) < TransferPolicy().most < 1.1 * max(known)


def test_control_characters_do_not_reach_the_terminal(downloader, server, capsys):
    server.script[:] = [status(b"503 \x1b[2J\x9b31m\x07 Busy"), status(b"404 \x1b]0;title\x07")]
    says = refusal(downloader)
    assert "\\x1b]0;title\\x07" in says
    err = capsys.readouterr().err
    assert "\\x1b[2J\\x9b31m\\x07 Busy" in err and err.replace("\n", "").isprintable()


def test_text_of_strangers_is_made_printable():
    assert printable("µ é ~") == "µ é ~"
    assert printable("a\x1b[0m\u202e\ud800\r") == "a\\x1b[0m\\u202e\\ud800\\r"
    assert str(BciDecodeError("is \x1b[2J", file="a\nb")) == "a b: is \\x1b[2J"
    assert one_line(ValueError("\x1b")) == "\\x1b"


def test_long_words_of_a_server_are_cut(downloader, server):
    server.script[:] = [status("404 " + 60_000 * "x")]
    assert "xxx..." in refusal(downloader)


@pytest.mark.parametrize(
    "answer",
    [
        chunked(b"zz\r\n"), chunked(b"-5\r\n", BODY), chunked(b"f" * 5000 + b"\r\nx"),
        chunked(b"5\r\nab"), chunked(b"2\r\nabcd\r\n0\r\n\r\n"), chunked(b"\r\n\r\n"),
        sends(b"\0" * 100), sends(b"HTTP/9.9 200 OK\r\n\r\n"), sends(b"HTTP/1.1 999999 \r\n\r\n"),
        sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"), sends(None), sends(),
        sends(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"),
        sends(b"HTTP/1.1 200 OK\r\n\xff\xfe no header\r\n\r\n"), status("204 None"),
        status("101 Switching"), status("300 Choose"), status("206 Partial"),
    ],
)  # fmt: skip
def test_what_is_no_http(downloader, server, answer):
    """A second try, or a second call, has the file."""
    server.script[:] = [answer] * 3
    refusal(downloader)
    server.script.clear()
    assert_fetched(downloader)


def test_a_compressed_file_is_refused(downloader, server):
    server.script[:] = [sends(head(Content_Encoding="gzip", Content_Length=9), b"\x1f\x8b1234567")]
    assert "sends the file in another form (gzip)" in refusal(downloader)
    assert not part(downloader).exists()
    server.script[:] = [sends(head(Content_Encoding="Identity"), BODY)]
    assert_fetched(downloader)


@pytest.mark.parametrize("ending", ["part", "lock"])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_not_followed(downloader, tmp_path, ending, there):
    other = tmp_path / "precious"
    if there:
        other.write_text("my own")
    downloader.folder.mkdir()
    link = downloader.folder / f"{NAME}.mat.{ending}"
    link.symlink_to(other)
    assert refusal(downloader).endswith(
        f"{NAME}.mat.{ending}: is a link; remove it, then try again"
    )
    assert link.is_symlink() and other.exists() == there
    assert not there or other.read_text() == "my own"


@pytest.mark.parametrize("ending", ["mat", "mat.md5"])
def test_a_link_to_nothing_is_replaced(downloader, tmp_path, ending):
    downloader.folder.mkdir()
    link = downloader.folder / f"{NAME}.{ending}"
    link.symlink_to(tmp_path / "precious")
    assert_fetched(downloader)
    assert not link.is_symlink() and not (tmp_path / "precious").exists()


@pytest.mark.parametrize("ending", ["mat", "mat.part"])
def test_a_pipe_in_the_place_of_a_file_is_refused(downloader, ending):
    downloader.folder.mkdir()
    os.mkfifo(downloader.folder / f"{NAME}.{ending}")
    with pytest.raises(BciDecodeError, match=f"{NAME}.{ending}: is no plain file; "):
        downloader.fetch(entry())


@pytest.mark.parametrize("content", [b"\xff\xfe\x80", b"", b"x" * 10**6])
def test_a_marker_that_is_none(downloader, content):
    downloader.fetch(entry())
    file = downloader.folder / f"{NAME}.mat"
    marker = file.with_name(f"{NAME}.mat.md5")
    marker.write_bytes(content)
    assert not is_verified(file, entry())
    assert catalog_table(downloader.folder, [entry()]).splitlines()[1].split()[2] == "no"
    assert downloader.fetch(entry()) == "already there, verified"
    assert is_verified(file, entry())


def test_a_server_that_gives_a_little_at_a_time_is_left(downloader, server):
    """Each try brings something, but less than it must."""
    server.script[:] = [cut(1)] * 50
    assert "(try 2)" in refusal(downloader)
    assert len(server.asked) < 5


@pytest.mark.parametrize("timeout", ["inf", "nan", "0", "-1", "1e308", "3601"])
def test_a_timeout_that_cannot_be_is_one_line(timeout, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["download", NAME, "--timeout", timeout])
    with pytest.raises(BciDecodeError, match=r"^--timeout: is .* s, must be above 0 and at most"):
        download_command()
