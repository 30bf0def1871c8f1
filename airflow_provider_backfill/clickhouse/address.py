"""
Parse the address of a ClickHouse, and show it without secrets.

An address is shown as its parsed parts without the password. An error about an address that cannot be parsed quotes
at most the name of a parameter from the address.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ..core.masking import is_secret_name
from ..errors import Advice, ConfigError, Flag

_HINT = Advice(
    "write {}, or chdb:///path for the embedded engine", Flag("--clickhouse-url", "http://user@host:8123/database")
)
_ESCAPE = Advice(
    "give the password in CLICKHOUSE_PASSWORD or {}; in an address, / ? # @ are %2F %3F %23 %40",
    Flag("--password-file"),
)
_SECONDS = re.compile(r"[1-9][0-9]{0,6}")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}
# The query parameters that an address may have, and the kind of each value. The client takes _CLIENT; its connection
# pool takes _TLS. Both take client_cert.
_CLIENT = {"connect_timeout": "seconds", "send_receive_timeout": "seconds", "client_name": "text", "proxy_path": "text"}
_TLS = {"verify": "true or false", "ca_cert": "file", "client_cert": "file", "client_cert_key": "file"}
_PARAMETERS = {**_CLIENT, **_TLS}


@dataclass(frozen=True, slots=True)
class Address:
    """
    The address of a ClickHouse server with the user, or of an embedded engine.

    Attributes:
        host: The host of the server; empty for an embedded engine.
        port: The port of the server; 0 for an embedded engine.
        path: The path of the embedded engine; empty for a server.
        password: The decoded password; None if the address has none.
        parameters: The query parameters by name; each value is a number of seconds, a truth value or a text.
        database: The database for names without a database; empty for the user's default.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    user: str = ""
    password: str | None = field(default=None, repr=False)
    database: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """Scheme, host and port without the user; for an embedded engine, scheme and path."""
        if self.path:
            return f"{self.scheme}://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The address without the password, in a form that a person can paste."""
        if self.path:
            return self.location
        scheme, _, place = self.location.partition("://")
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        database = f"/{quote(self.database, safe='')}" if self.database else ""
        texts = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in self.parameters.items()
        }
        return f"{scheme}://{user}{place}{database}" + (f"?{urlencode(texts)}" if texts else "")

    @property
    def client_options(self) -> dict[str, Any]:
        """The query parameters of the address for the ClickHouse client; times are whole seconds."""
        return {name: value for name, value in self.parameters.items() if name in _CLIENT or name == "client_cert"}

    @property
    def tls_options(self) -> dict[str, Any]:
        """The query parameters of the address for TLS, as arguments of the client's connection pool."""
        return {name: value for name, value in self.parameters.items() if name in _TLS}


def parse_address(text: str) -> Address:
    """
    Parse ``http[s]://user@host:port/database`` or ``chdb:///path``.

    A server's address without a port gets port 8443 for https and 8123 for http.

    Raises:
        ConfigError: The address is invalid, or its query has a credential, an unknown parameter or an invalid value.
            The message quotes at most the name of a parameter.
    """
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise _refused("has no scheme")
    if scheme not in ("http", "https", "chdb"):
        raise _refused("begins with none of http://, https:// and chdb://")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _refused("has a host or a port that cannot be read", _ESCAPE if "@" in text else _HINT) from None
    if "@" in parts.path + parts.query + parts.fragment and scheme != "chdb":
        raise _refused("has an @ behind its host", _ESCAPE)
    if parts.fragment:
        raise _refused("has a #", _ESCAPE)
    if scheme == "chdb":
        if parts.netloc or parts.query or not parts.path:
            raise _refused("names no path" if not parts.path else "has more than a path")
        return Address("chdb", path=parts.path)
    if not parts.hostname:
        raise _refused("has no host")
    return Address(
        scheme,
        host=parts.hostname,
        port=port or (8443 if scheme == "https" else 8123),
        user=unquote(parts.username or ""),
        password=None if parts.password is None else unquote(parts.password),
        database=unquote(parts.path.strip("/")),
        parameters=dict(_parameters(parts.query)),
    )


def _parameters(query: str) -> list[tuple[str, Any]]:
    found = []
    for name, text in parse_qsl(query, keep_blank_values=True):
        kind = _PARAMETERS.get(name)
        if kind is None:
            known = f"known are {', '.join(_PARAMETERS)}; settings of a query go into the SELECT or the user's profile"
            if is_secret_name(name):
                raise _refused(f"has a credential in its query ({name})", _ESCAPE)
            shown = f" {name!r}" if text and re.fullmatch(r"[a-z][a-z_]{0,40}", name) else ""
            raise _refused(f"has a parameter{shown} that is not known", Advice(known))
        value: Any = text
        if kind == "seconds" and _SECONDS.fullmatch(text):
            value = int(text)
        elif kind == "true or false" and text.lower() in _SWITCH:
            value = _SWITCH[text.lower()]
        elif kind in ("seconds", "true or false") or not text:
            raise _refused(f"has a {name} that is not {kind}", Advice(f"write {name}=… with {kind}"))
        found.append((name, value))
    return found


def _refused(problem: str, remedy: Advice = _HINT) -> ConfigError:
    return ConfigError(f"The address of the ClickHouse {problem}.", remedy=remedy)
