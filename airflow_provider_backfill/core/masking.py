"""
Mask secrets in text from outside: errors of a server, SELECTs, definitions of views.

Mask the user information of an address, the values of names such as ``password``, and the literals of functions that
take credentials by position. Mask doubtful cases too. The time is linear in the length of the text. This module is
pure.
"""

import re

MASK = "…"
MESSAGE_LIMIT = 4_000
"""
The maximum number of characters that are kept of a message: enough for a person, and few enough for the log of a
chunk that fails often.
"""

# Characters that end an address: white space, quotes, and characters that addresses do not contain.
_ENDS = " \t\n'\"`<>"
_TOKEN = re.compile(r"[^\s'\"`<>]+")
_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|(?:[a-z]+[_-]?)?(?:token|secret|signature|credentials?)|sig|sas|auth"
    r"|key|(?:access|account|api|private|secret|shared|encryption|aws)[_-]?(?:access[_-]?)?key(?:[_-]?id)?"
    r"|(?:x-)?(?:api|auth|amz|goog)[a-z-]{0,40}|authorization|identified\s{1,8}(?:with\s{1,8}\w{1,40}\s{1,8})?by"
)
# A pattern for the name of a secret (possibly without a prefix such as aws_) and the sign that assigns the value.
_NAMED = re.compile(
    rf"(?<![a-z0-9])(?P<name>{_NAMES})(?P<closed>['\"`]?)"
    r"(?P<sign>[ \t]{0,4}(?:=>|==|=|:(?!:))[ \t]{0,4}|%3d|[ \t]{1,4}(?=['\"]))",
    re.IGNORECASE,
)
# Words that are also common names of columns, tables and keys. Their values are masked only after =, ==, => or %3D, or
# if the name ends with a quote.
_COMMON = frozenset({"key", "token", "secret", "auth", "signature", "pass", "sas", "sig", "credential", "credentials"})
_BARE = re.compile(r"(?:(?:Bearer|Basic|Digest|AWS4-HMAC-SHA256)[ \t]{1,4})?[^\s&,;)}\]'\"`]+", re.IGNORECASE)
_CALL = re.compile(
    r"(?<![\w.])(?P<name>(?:s3|gcs|oss|cosn|azureBlobStorage|hdfs|url|remote|remoteSecure|postgresql|mysql|mongodb|redis"
    r"|odbc|jdbc|iceberg\w{0,20}|deltaLake\w{0,20}|hudi\w{0,20}|paimon\w{0,20}|arrowFlight|ytsaurus|COSN|OSS|GCS"
    r"|ExternalDistributed|MaterializedPostgreSQL|MaterializedMySQL|RabbitMQ|NATS|S3Queue|AzureQueue"
    r"|(?:try)?(?:en|de)crypt|aes_(?:en|de)crypt_mysql|HMAC)(?:Cluster)?)\s{0,8}\(",
    re.IGNORECASE,
)
# The pieces of a call: comments, literals, names, parentheses. Each piece begins where the piece before ends.
_PIECE = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|\$(?P<tag>\w{0,40})\$.*?(?:\$(?P=tag)\$|\Z)|'(?:[^'\\]|\\.|'')*(?:'|\Z)"
    r"|`(?:[^`\\]|\\.)*(?:`|\Z)|\"(?:[^\"\\]|\\.)*(?:\"|\Z)|[()]|[^-/$'`\"()]+|.",
    re.DOTALL,
)
_QUOTED = {
    quote: re.compile(rf"{quote}(?:[^{quote}\\]|\\.|{quote}{quote})*(?:{quote}|\Z)", re.DOTALL) for quote in "'\"`"
}


def mask_secrets(text: str) -> str:
    """Return the text with ``…`` in place of secrets and of possible secrets."""
    if "(" in text:
        text = _mask_calls(text)
    return _mask_named(_TOKEN.sub(_mask_address, text))


def shorten_message(text: str) -> str:
    """
    Return the message; cut a message of more than :data:`MESSAGE_LIMIT` characters and end it with ``…``.

    A message is never cut inside an address, because a half address is not recognised as an address. Call this function
    before any search in the message.
    """
    if len(text) <= MESSAGE_LIMIT:
        return text
    kept = text[:MESSAGE_LIMIT]
    return f"{kept[: max(kept.rfind(end) for end in _ENDS) + 1].rstrip()} {MASK}"


def mask_message(text: str) -> str:
    """Return a message that may be stored and shown: bounded in length and without secrets."""
    return mask_secrets(shorten_message(text))


def is_secret_name(name: str) -> bool:
    """Return whether *name* is a usual name of a credential, such as ``password`` or ``aws_secret_access_key``."""
    found = _NAMED.search(f"{name[:200]}=")
    return found is not None and found.end() == len(name[:200]) + 1


def literal_calls(select: str) -> list[str]:
    """
    Return the names of the functions in a SELECT whose literal arguments may contain credentials.

    The names are in order of appearance, without duplicates.
    """
    found: list[str] = []
    position = 0
    while (call := _CALL.search(select, position)) is not None:
        pieces, position = _pieces(select, call.end())
        literals = [piece for piece in pieces if piece[0] in "'$" and len(piece) > 2]
        signed = any(_NAMED.search(piece) or _TOKEN.sub(_mask_address, piece) != piece for piece in literals)
        if len(literals) > _HARMLESS.get(call["name"].lower(), 1) or signed:
            found.append(call["name"])
    return list(dict.fromkeys(found))


# The number of literals that a call without credentials may have (such as address and format, or address and tables),
# by the function's name in lower case. Calls of other functions may have 1.
_HARMLESS = {"s3": 2, "gcs": 2, "s3cluster": 3, "url": 3, "urlcluster": 4, "hdfs": 3, "hdfscluster": 4, "remote": 3}


def _mask_calls(text: str) -> str:
    kept, position = [], 0
    while (call := _CALL.search(text, position)) is not None:
        kept.append(text[position : call.end()])
        pieces, position = _pieces(text, call.end())
        literals = 0
        for piece in pieces:
            literals += piece[0] in "'$"
            # Keep the first literal, an address or a method. Other rules mask the secrets in an address.
            kept.append(f"'{MASK}'" if piece[0] in "'$" and literals > 1 and len(piece) > 2 else piece)
    return "".join([*kept, text[position:]])


def _pieces(text: str, position: int) -> tuple[list[str], int]:
    """
    Return the pieces of a call from *position* through the closing parenthesis, and the position after the pieces.

    Without a closing parenthesis, the call extends to the end of the text.
    """
    pieces, depth = [], 1
    while depth and (piece := _PIECE.match(text, position)) is not None:
        position = piece.end()
        depth += {"(": 1, ")": -1}.get(piece[0], 0)
        pieces.append(piece[0])
    return pieces, position


def _mask_address(match: re.Match[str]) -> str:
    """
    Return a word with ``…`` in place of its user information.

    The user information lies between ``://``, or the word's beginning, and the last ``@``. In a word without ``://``,
    user information must contain a colon. After ``://``, user information with a slash must contain a colon. Without an
    ``@``, an address whose port is not a number is masked after ``://``. Return other words unchanged.
    """
    word = match[0]
    before, at, after = word.rpartition("@")
    if not at:
        scheme, separator, rest = word.partition("://")
        port = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("]")[2].partition(":")[2].rstrip(".,;:)")
        # A server or client may have cut the address within the password, so that the ``@`` is missing.
        return f"{scheme}://{MASK}" if separator and port and not port.isdigit() else word
    begin = before.find("://")
    if begin >= 0:
        # A password may contain a slash or an ``@`` by mistake. A path with an ``@`` and no colon has no password.
        user = before[begin + 3 :]
        masked = ":" in user or "/" not in user
        return f"{before[: begin + 3]}{MASK}@{after}" if masked else word
    user, colon, _ = before.partition(":")
    return f"{MASK}@{after}" if colon and user else word


def _mask_named(text: str) -> str:
    kept, position = [], 0
    while (found := _NAMED.search(text, position)) is not None:
        kept.append(text[position : found.end()])
        position = found.end()
        common = found["name"].lower() in _COMMON
        sign = found["sign"].strip()
        if common and not found["closed"] and sign not in ("=", "%3d", "%3D", "=>", "=="):
            continue
        if (quote := text[position : position + 1]) in _QUOTED and quote:
            value = _QUOTED[quote].match(text, position)
            if value is not None and len(value[0]) > 1:
                kept.append(f"{quote}{MASK}{quote}")
                position = value.end()
        elif (value := _BARE.match(text, position)) is not None:
            kept.append(MASK)
            position = value.end()
    return "".join([*kept, text[position:]])
