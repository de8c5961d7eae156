"""HTTP as an attacker writes it, on a real socket: 4xx or a closed connection, never a 5xx, never a hang."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import time
import zlib

import pytest
from support.fake_chat_model import wait_until
from support.raw_http import connected, cut_off, exchanged, posted, statuses, until_closed

from ptune_serve.http import body as reading
from ptune_serve.http import protocol
from ptune_serve.http.framing import MAX_HEADERS

BODY = json.dumps({"model": "base", "messages": [{"role": "user", "content": "hi"}]}).encode()
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Smuggled: 1\r\n\r\n"
LENGTH = f"Content-Length: {len(BODY)}"


def only(served, request: bytes) -> int:
    """The status of the one answer to some bytes."""
    answered = statuses(exchanged(served.url, request))
    assert len(answered) == 1, answered
    served.chat().raise_for_status()
    return answered[0]


@pytest.fixture(autouse=True)
def _no_tracebacks(caplog):
    yield
    assert "Traceback" not in caplog.text


def test_a_plain_request_is_answered(served):
    assert only(served, posted(BODY, LENGTH, "Connection: close")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        (LENGTH, "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", LENGTH),
        ("Transfer-Encoding: chunked", "Content-Length: 0"),
        (LENGTH, "Content-Length: 5"),
        (LENGTH, "Content-Length: 0"),
        (f"Content-Length: {len(BODY)}, 5",),
        ("Content-Length: +5",),
        ("Content-Length: -1",),
        ("Content-Length: 0x10",),
        ("Content-Length: 1_0",),
        ("Content-Length: 5 5",),
        ("Content-Length: " + "9" * 30,),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Content-Length\x00: 5",),
    ],
    ids=repr,
)
def test_a_body_whose_end_is_unclear_is_refused_and_the_connection_closed(served, headers):
    """What follows must never be read as a request of its own: that is how requests are smuggled past a proxy."""
    chunked = b"0\r\n\r\n" + SMUGGLED
    for body in (chunked, BODY + SMUGGLED):
        answered = statuses(exchanged(served.url, posted(body, *headers)))
        assert answered in ([400], [501], [413]), answered
    served.chat().raise_for_status()


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloworld0\r\n\r\n",
        b"fffffffffffffffffff\r\nhello\r\n",
        b"5;" + b"x" * 100_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_chunks_that_cannot_be_read(served, body):
    answered = statuses(cut_off(served.url, posted(body, "Transfer-Encoding: chunked")))
    assert answered in ([], [400]), answered
    served.chat().raise_for_status()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health\r\n\r\n",
        b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
        b"GET /he\x00alth HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda raw: repr(raw[:40]),
)
def test_what_is_no_http_gets_an_error_object(served, request_bytes):
    received = exchanged(served.url, request_bytes)
    answered = statuses(received)
    assert answered in ([400], [505]), received
    error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    served.chat().raise_for_status()


def test_a_folded_header_is_no_header_of_its_own(served):
    """It belongs to the line before, which makes that one's type unknown; the length still decides."""
    answered = statuses(
        exchanged(served.url, posted(BODY, " Transfer-Encoding: chunked", LENGTH, "Connection: close"))
    )
    assert answered in ([415], [400])


def test_bare_line_feeds_begin_no_second_request(served):
    """They are taken for line ends, as RFC 9112 allows, in heads; the body's length still decides where it ends."""
    head = posted(b"", LENGTH, "Connection: close").replace(b"\r\n", b"\n")
    request = head + BODY + SMUGGLED
    assert statuses(exchanged(served.url, request)) in ([200], [400])
    hidden = posted(BODY, LENGTH, "Connection: close", "X: a\nTransfer-Encoding: chunked")
    assert statuses(exchanged(served.url, hidden)) == [400]


def test_pipelined_requests_are_answered_in_order(served):
    both = posted(BODY, LENGTH) + posted(BODY, LENGTH, "Connection: close", path="/v1/nothing")
    assert statuses(exchanged(served.url, both)) == [200, 404]


def test_too_many_headers(served):
    many = [f"X-{number}: 1" for number in range(MAX_HEADERS)]
    assert only(served, posted(BODY, LENGTH, *many)) == 431
    assert only(served, posted(BODY, LENGTH, "Connection: close", *many[:50])) == 200


@pytest.mark.parametrize("name", ["Content-Type: application/json", "Authorization: Bearer x", "Host: y"])
def test_headers_that_count_once(served, name):
    twice = [name, name] if name.startswith("Auth") else [name]
    assert only(served, posted(BODY, LENGTH, *twice)) == 400


@pytest.mark.parametrize("where", ["name", "value", "path", "line"])
def test_a_head_that_is_too_large(served, where):
    large = "x" * 200_000
    request = {
        "name": posted(BODY, LENGTH, f"{large}: 1"),
        "value": posted(BODY, LENGTH, f"X: {large}"),
        "path": posted(BODY, LENGTH, path=f"/{large}"),
        "line": large.encode(),
    }[where]
    assert only(served, request) in (400, 431)


def test_a_body_that_says_it_is_huge_is_not_waited_for(served):
    with connected(served.url) as client:
        client.sendall(posted(b"", "Content-Length: 99999999999"))
        received = client.recv(65536)
    assert statuses(received) == [413]


@pytest.mark.parametrize("packed", [gzip.compress(b" " * 50_000_000), zlib.compress(b" " * 50_000_000)])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
def test_packed_bodies_are_not_unpacked(served, packed, coding):
    headers = {"content-type": "application/json", "content-encoding": coding}
    response = served.http.post("/v1/chat/completions", content=packed[:1000], headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_content_encoding"


# Slow on purpose.


def _dripped(client: socket.socket, piece: bytes, every_s: float = 0.02) -> float:
    """Sends a piece again and again until the server has closed; how long that took."""
    begun_s = time.monotonic()
    client.settimeout(every_s)
    while time.monotonic() - begun_s < 120:
        try:
            client.sendall(piece)
            if client.recv(65536) == b"":
                return time.monotonic() - begun_s
        except TimeoutError:
            continue
        except (ConnectionError, BrokenPipeError):
            return time.monotonic() - begun_s
    raise AssertionError("the server went on waiting")


@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_comes_drop_by_drop_has_a_deadline(served, monkeypatch, begun):
    """Each drop is progress, but it does not put the end off (slowloris)."""
    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 0.5)
    with connected(served.url) as client:
        client.sendall(begun)
        _dripped(client, b"x" if not begun else b"X: y\r\n")
    served.chat().raise_for_status()


def test_a_connection_without_a_request_is_closed(served, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 0.2)
    with connected(served.url) as client:
        assert until_closed(client) == b""


def test_a_body_that_comes_drop_by_drop_has_a_deadline(served, monkeypatch):
    monkeypatch.setattr(reading, "UPLOAD_LIMIT_S", 0.5)
    with connected(served.url) as client:
        client.sendall(posted(b"{", "Content-Length: 100000", "Connection: close"))
        received = client.recv(65536)
        assert statuses(received) == [408]


def test_a_body_that_nobody_reads_has_a_deadline_too(served, monkeypatch):
    """The answer is there at once, and the client goes on sending what is thrown away."""
    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 0.5)
    with connected(served.url) as client:
        client.sendall(posted(b"{", "Content-Length: 100000000", path="/v1/nothing"))
        assert statuses(client.recv(65536)) == [404]
        _dripped(client, b" ")


def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut(served, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 1.0)  # long enough for the head, however busy the machine
    served.engine.may_end = 0
    with connected(served.url) as client:
        client.sendall(posted(BODY, LENGTH, "Connection: close"))
        wait_until(lambda: served.engine.requests)
        time.sleep(1.2)
        served.engine.may_end = 1
        assert statuses(until_closed(client)) == [200]


def test_a_client_that_does_not_read_its_answer_loses_it(served, monkeypatch):
    monkeypatch.setattr(protocol, "STALL_LIMIT_S", 0.3)
    prompts = [[65] * 100] * 64  # megabytes more of answers than the system holds for a client
    fields = {"echo": True, "logprobs": 20, "max_tokens": 300, "stream": True}
    body = json.dumps({"model": "base", "prompt": prompts, **fields}).encode()
    served.engine.script = "x" * 300
    with connected(served.url) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(posted(body, f"Content-Length: {len(body)}", path="/v1/completions"))
        wait_until(lambda: served.service.running)
        wait_until(lambda: not served.service.running)
    served.chat().raise_for_status()


def test_many_who_say_nothing_keep_nobody_out(served):
    idle = [connected(served.url) for _ in range(100)]
    try:
        for client in idle[::2]:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
        served.chat().raise_for_status()
    finally:
        for client in idle:
            client.close()


# What comes back in headers.


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rX-Evil: 1", "ü", "a b", "x" * 300])
def test_what_a_client_says_is_not_written_into_headers(served, evil, caplog):
    with caplog.at_level(logging.DEBUG):
        responses = [
            served.chat(model=evil),
            served.chat(user=evil),
            served.complete("x", model=evil),
            served.http.get("/v1/models/" + evil.replace("\r", "%0d").replace("\n", "%0a")),
            served.http.get("/v1/models", params={"x": evil}),
        ]
    for response in responses:
        assert response.status_code < 500
        assert "x-evil" not in response.headers
        assert len(response.headers["x-request-id"]) <= 128
        assert "\n" not in response.headers.get("x-ptune-adapter", "")
    own = [record.getMessage() for record in caplog.records if record.name.startswith(("ptune", "uvicorn"))]
    assert own
    assert "X-Evil" not in "".join(own)


@pytest.mark.parametrize("given", [b"a\tb", b"a b", b"\xff", b"x" * 129, b"<b>", b"{}", b"a;b", b""])
def test_an_odd_request_id_is_replaced(served, given):
    response = served.http.get("/health", headers=[(b"x-request-id", given)])
    assert response.headers["x-request-id"].encode() != given
    assert response.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/v1/models/../../etc/passwd", "/../etc/passwd", "//etc/passwd", "/v1/models/..%2f..%2fx", "/%00"],
)
def test_paths_lead_nowhere(served, path):
    """As they are: client libraries would have put them in order."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    assert only(served, request) in (400, 404)


def test_nothing_is_offered_to_other_origins(served):
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for method, path in (("OPTIONS", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/health")):
        response = served.http.request(method, path, headers=headers)
        assert not [name for name in response.headers if name.startswith("access-control-")]
        assert response.status_code in (200, 405)
        assert response.headers["x-content-type-options"] == "nosniff"


def test_a_websocket_is_not_opened(served):
    request = (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    request += (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"  # not to wait for its end
    )
    assert 101 not in statuses(exchanged(served.url, request))
