"""Send the result of a run to a web address."""

import json
import time
from typing import Any
from urllib.parse import urlsplit

from ..errors import RequestError

_TRIES = 3
_SECONDS = 10.0


def check_address(url: str) -> str:
    """
    Return *url* if a message can be sent to it.

    Raises:
        RequestError: *url* is not an http or https address, or contains a user, which a POST would not send.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError("--notify takes an http or https address.", hint="write --notify https://host/path")
    if parts.username is not None:
        raise RequestError(
            "--notify takes an address without a user and password.",
            hint="write --notify https://host/path, with a token in the path or the query if the host wants one",
        )
    return url


def notify(url: str, payload: dict[str, Any], *, pause: float = 1.0) -> str:
    """
    Send *payload* as JSON by POST, in at most three tries.

    Give up at once after an HTTP error below 500 other than 429.

    Args:
        pause: Seconds before the second try; the pause before the third try is twice as long.

    Returns:
        The reason for the failure, without the address, which may contain a token; empty on success.
    """
    # Importing urllib.request costs more than the start of the program, and few runs send messages.
    import urllib.error
    import urllib.request

    body = json.dumps(payload).encode()
    headers = {"Content-Type": "application/json"}
    problem = ""
    for number in range(_TRIES):
        if number:
            time.sleep(pause * 2 ** (number - 1))
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - the scheme was checked
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310 - as above
                return ""
        except urllib.error.HTTPError as error:
            problem = f"the answer was {error.code}"
            if error.code < 500 and error.code != 429:
                return problem
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            problem = reason.strerror or "no answer" if isinstance(reason, OSError) else "no answer"
    return problem
