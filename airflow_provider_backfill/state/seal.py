"""
The last line of a plan's file: a checksum of all earlier lines.

A plan says which SQL is run. Text that an editor or a copy has changed is not what was planned, shown and
agreed to, so it is refused. It is no signature: who may write in the state folder can make a plan of their own.
"""

import hashlib
import re

_SEAL = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n')
_LENGTH = len(b',\n  "sha256": ""\n}\n') + 64


def seal(document: bytes) -> bytes:
    """Return an indented JSON object, which ends with a brace on a line of its own, with its checksum as last key."""
    checksum = hashlib.sha256(document).hexdigest().encode()
    return document.removesuffix(b"\n}") + b',\n  "sha256": "' + checksum + b'"\n}\n'


def unseal(data: bytes) -> tuple[bytes, bool]:
    """Return the object without its checksum, and whether that is of this text; the bytes as they are without one."""
    found = _SEAL.fullmatch(data[-_LENGTH:])
    if found is None:
        return data, False
    document = data[:-_LENGTH] + b"\n}"
    return document, hashlib.sha256(document).hexdigest().encode() == found[1]
