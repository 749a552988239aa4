"""Scripts of faults, drawn at random: the file in place is right, or one line says why not."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import Answer, HostileServer, Piece, chunked, cut, endless, good, head, sends, status
from sizes import cases

from bci_decode.data.catalog import CatalogEntry
from bci_decode.data.download import Downloader, catalog_table
from bci_decode.data.transfer import TransferPolicy
from bci_decode.errors import BciDecodeError

NAME = "indy_20160927_04"
BODY = random.Random(0).randbytes(40_000)
MOST = 100_000  # bytes of a file of unknown size
LIMIT = 60  # s after which a script counts as a hang
BLOCK = 20  # scripts of a test
STATUS = ["200 OK", "206 Partial", "204 None", "301 Moved", "302 Found", "303 See", "304 Same",
          "307 Moved", "308 Moved", "400 Bad", "401 Who", "403 No", "404 None", "410 Gone",
          "416 Range", "429 Busy", "500 Broken", "503 Busy", "999 \x1b[2J", "100 Continue",
          "000 \x9b", "-1 x", "2000000 OK", "two OK", "200", "200 \x07" + "x" * 3000]  # fmt: skip
NUMBERS = ["0", "-1", "1", "7", "39999", "40000", "40001", "9" * 20, "9" * 5000, "nan", "inf",
           "1e400", "", " 40000 ", "40_000", "0x10", "\u00b2", "+5", "\x1b[31m"]  # fmt: skip
DATES = ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "soon",
         f"Fri, 31 Dec {10**20} 23:59:59 GMT", "Fri, 31 Dec 2099 23:59:59",
         f"Fri, 31 Dec 2099 23:59:59 +{10**20}"]  # fmt: skip
PLACES = ["/", "/again.mat", "//", "http://[::1", "ftp://127.0.0.1/x", "file:///etc/passwd",
          "http://127.0.0.1:1/", "http://127.0.0.1:99999/", "http://no-such.invalid/", "\x1b]0;x",
          "http://a@b:c@127.0.0.1/", "https://127.0.0.1:1/", "?", "#", "http://\u00e9.invalid/",
          "data:,x", "http:", "javascript:1", "/" + "x" * 70_000]  # fmt: skip


def noise(draw: random.Random, most: int) -> bytes:
    return draw.randbytes(draw.randrange(most))


def some_headers(draw: random.Random) -> dict[str, object]:
    """Headers that may lie."""
    first, last, total = (draw.choice(NUMBERS) for _ in range(3))
    values = {
        "Content_Length": draw.choice(NUMBERS),
        "Content_Range": draw.choice([f"bytes {first}-{last}/{total}", f"bytes */{total}", total]),
        "Content_Type": draw.choice(["text/html", "application/x; \x1b[2J", ";", "x" * 300]),
        "Content_Encoding": draw.choice(["gzip", "identity", "br, \x1b[2J", ""]),
        "Transfer_Encoding": draw.choice(["chunked", "identity", "gzip, chunked"]),
        "Retry_After": draw.choice(NUMBERS + DATES),
        "Location": draw.choice(PLACES).encode("latin-1", "replace"),
        "X": noise(draw, 300).replace(b"\n", b""),
    }
    return {name: values[name] for name in draw.sample(sorted(values), draw.randrange(5))}


def lying(draw: random.Random) -> Answer:
    """A right or a wrong body under headers that may lie."""
    body = draw.choice([BODY, BODY[: draw.randrange(40_000)], noise(draw, 50_000), b""])
    return sends(head(draw.choice(STATUS), **some_headers(draw)), body)


def leading_away(draw: random.Random) -> Answer:
    """A redirect, or a plea to wait, with a value that may be senseless."""
    if draw.random() < 0.5:
        place = draw.choice(PLACES).encode("latin-1", "replace")
        return status(draw.choice(["301 Moved", "302 Found", "308 Moved"]), Location=place)
    return status(draw.choice(["429 Busy", "503 Busy"]), Retry_After=draw.choice(NUMBERS + DATES))


def flipped(draw: random.Random) -> Answer:
    """What a right server sends, with some bytes changed in its first 400."""
    places = [(draw.randrange(400), draw.randrange(256)) for _ in range(draw.randrange(1, 6))]

    def answer(body: bytes, offset: int):
        sent = bytearray(b"".join(good(body, offset)))
        for place, value in places:
            if place < len(sent):
                sent[place] = value
        yield bytes(sent)

    return answer


def breaking(draw: random.Random) -> Answer:
    """The right content up to a place, then the end, a reset or a pause."""
    size, ending = draw.randrange(40_000), draw.choice([(), (None,), (0.05, b"x"), (0.4,)])

    def answer(body: bytes, offset: int):
        yield from cut(size)(body, offset)
        yield from ending

    return answer


def in_chunks(draw: random.Random) -> Answer:
    """Chunks whose framing may be wrong."""
    sizes = [b"9c40", b"-5", b"0", b"f" * 30, b"g", b"", b"5;x=\x1b", noise(draw, 20)]
    pieces: list[bytes] = []
    for _ in range(draw.randrange(1, 4)):
        pieces += [draw.choice(sizes), b"\r\n", draw.choice([BODY, b"abcde", b""]), b"\r\n"]
    return chunked(*pieces, draw.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n", b""]))


def without_end(draw: random.Random) -> Answer:
    """Bytes that never end, fast or slow."""
    first = draw.choice([
        head(), head(Content_Length=10**15), head(Transfer_Encoding="chunked"), b"", b"HTTP/1.1 ",
        head("302 Found", Location="/x"), b"HTTP/1.1 200 OK\r\nX: ", head("404 None"),
        head(Transfer_Encoding="chunked") + b"0\r\n",
    ])  # fmt: skip
    again = draw.choice([b"x" * 5000, b"5\r\nabcde\r\n" * 500, b"X: y\r\n" * 500, b"\r\n" * 500])
    return endless(first, again) if draw.random() < 0.7 else endless(first, again[:1], 0.02)


def garbage(draw: random.Random) -> Answer:
    """No HTTP at all, or a bomb of headers."""
    many = draw.randrange(300)
    choices: list[tuple[Piece, ...]] = [
        (noise(draw, 3000),), (None,), (), (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * many + b"\r\n",),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", BODY),
        (head("200 OK")[:-2] + noise(draw, 100) + b"\r\n\r\n", BODY),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * many, head(Content_Length=40_000), BODY),
    ]  # fmt: skip
    return sends(*draw.choice(choices))


KINDS: list[Callable[[random.Random], Answer]] = [
    lying, lying, leading_away, flipped, breaking, in_chunks, without_end, garbage,
    lambda draw: good,
    lambda draw: status(draw.choice(STATUS), **some_headers(draw)),
]  # fmt: skip


def earlier(draw: random.Random, folder: Path) -> None:
    """Leave what earlier calls, or others, may have left."""
    contents = [BODY[: draw.randrange(40_000)], noise(draw, 50_000), b"", bytes(MOST + 50)]
    for ending in ("part", "md5", "lock"):
        if draw.random() < 0.3:
            (folder / f"{NAME}.mat.{ending}").write_bytes(draw.choice(contents))


def within_limit(action: Callable[[], str]) -> str:
    """The result of an action, or the line of its error; any other exception is raised."""
    found: list[str | BaseException] = []

    def act() -> None:
        try:
            found.append(action())
        except BciDecodeError as error:
            found.append(str(error))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert found, "hangs"
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def run_script(seed: int, folder: Path) -> tuple[str, str]:
    """Fetch from a server that follows the script of a seed, then from a good one."""
    draw = random.Random(seed)
    folder.mkdir()
    earlier(draw, folder)
    size = draw.choice([None, len(BODY)])
    md5 = hashlib.md5(BODY).hexdigest()
    entry = CatalogEntry(NAME, "indy", "2016-09-27", md5, size, 96, ("M1",), 389.0)
    file = folder / f"{NAME}.mat"
    policy = TransferPolicy(
        timeout=0.3, tries=3, least=1000, period=0.2, most=MOST, sleep=lambda seconds: None
    )
    with HostileServer(BODY) as server:
        server.script[:] = [draw.choice(KINDS)(draw) for _ in range(draw.randrange(1, 12))]
        downloader = Downloader(folder, [f"{server.url}/{{name}}.mat"] * 2, policy)
        first = within_limit(lambda: downloader.fetch(entry))
        assert file.exists() == first.startswith("fetched")
        assert not file.exists() or file.read_bytes() == BODY
        assert not (folder / f"{NAME}.mat.lock").exists()
        assert sum(path.stat().st_size for path in folder.iterdir()) < 2 * MOST
        assert catalog_table(folder, [entry]).count("\n") == 2
        server.script.clear()
        policy.timeout = policy.period = 20.0  # a busy computer is no fault of the good server
        second = within_limit(lambda: downloader.fetch(entry))
    assert file.read_bytes() == BODY, second
    assert {path.name for path in folder.iterdir()} == {file.name, f"{file.name}.md5"}
    return first, second


@pytest.mark.parametrize("block", range(cases(1, 50)))
def test_whatever_a_server_does_the_file_is_right_or_absent(
    block, tmp_path, monkeypatch, capsys, tried
):
    """And a good server then completes it, whatever was left behind."""
    monkeypatch.setenv("no_proxy", "*")
    for seed in range(BLOCK * block, BLOCK * block + cases(8, BLOCK)):
        for line in run_script(seed, tmp_path / str(seed)):
            assert line.isprintable() and len(line) < 1500, seed
    tried(cases(8, BLOCK), "servers of recordings")
    told = capsys.readouterr().err
    assert told.replace("\n", "").isprintable() and "Traceback" not in told
