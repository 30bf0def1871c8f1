"""Secrets in text from outside: masked parts, unmasked parts, and the time that masking takes."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

import airflow_provider_backfill
from airflow_provider_backfill.clickhouse.address import parse_address
from airflow_provider_backfill.clickhouse.client import ClickHouse, from_client
from airflow_provider_backfill.clickhouse.server_errors import server_error
from airflow_provider_backfill.clickhouse.table_health import replica_facts
from airflow_provider_backfill.core.masking import (
    MESSAGE_LIMIT,
    is_secret_name,
    literal_calls,
    mask_message,
    mask_secrets,
)
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import ConfigError, ServerUnreachableError
from airflow_provider_backfill.state.store import open_store

PACKAGE = Path(airflow_provider_backfill.__file__).parent
MARKER = "hunter2secret"
HIDDEN = [
    f"http://u:{MARKER}@h:8123/x",
    f"(for url http://u:{MARKER}/x@h/x)",
    f"http://u:p@{MARKER}@h",
    f"u:{MARKER}@host:8123",
    f"mongodb://u:{MARKER}@h/db",
    f"http://u:{MARKER}",
    f"https://h/b?token={MARKER}&b=1",
    f"https://h/b?a=1&sig={MARKER}%2F",
    f"https://h/b?X-Amz-Signature={MARKER}&X-Amz-Credential={MARKER}/2/us",
    f"s3://b/p?aws_secret_access_key={MARKER}",
    f"access_key_id = '{MARKER}'",
    f"Authorization: Bearer {MARKER}",
    f'{{"password": "{MARKER}", "token": "{MARKER}"}}',
    f"IDENTIFIED WITH sha256_password BY '{MARKER}'",
    f"password '{MARKER} with ''more'' {MARKER}'",
    f"PASSWORD={MARKER}",
    f"DefaultEndpointsProtocol=https;AccountKey={MARKER}==;EndpointSuffix=x",
    f"SELECT * FROM s3('https://b/x.csv', 'AKIA{MARKER}', '{MARKER}', 'CSV')",
    f"SELECT * FROM S3Cluster('c', 'https://b/x.csv', 'AKIA', '{MARKER}')",
    f"FROM s3(/* it's */ 'u', 'AKIA', '{MARKER}')",
    f"FROM s3($$u$$, $$AKIA$$, $x${MARKER}$x$)",
    f"FROM s3(named, url = 'x', secret_access_key = '{MARKER}')",
    f"FROM url('http://u:{MARKER}@h/x', CSV, headers('Authorization' = 'Bearer {MARKER}'))",
    f"FROM postgresql('h:5432', 'db', 't', 'user', '{MARKER}'",
    f"FROM remote('h', db, t, 'user', '{MARKER}')",
    f"encrypt('aes-256-gcm', x, '{MARKER}')",
    f"ENGINE = MySQL('h:3306', 'db', 't', 'user', '{MARKER}')",
]
SHOWN = [
    "PRIMARY KEY: (a, b), sorting key: ts",
    "Unrecognized token: FORMAT",
    "default: Authentication failed: password is incorrect, or there is no user with such name.",
    "Unknown table expression identifier 'db.s3' in scope SELECT * FROM db.s3",
    "http://minio/bucket/a@b.csv",
    "Cannot reach http://127.0.0.1:8123/ (http://[::1]:8123/x)",
    "SELECT a, 'b' FROM t WHERE c = 'd'",
    "SELECT * FROM s3(named, filename = 'x.csv')",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_no_secret_is_left(text: str) -> None:
    for around in (text, f"Code: 210. DB::Exception: {text}: while reading", f"{text}\n{text}"):
        assert MARKER not in mask_secrets(around)


@pytest.mark.parametrize("text", SHOWN)
def test_what_is_no_secret_is_left(text: str) -> None:
    assert mask_secrets(text) == text


@pytest.mark.parametrize("spaces", range(0, 60, 7))
def test_a_long_message_is_cut_where_no_half_of_a_secret_is_left(spaces: int) -> None:
    """Without the ``@``, the text before it would not look like a password."""
    text = " " * spaces + "x" * (MESSAGE_LIMIT - 60) + f" http://u:{MARKER}@h/ " + "y" * MESSAGE_LIMIT
    masked = mask_message(text)
    assert len(masked) <= MESSAGE_LIMIT + 2
    assert MARKER[:4] not in masked


def test_the_error_of_a_server_holds_no_secret_and_no_other_error_that_does() -> None:
    """Whoever logs an error logs its causes as well."""
    text = f"Code: 210. DB::Exception: refused http://u:{MARKER}@h/?token={MARKER}. (NETWORK_ERROR) (version 26.7.3.1)"
    cause = OSError(f"http://u:{MARKER}@h")
    error = ConnectionError(text)
    error.__cause__ = cause
    found = server_error(error, "http://h:8123")
    assert MARKER not in str(found)
    assert found.__cause__ is None
    assert found.__context__ is None


def test_a_connection_of_the_caller_that_fails_is_an_unreachable_server() -> None:
    """A certificate's file that is missing, for example, is an OSError of the caller's client."""

    def open_client() -> NoReturn:
        raise FileNotFoundError(2, f"No such file (http://u:{MARKER}@h)")

    with pytest.raises(ServerUnreachableError, match="ClickHouse at connection x could not be reached") as failed:
        from_client(open_client, "connection x")
    assert MARKER not in str(failed.value)
    assert failed.value.__context__ is None


def test_an_error_of_a_replica_is_masked() -> None:
    """The entry of a queue may name the source of a fetch with its address."""
    row: tuple[object, ...] = ("d", "t", "r1", 0, 0, 0, 0, 0, 0, [], 2, f"cannot fetch from http://u:{MARKER}@h")
    server = cast("ClickHouse", SimpleNamespace(cluster="", rows=lambda *_: [row]))
    (found,) = replica_facts(server, [TableName("d", "t")])
    assert found.error.startswith("cannot fetch from http://")
    assert MARKER not in found.error


def test_calls_with_credentials_are_named_once() -> None:
    """The plan warns of these calls, because the plan's file contains them."""
    select = "SELECT * FROM s3('u', 'AKIA', 'secret') JOIN s3('v', 'AKIA', 'secret') JOIN url('http://u:p@h', 'CSV')"
    assert literal_calls(select) == ["s3", "url"]
    assert literal_calls("SELECT * FROM postgresql('h:5432', 'db', 't', 'user', 'x')") == ["postgresql"]
    assert literal_calls("SELECT * FROM s3('https://b/x.csv', 'CSV') JOIN url('http://h', 'CSV', 'a UInt8')") == []
    assert literal_calls("SELECT * FROM s3(named, filename = 'x.csv') WHERE encrypt('m', x, getMacro(k)) = ''") == []


def test_names_of_credentials_are_known() -> None:
    for name in ("password", "PASSWORD", "access_token", "X-Amz-Signature", "aws_secret_access_key", "sig", "api_key"):
        assert is_secret_name(name), name
    for name in ("connect_timeout", "user_agent", "tokens", "database", ""):
        assert not is_secret_name(name), name


@pytest.mark.parametrize(
    "address",
    [
        f"u:{MARKER}@host:8123",
        f"http://u:pa/{MARKER}@host:8123",
        f"http://u:1/{MARKER}@host",
        f"http://u:1?{MARKER}@host",
        f"http://u:1#{MARKER}",
        f"http://h/?password={MARKER}",
        f"http://h/?access_token={MARKER}",
        f"http://h/?{MARKER}",
        f"clickhouse://u:{MARKER}@h",
        f"{MARKER}://h",
        f"http://u:{MARKER}@h:port",
        f"http://u:{MARKER}@[h",
        f"http://{MARKER}@",
        f"http://h/?connect_timeout={MARKER}",
        "http://h/?connect_timeout=٣",
        "http://h:٨٠",
        "",
    ],
)
def test_an_address_that_cannot_be_read_is_not_shown(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(address)
    assert MARKER not in str(caught.value)


def test_what_is_shown_of_an_address_is_built_from_its_parts() -> None:
    address = parse_address(f"HTTPS://a%40b:p@{MARKER}@h/db?verify=false&connect_timeout=2")
    assert (address.user, address.password) == ("a@b", f"p@{MARKER}")
    assert address.location == "https://h:8443"
    assert address.shown == "https://a%40b@h:8443/db?verify=false&connect_timeout=2"
    assert address.tls_options == {"verify": False}
    assert address.client_options == {"connect_timeout": 2}
    assert MARKER not in repr(address)
    assert parse_address("http://[::1]:1").location == "http://[::1]:1"


@pytest.mark.parametrize(
    "folder",
    [
        f"s3://b/p?sig={MARKER}",
        f"s3://b/p?aws_secret_access_key={MARKER}",
        f"s3://key:{MARKER}@b/p",
        f"s3://key:pa/{MARKER}@b/p",
        f"abfss://c:{MARKER}@account.dfs.core.windows.net/p",
        f"gs://b/p#{MARKER}",
        f"ftp://u:{MARKER}@h/p",
        f"https://h/p?sig={MARKER}",
    ],
)
def test_a_state_folder_with_credentials_is_refused_unseen(folder: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(folder)
    assert MARKER not in str(caught.value)


# ---------------------------------------------------------------- time


def _patterns() -> Iterator[tuple[str, re.Pattern[str], str]]:
    """Yield every pattern in the package's source, with its flags and its use."""
    everything = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    # Those of the masking are made of parts, and have a test of their own below.
    for path in sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "core" / "masking.py"}):
        tree = ast.parse(path.read_text())
        names = {
            node.value: ast.unparse(node.targets[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("re.compile(")
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "re"):
                continue
            pattern = _text(node.args[0])
            name = next((name for value, name in names.items() if value is node), "")
            uses = set(re.findall(rf"\b{name}\.(\w+)\(", everything)) if name else {node.func.attr}
            if pattern is not None and node.func.attr != "escape":
                flags = " ".join(ast.unparse(part) for part in [*node.args[1:], *(k.value for k in node.keywords)])
                chosen = (re.IGNORECASE if "IGNORECASE" in flags else 0) | (re.DOTALL if "DOTALL" in flags else 0)
                method = (
                    "fullmatch" if uses <= {"fullmatch"} else "match" if uses <= {"match", "fullmatch"} else "search"
                )
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", re.compile(pattern, chosen), method


def _text(node: ast.expr) -> str | None:
    """Return a pattern as written; each inserted value counts as a word."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "name" for part in node.values)
    return None


_PIECES = [
    *(" ", "a", "1", "(", ")", "'", "`", '"', "\\", ",", ".", "@", ":", "/", "=", "-", "_", "\n", "?", "é"),
    *("a ", "1.", "a.", "a,", ",(", "(a", "a:", "''", "\\'", " (", "1'", "'_A", "1_A(", "a=", "--", "/*", "://", "x-"),
    *(
        "TableIdentifier ",
        "Function a.",
        " (alias ",
        " (children ",
        " TO a",
        "`a`.",
        "s3(",
        "password",
        "identified by",
    ),
    *("CREATE MATERIALIZED VIEW a ", " REFRESH ", "clickhouse-backfill ", "`clickhouse-backfill ", "airflow:a/", "#1"),
]


_PATTERNS = {place: (pattern, method) for place, pattern, method in _patterns()}


def _is_within(seconds: float, work: Callable[[], object]) -> bool:
    """Return whether one of five tries takes less processor time; other processes on the core make a try slower."""
    for _ in range(5):
        began = time.process_time()
        work()
        if time.process_time() - began < seconds:
            return True
    return False


@pytest.mark.parametrize("place", _PATTERNS)
def test_no_pattern_takes_time_that_grows_faster_than_the_text(place: str) -> None:
    """What is matched comes from others: a server, a file, a person. 16,000 spaces once took 6.5 s."""
    pattern, method = _PATTERNS[place]
    literals = re.findall(r"[A-Za-z]{4,} ?", pattern.pattern)[:2]
    for begin in ("", *literals[:1]):
        for piece in _PIECES:
            text = begin + piece * (8_000 // len(piece))
            match = partial(getattr(pattern, method), text)
            assert _is_within(0.12, match), f"{place}: {pattern.pattern!r} on {begin!r} and {piece!r} …"


@pytest.mark.parametrize("piece", _PIECES)
def test_masking_takes_time_that_grows_with_the_text(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    assert _is_within(3, lambda: (mask_secrets(text), literal_calls(text)))
