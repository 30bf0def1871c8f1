"""
Seal a plan's file: its last key is a checksum of the other content.

A plan contains the SQL to run. Text that an editor or a copy has changed is refused, since nobody has approved it. The
seal is not a signature: anyone who may write in the state folder can create a plan.
"""

import hashlib
import re

_SEAL = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n')
_LENGTH = len(b',\n  "sha256": ""\n}\n') + 64


def seal(document: bytes) -> bytes:
    """
    Return an indented JSON object with its SHA-256 checksum as the last key.

    The object must end with a brace on a separate line.
    """
    checksum = hashlib.sha256(document).hexdigest().encode()
    return document.removesuffix(b"\n}") + b',\n  "sha256": "' + checksum + b'"\n}\n'


def unseal(data: bytes) -> tuple[bytes, bool]:
    """
    Return the object without its checksum, and whether the checksum matches.

    Bytes without a checksum are returned unchanged, with False.
    """
    found = _SEAL.fullmatch(data[-_LENGTH:])
    if found is None:
        return data, False
    document = data[:-_LENGTH] + b"\n}"
    return document, hashlib.sha256(document).hexdigest().encode() == found[1]
