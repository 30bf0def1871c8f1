"""A real S3 server process on loopback (moto), with a fresh bucket for each who asks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from uuid import uuid4

_SIGNED = "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"

# moto looks for its services on the disk at every request, with a lock held; that takes longer than the request.
# And it judges the condition of a write before it writes, in many threads: of two writers who create the same object at
# the same moment, both would be told that they have.
_PROGRAM = """
import sys, threading
from moto import backends, server
from moto.s3.responses import S3Response
found = list(backends.list_of_moto_modules())
backends.list_of_moto_modules = lambda: found
put, one = S3Response.put_object, threading.Lock()
def put_alone(self):
    with one:
        return put(self)
S3Response.put_object = put_alone
server.main(sys.argv[1:])
"""


class S3Server:
    """
    Starts the server on a free port; use it as a context manager.

    Attributes:
        url: Its address.
        config: What a client needs to reach it, by obstore's names.
    """

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.config = {
            "endpoint": self.url,
            "access_key_id": "test",
            "secret_access_key": "test",
            "region": "us-east-1",
        }
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> S3Server:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "-H", "127.0.0.1", "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5).close()  # noqa: S310 - our own server
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
            else:
                return self
        self.__exit__()
        raise RuntimeError(f"moto did not answer on {self.url}")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def new_bucket(self, name: str = "") -> str:
        """Create an empty bucket; its name."""
        name = name or f"state-{uuid4().hex[:12]}"
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.url}/{name}", method="PUT", headers={"Authorization": _SIGNED}
        )
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - our own server
        return name
