"""Turn errors of the client library into the product's own errors, and refuse settings that a user may not change."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.masking import mask_message, mask_secrets, shorten_message
from ..core.retry import ERROR_NAMES
from ..errors import Advice, Flag, ServerError, ServerUnreachableError, StatementRefusedError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client
    from clickhouse_connect.driver.models import SettingDef

# The parts of a server's error text that add nothing to the message: prefixes, version, URL and error name.
# Each repetition is bounded, because the text comes from outside and may contain thousands of spaces.
_NOISE = re.compile(
    r"^Received ClickHouse exception, code: \d{1,9}, server response: |^Code: \d{1,9}\. DB::Exception: "
    r"|\s?\(version [\d.]{1,40}(?: \([^)]{0,80}\))?\)|\s?\(for url [^)]{0,400}\)|\s?\([A-Z][A-Z0-9_]{1,80}\)\s?$",
)
_VIOLATION = ("SETTING_CONSTRAINT_VIOLATION", 452)
CONSTRAINED = frozenset({"READONLY", _VIOLATION[0]})
"""ClickHouse's names of the errors for a setting that the user may not change."""


def is_changeable(setting: "SettingDef | None") -> bool:
    """Return whether the server knows a setting, and this user may change the setting."""
    return setting is not None and not int(setting.readonly)


def refuse_constrained(client: "Client", settings: Mapping[str, Any]) -> None:
    """
    Refuse settings that the server would refuse. The client library would refuse them as if the network had failed.

    Raises:
        StatementRefusedError: This user may not change one of the settings, and the setting has another value.
    """
    for name, value in settings.items():
        setting = client.server_settings.get(name)
        if setting is None or is_changeable(setting) or setting.value == str(value):
            continue
        reason = f"this user may not change the setting {name}, which is {setting.value or 'empty'}"
        error, code = _VIOLATION
        raise StatementRefusedError(
            f"ClickHouse would refuse the statement: {reason} ({code} {error})",
            code=code,
            name=error,
            reason=reason,
            remedy=Advice(
                "remove readonly, or the constraint on {}, from the user's profile, or connect as another user; "
                "`doctor` lists all such settings",
                name,
            ),
        )


def _network_reason(error: BaseException) -> str:
    """Return why a connection failed: the system's reason, or the error's text and, if there is one, the root cause."""
    text, inner = str(error), error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    if isinstance(inner, OSError):
        return inner.strerror or str(inner) or text
    return text if inner is error else f"{text}: {inner}"


def server_error(error: Exception, address: str) -> ServerError:
    """Return an error of the client library, or of the network, as the product's own error, without secrets."""
    code: int | None = getattr(error, "code", None)
    text = shorten_message(str(error)).strip()
    if code is None:
        return ServerUnreachableError(
            f"ClickHouse at {address} could not be reached ({mask_message(_network_reason(error))}).",
            remedy=Advice(
                "check that it runs and that {}, CLICKHOUSE_URL or the Airflow connection points to it",
                Flag("--clickhouse-url"),
            ),
        )
    name = getattr(error, "name", None) or ERROR_NAMES.get(code, "")
    while (shorter := _NOISE.sub("", text)) != text:
        text = shorter.strip()
    text = mask_secrets(text)
    message = f"ClickHouse refused the statement: {text} ({code} {name})"
    return StatementRefusedError(message, code=code, name=name, reason=text)
