"""Statements over plain HTTP: what is sent, whole answers only, and no change of data that is sent twice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from urllib3 import PoolManager, ProxyManager, Timeout

from airflow_provider_backfill.clickhouse.wire import Refusal, Wire, wire_of

HEAD = b"HTTP/1.1 200 OK\r\nX-ClickHouse-Progress: {}\r\nX-ClickHouse-Progress: {}\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\n1\t2\r\n1\r\n\n\r\n0\r\n\r\n"
SIZED = HEAD + b"Content-Length: 2\r\nX-ClickHouse-Summary: {}\r\n\r\n7\n"
UNTIL_THE_END = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n8\n"
# The scripted server closes the connection without a byte.
NOTHING = b""


class Setting(NamedTuple):
    """A setting as the client library shows it."""

    readonly: int


class FakeClient:
    """What :class:`Wire` reads of the client library's client."""

    def __init__(self, url: str, **given: Any) -> None:
        self.url, self.database, self.server_host_name = url, "b", None
        self.headers = {"Authorization": "Basic eA=="}
        self.params: dict[str, str] = {"readonly_cancel": "1"}
        self.timeout, self.http = Timeout(connect=2, read=2), PoolManager()
        self.server_settings = {"max_threads": Setting(0), "force_index": Setting(1)}
        self.__dict__.update(given)


class Script:
    """A server that gives scripted answers, in turn, and keeps the requests; each request is a list entry."""

    def __init__(self, answers: list[bytes]) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = iter(answers)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                there, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._serve(there)

    def _serve(self, there: socket.socket) -> None:
        with there, there.makefile("rb") as reader:
            while head := b"".join(iter(reader.readline, b"\r\n")) if reader.peek() else b"":
                size = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + reader.read(size))
                answer = next(self._answers)
                there.sendall(answer)
                if answer in (NOTHING, UNTIL_THE_END) or b"close" in answer or b"cut" in answer:
                    return

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.close()


@pytest.fixture
def script() -> Iterator[Callable[..., tuple[Script, Wire]]]:
    """Return a function that starts a server with these answers, and connects to it."""
    running: list[Script] = []

    def start(*answers: bytes) -> tuple[Script, Wire]:
        running.append(Script(list(answers)))
        return running[-1], Wire(FakeClient(running[-1].url))

    yield start
    for each in running:
        each.close()


@pytest.mark.parametrize(("answer", "body"), [(CHUNKED, b"1\t2\n"), (SIZED, b"7\n"), (UNTIL_THE_END, b"8\n")])
def test_an_answer_is_read_to_its_end(script: Any, answer: bytes, body: bytes) -> None:
    _, wire = script(answer)

    assert wire.send("SELECT 1", {}, again=True).body == body


def test_a_statement_goes_out_with_user_database_and_settings(script: Any) -> None:
    server, wire = script(SIZED)

    answer = wire.send("SELECT 'ä'", {"max_threads": 3, "query_id": "a b"}, again=True)

    head, body = server.requests[0].rsplit(b"\r\n", 1)
    assert body == "SELECT 'ä'".encode()
    assert head.startswith(b"POST /?readonly_cancel=1&max_threads=3&query_id=a+b&database=b HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Basic eA==" in head
    assert answer.headers["x-clickhouse-summary"] == "{}"


def test_one_connection_serves_statement_after_statement(script: Any) -> None:
    server, wire = script(CHUNKED, SIZED, SIZED)

    for _ in range(3):
        wire.send("SELECT 1", {}, again=False)

    assert (server.connections, len(server.requests)) == (1, 3)


@pytest.mark.parametrize("closing", [UNTIL_THE_END, SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_a_closed_connection_is_not_used_again(script: Any, closing: bytes) -> None:
    server, wire = script(closing, SIZED)

    for _ in range(2):
        wire.send("INSERT INTO t SELECT 1", {}, again=False)

    assert (server.connections, len(server.requests)) == (2, 2)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again(script: Any) -> None:
    # The server promises to keep the connection, and closes it: a restart, or its own time limit.
    server, wire = script(SIZED.replace(b"{}", b"{closed}", 1).replace(b"closed", b"close", 1), SIZED)
    wire.send("SELECT 1", {}, again=False)
    while wire._idle[0].is_usable():
        pass

    wire.send("INSERT INTO t SELECT 1", {}, again=False)

    assert (server.connections, len(server.requests)) == (2, 2)


def test_a_change_without_an_answer_is_not_sent_again(script: Any) -> None:
    # The server may have executed the statement before it closed the connection.
    server, wire = script(SIZED, NOTHING, SIZED)
    wire.send("SELECT 1", {}, again=False)

    with pytest.raises(ConnectionError, match=r"closed connection without response|reset"):
        wire.send("INSERT INTO t SELECT 1", {}, again=False)

    assert len(server.requests) == 2


def test_a_question_without_an_answer_is_asked_again(script: Any) -> None:
    server, wire = script(SIZED, NOTHING, CHUNKED)
    wire.send("SELECT 1", {}, again=True)

    assert wire.send("SELECT 1, 2", {}, again=True).body == b"1\t2\n"

    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\ncut", id="within a piece"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\ncut\r\n", id="before the last piece"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\ncut", id="before its length"),
        pytest.param(HEAD + b"X-cut", id="within the headers"),
        pytest.param(b"cut\r\n\r\n", id="no HTTP"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\ncut\r\n", id="no length"),
    ],
)
def test_a_part_of_an_answer_is_an_error(script: Any, answer: bytes) -> None:
    _, wire = script(answer)

    with pytest.raises(ConnectionError):
        wire.send("SELECT 1", {}, again=True)

    assert wire._idle == []


def test_a_refusal_has_the_number_and_the_name_of_the_error(script: Any) -> None:
    text = b"Code: 60. DB::Exception: No (INNER_NAME) table. (UNKNOWN_TABLE) (version 26.7.1.1)"
    refusal = b"HTTP/1.1 404 Not Found\r\nX-ClickHouse-Exception-Code: 60\r\nContent-Length: %d\r\n\r\n%s"
    _, wire = script(refusal % (len(text), text), SIZED)

    with pytest.raises(Refusal, match=r"No .INNER_NAME. table") as error:
        wire.send("SELECT 1 FROM t", {}, again=True)

    assert (error.value.code, error.value.name) == (60, "UNKNOWN_TABLE")
    assert wire.send("SELECT 1", {}, again=True).body == b"7\n"


def test_an_error_of_a_server_in_between_is_no_refusal(script: Any) -> None:
    _, wire = script(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nbad")

    with pytest.raises(ConnectionError, match="HTTP status 502: bad"):
        wire.send("SELECT 1", {}, again=True)


@pytest.mark.parametrize(
    ("settings", "taken"),
    [({"max_threads": 1, "query_id": "x"}, True), ({"force_index": 1}, False), ({"unknown": 1}, False)],
)
def test_settings_that_the_server_does_not_let_pass_stay_with_the_library(
    settings: dict[str, Any], taken: bool
) -> None:
    assert Wire(FakeClient("http://127.0.0.1:1")).takes(settings) is taken


@pytest.mark.parametrize(
    ("url", "given", "plain"),
    [
        ("http://h:8123", {}, True),
        ("https://h:8443", {}, False),
        ("http://h:8123", {"http": ProxyManager("http://p:1")}, False),
        ("http://h:8123", {"server_host_name": "other"}, False),
        ("http://h:8123", {"_token_provider": lambda: "t"}, False),
        ("http://h:8123", {"params": {"session_id": "s"}}, False),
    ],
)
def test_only_plain_http_does_without_the_library(url: str, given: dict[str, Any], plain: bool) -> None:
    client: Any = FakeClient(url, **given)

    assert (wire_of(client) is not None) is plain
    assert wire_of(client) is wire_of(client)
