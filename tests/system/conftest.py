"""Servers that the system tier needs beside ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A running S3 server, shared by all tests."""
    with S3Server() as server:
        yield server
