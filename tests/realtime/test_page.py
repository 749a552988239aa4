"""The live page without a browser: what it serves, to whom, and that it holds nobody up."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    WebSocketException,
)
from websockets.sync.client import connect

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.bins import Bin, Decoded
from bci_decode.realtime.interfaces.page import BINS, CONNECTIONS, MESSAGE, PageSink

LIMIT = 20  # s after which a test gives up
DECODER = SimpleNamespace(  # what the page tells of a decoder
    axes=("x", "y"),
    target="velocity",
    unit="mm/s",
    bin_width=0.02,
    lag=0.06,
    units=pd.DataFrame({"channel": ["M1 001", "S1 002"], "area": ["M1", "S1"], "row": [0, 1]}),
)


@pytest.fixture
def page():
    sink = PageSink(DECODER, port=0)
    yield sink
    sink.close()


def bin_of(index: int, missed=False, true=None) -> Decoded:
    bin_ = Bin(index, 3 + 0.02 * index, np.array([0.0, 2.0]), true)
    return Decoded(bin_, np.array([1.5, -0.25 * index]), 0.000125, missed)


def get(url: str, **headers: str) -> tuple[int, dict, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def stream(sink: PageSink, **options):
    return connect(f"ws://127.0.0.1:{sink.port}/stream", open_timeout=LIMIT, **options)


def frames(browser, sink: PageSink, bins: list[Decoded]) -> list[dict]:
    """The frames that hold some bins, which are written when the server knows the browser."""
    while not sink.watched:
        time.sleep(0.01)
    for bin_ in bins:
        sink.write(bin_)
    received: list[dict] = []
    while sum(len(frame["bins"]) for frame in received) < len(bins):
        received.append(json.loads(browser.recv(timeout=LIMIT)))
    return received


def test_the_page_is_served_whole_and_loads_nothing_from_elsewhere(page):
    status, headers, text = get(page.url)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert "http://" not in text and "https://" not in text and "src=" not in text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert get(f"{page.url}etc/passwd")[0] == 404


def test_a_browser_gets_what_is_decoded(page):
    with stream(page) as browser:
        hello = json.loads(browser.recv(timeout=LIMIT))
        assert hello["axes"] == ["x", "y"] and hello["unit"] == "mm/s"
        assert hello["units"] == ["M1 001/0", "S1 002/1"] and hello["areas"] == ["M1", "S1"]
        assert hello["colors"]["decoded"] == "#1a3a9c"
        bins = [bin_of(0), bin_of(1, missed=True), bin_of(2, true=np.array([3.0, 4.0]))]
        received = frames(browser, page, bins)
    shown = [bin_ for frame in received for bin_ in frame["bins"]]
    assert [bin_["index"] for bin_ in shown] == [0, 1, 2]
    assert shown[2]["decoded"] == [1.5, -0.5] and shown[2]["true"] == [3.0, 4.0]
    assert shown[0]["true"] is None and shown[0]["time"] == 3.0
    assert shown[0]["latency"] == 0.125  # ms
    assert shown[0]["spikes"] == [[1, 2]] and received[-1]["missed"] == 1


def test_a_browser_that_reads_nothing_holds_up_neither_decoding_nor_other_browsers(page):
    """Twenty frames of 0.4 MB are more than all buffers on the way hold."""
    counts, output, rounds, sent = np.ones(400), np.zeros(2), 20, 0
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    narrow.connect(("127.0.0.1", page.port))
    with stream(page, max_queue=1, close_timeout=0.1, sock=narrow) as slow, stream(page) as quick:
        quick.recv(timeout=LIMIT)
        for first in range(0, rounds * BINS, BINS):
            indices = range(first, first + BINS)
            bins = [Decoded(Bin(i, 0.02 * i, counts), output, 0.0) for i in indices]
            received = frames(quick, page, bins)
            sent += len(received)
        assert received[-1]["bins"][-1]["index"] == rounds * BINS - 1
        slow.recv(timeout=LIMIT)
        late, last = 0, rounds * BINS
        while True:
            page.write(bin_of(last))
            with suppress(TimeoutError):
                if json.loads(slow.recv(timeout=0.2))["bins"][-1]["index"] == last:
                    break
                late += 1
    assert 0 < late < sent


def test_bins_that_no_frame_has_room_for_are_left_out(page):
    with stream(page) as browser:
        browser.recv(timeout=LIMIT)
        while not page.watched:
            time.sleep(0.01)
        for index in range(100 * BINS):
            page.write(bin_of(index, missed=True))
        received, last = 0, -1
        while last < 100 * BINS - 1:
            frame = json.loads(browser.recv(timeout=LIMIT))
            last = frame["bins"][-1]["index"]
            received += len(frame["bins"])
            assert len(frame["bins"]) <= BINS
    assert received < 100 * BINS and frame["missed"] == 100 * BINS


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_pages_of_other_sites_cannot_read_the_stream(page, origin):
    with pytest.raises(InvalidStatus) as refused:
        stream(page, origin=origin)
    assert refused.value.response.status_code == 403


def test_a_name_that_others_point_to_this_computer_is_refused(page):
    assert get(page.url, Host=f"evil.example:{page.port}")[0] == 403
    assert get(page.url, Host="[::1")[0] == 403  # a name that cannot be read
    for own in ("localhost", "127.0.0.1", socket.gethostname()):
        assert get(page.url, Host=f"{own}:{page.port}")[0] == 200
    with stream(page, origin=f"http://127.0.0.1:{page.port}") as browser:
        assert browser.recv(timeout=LIMIT)


def test_a_port_in_use_is_one_line(page):
    with pytest.raises(BciDecodeError) as caught:
        PageSink(DECODER, port=page.port)
    line = f"127.0.0.1:{page.port}: cannot serve the live page there (Address already in use); "
    assert str(caught.value).startswith(line) and "--page PORT" in str(caught.value)


def test_an_address_that_cannot_be_is_one_line():
    with pytest.raises(BciDecodeError) as caught:
        PageSink(DECODER, "no.such.host.invalid", 0)
    line = str(caught.value)
    assert line.startswith("no.such.host.invalid:0: cannot serve the live page there (")
    assert line.count("(") == line.count(")") == 1
    with pytest.raises(BciDecodeError, match="^--page: is 70000; give a port from 0 to 65535"):
        PageSink(DECODER, port=70000)


def test_only_an_address_beyond_this_computer_warns(caplog):
    PageSink(DECODER, port=0).close()
    assert not caplog.messages
    PageSink(DECODER, "0.0.0.0", 0).close()
    assert len(caplog.messages) == 1 and "everyone who reaches this address" in caplog.text


def test_it_stops_with_browsers_connected_and_its_port_is_free_again():
    sink = PageSink(DECODER, port=0)
    with stream(sink) as browser:
        browser.recv(timeout=LIMIT)
        sink.close()
        sink.close()
    PageSink(DECODER, port=sink.port).close()


def test_a_connection_that_says_nothing_does_not_delay_the_end():
    sink = PageSink(DECODER, port=0)
    with socket.create_connection(("127.0.0.1", sink.port), LIMIT) as silent:
        get(sink.url)  # the server has seen the silent one before
        closing = threading.Thread(target=sink.close)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
        with suppress(ConnectionResetError):
            assert silent.recv(1) == b""  # the server hung up


@pytest.mark.parametrize(("given", "shown"), [({}, 0.02), ({"deadline": None}, None)])
def test_the_page_is_told_the_deadline(given, shown):
    sink = PageSink(DECODER, port=0, **given)
    with stream(sink) as browser:
        assert json.loads(browser.recv(timeout=LIMIT))["deadline"] == shown
    sink.close()


@pytest.mark.parametrize("size", [0, 1, MESSAGE, MESSAGE + 1, 50_000_000])
def test_a_browser_that_sends_anything_is_disconnected(page, size):
    """The page itself sends nothing; a message that is too long is not even taken in."""
    with stream(page, max_size=None) as browser:
        browser.recv(timeout=LIMIT)
        with pytest.raises(ConnectionClosed) as closed:
            browser.send(bytes(size))
            browser.recv(timeout=LIMIT)
    assert closed.value.rcvd is None or closed.value.rcvd.code == (
        1008 if size <= MESSAGE else 1009
    )
    assert get(page.url)[0] == 200


def test_bytes_that_are_no_request_change_nothing(page, caplog, capfd):
    random = np.random.default_rng(0)
    requests = [random.bytes(2000) for _ in range(10)]
    requests += [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00", b"",
        b"GET /stream?\x1b[2J HTTP/1.1\r\nHost: \x1b[2J\r\nOrigin: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ]  # fmt: skip
    for request in requests:
        client = socket.create_connection(("127.0.0.1", page.port), LIMIT)
        with client, suppress(OSError):
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(1000)
            assert not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")), request
    assert get(page.url)[0] == 200
    assert not caplog.messages and capfd.readouterr() == ("", "")


def test_a_request_that_comes_byte_by_byte_is_not_waited_for(page):
    with socket.create_connection(("127.0.0.1", page.port), LIMIT) as client:
        client.sendall(b"GET /")
        with suppress(OSError):  # the server hung up
            while True:
                client.sendall(b"x")
                time.sleep(0.05)
    assert get(page.url)[0] == 200


def test_more_connections_than_any_user_needs_are_refused(page):
    with ExitStack() as browsers:
        for _ in range(CONNECTIONS):
            browsers.enter_context(stream(page))
        with pytest.raises((OSError, WebSocketException)):  # the server hangs up
            stream(page)
    while True:  # until the server has seen that they are gone
        with suppress(OSError, WebSocketException), stream(page) as browser:
            assert browser.recv(timeout=LIMIT)
            break


def test_values_that_are_not_finite_are_null(page):
    """JSON knows no NaN; a browser could not read the frame."""
    with stream(page) as browser:
        browser.recv(timeout=LIMIT)
        bins = [bin_of(0, true=np.array([np.nan, 1.0])), bin_of(1)]
        bins[1].output[0] = np.inf
        received = frames(browser, page, bins)
    shown = [bin_ for frame in received for bin_ in frame["bins"]]
    assert shown[0]["true"] is None and shown[0]["decoded"] == [1.5, 0.0]
    assert shown[1]["decoded"] is None


def test_names_reach_the_page_as_text():
    """A label with markup is a string of the first message; the page shows it with textContent."""
    markup = "<img src=x onerror=alert(1)>"
    units = pd.DataFrame({"channel": [markup], "area": [markup], "row": [0]})
    sink = PageSink(SimpleNamespace(**vars(DECODER) | {"units": units}), port=0)
    with stream(sink) as browser:
        assert json.loads(browser.recv(timeout=LIMIT))["units"] == [f"{markup}/0"]
    text = get(sink.url)[2]
    sink.close()
    assert not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacent", "write("))
