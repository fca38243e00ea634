"""The form of keys made at run time: told from anything else by itself, and never the same twice."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.keyformat import ALPHABET, PATTERN, is_key, new_key


def test_a_new_key_has_the_form_that_secret_scanners_are_told() -> None:
    key = new_key()
    assert re.fullmatch(PATTERN, key)
    assert key.startswith("arr_live_")
    assert is_key(key.encode())


def test_keys_are_never_the_same() -> None:
    assert len({new_key() for _ in range(10_000)}) == 10_000


@given(st.integers(0, 54), st.sampled_from(ALPHABET))
def test_one_wrong_letter_is_seen(at: int, letter: str) -> None:
    key = new_key()
    at %= len(key)
    changed = key[:at] + letter + key[at + 1 :]
    assert is_key(changed.encode()) == (changed == key)


@given(st.binary(max_size=80))
def test_anything_else_is_no_key(text: bytes) -> None:
    assert not is_key(text)


def test_a_key_with_something_around_it_is_none() -> None:
    key = new_key().encode()
    for changed in (key + b"\n", b" " + key, key[:-1], key + b"0", key.upper(), key + key):
        assert not is_key(changed)
