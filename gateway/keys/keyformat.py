"""What a key made at run time looks like: `arr_live_<secret>_<checksum>`. Pure apart from the dice.

Rule 1. The prefix is for secret scanners; the secret is 24 random bytes in base62; the checksum is the CRC-32 of all
        before it, so that whatever was not made here is known without looking anywhere.
"""

import re
import secrets
import zlib

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_BYTES, SECRET_LETTERS, CHECKSUM_LETTERS = 24, 33, 6
PREFIX = "arr_live_"
PATTERN = rf"{PREFIX}[0-9A-Za-z]{{{SECRET_LETTERS}}}_[0-9A-Za-z]{{{CHECKSUM_LETTERS}}}"
_whole = re.compile(PATTERN.encode()).fullmatch


def new_key() -> str:
    """A key that nobody has."""
    return key_of(int.from_bytes(secrets.token_bytes(SECRET_BYTES)))


def key_of(secret: int) -> str:
    """The key with that secret."""
    body = PREFIX + _base62(secret, SECRET_LETTERS)
    return f"{body}_{_checksum(body.encode())}"


def is_key(text: bytes) -> bool:
    """Whether it can have been made by `new_key`."""
    if not _whole(text):
        return False
    body, _, checksum = text.rpartition(b"_")
    return _checksum(body).encode() == checksum


def _checksum(body: bytes) -> str:
    return _base62(zlib.crc32(body), CHECKSUM_LETTERS)


def _base62(number: int, letters: int) -> str:
    found = []
    for _ in range(letters):
        number, digit = divmod(number, 62)
        found.append(ALPHABET[digit])
    return "".join(reversed(found))
