"""``--notify`` sends the end of a run to an address, retries, and never shows the address."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from airflow_provider_backfill.cli.notify import notify


class _Receiver(HTTPServer):
    answers: list[int]
    bodies: list[dict[str, Any]]


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self.send_response(self.server.answers.pop(0))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    """A server that answers with the codes it is given."""
    server = _Receiver(("127.0.0.1", 0), _Handler)
    server.answers, server.bodies = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _url(server: _Receiver) -> str:
    return f"http://127.0.0.1:{server.server_port}/hook?token=s3cret"


@pytest.mark.parametrize(
    ("answers", "calls", "problem"),
    [
        ([200], 1, ""),
        ([500, 204], 2, ""),
        ([503, 503, 503], 3, "the answer was 503"),
        ([404], 1, "the answer was 404"),
    ],
)
def test_a_message_is_tried_again_while_that_helps(
    receiver: _Receiver, answers: list[int], calls: int, problem: str
) -> None:
    receiver.answers = answers
    assert notify(_url(receiver), {"status": "completed"}, pause=0.0) == problem
    assert receiver.bodies == [{"status": "completed"}] * calls


def test_nobody_there_is_told_without_the_address(receiver: _Receiver) -> None:
    url = _url(receiver)
    receiver.shutdown()
    receiver.server_close()
    problem = notify(url, {}, pause=0.0)
    assert problem
    assert "s3cret" not in problem
