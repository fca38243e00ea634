"""The event stream's parser, judged by botocore's on random splits and mutations."""

import random
import struct
import uuid
from typing import Any

import botocore.eventstream
import botocore.exceptions
import pytest

from providers._eventstream import MAX_FRAME_BYTES, Decoder, Message
from tests.bedrock.frames import encode, event, sealed

KINDS = range(10)


def ours(pieces: list[bytes]) -> tuple[list[Message], bool]:
    """The messages, and whether there was a fault."""
    decoder = Decoder()
    found = [message for piece in pieces for message in decoder.feed(piece)]
    return found, decoder.fault is not None


def theirs(pieces: list[bytes]) -> tuple[list[tuple[dict[str, Any], bytes]], bool]:
    buffer = botocore.eventstream.EventStreamBuffer()
    found: list[tuple[dict[str, Any], bytes]] = []
    try:
        for piece in pieces:
            buffer.add_data(piece)
            found.extend((message.headers, message.payload) for message in buffer)
    except (botocore.eventstream.ParserError, struct.error, UnicodeDecodeError, KeyError, IndexError):
        return found, True
    return found, False


def value(rng: random.Random, kind: int) -> object:
    if kind in (2, 3, 4, 5, 8):
        bits = {2: 8, 3: 16, 4: 32, 5: 64, 8: 64}[kind]
        return rng.randrange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    if kind == 6:
        return rng.randbytes(rng.randrange(20))
    if kind == 7:
        return "".join(rng.choice("aé東🦙\n") for _ in range(rng.randrange(12)))
    return uuid.UUID(int=rng.getrandbits(128)).bytes if kind == 9 else kind == 0


def message(rng: random.Random) -> bytes:
    headers = {f"h{i}{'é' * rng.randrange(2)}": rng.choice(KINDS) for i in range(rng.randrange(5))}
    said = {name: (kind, value(rng, kind)) for name, kind in headers.items()}
    return encode(said, rng.randbytes(rng.choice((0, 1, 30, 300))))


def split(rng: random.Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 1, 5, len(data)))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


CRAFTED = 4


def mutated(rng: random.Random, data: bytes, kind: int) -> bytes:
    """A flipped bit, a byte more or less, a piece lost, headers of any bytes with a good checksum; or nothing."""
    at = rng.randrange(len(data))
    match kind:
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + rng.randbytes(1) + data[at:]
        case 2:
            return data[:at] + data[at + 1 :]
        case 3:
            return data[:at]
        case _ if kind == CRAFTED:
            raw = rng.randbytes(rng.randrange(1, 30))
            return data + sealed(raw, b"x", headers_length=rng.choice((None, 0, len(raw) + 1, 2**20)))
        case _:
            return data


def compare(rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        kind = rng.randrange(6)
        data = mutated(rng, b"".join(message(rng) for _ in range(rng.randrange(1, 4))), kind)
        pieces = split(rng, data)
        (found, fault), (judge, judged_fault) = ours(pieces), theirs(pieces)
        if kind == CRAFTED and fault and not judged_fault:  # botocore reads a name of no length, and past the headers
            judge = judge[:-1]
        else:
            assert fault == judged_fault, data.hex()
        assert [(dict(m.headers), m.payload) for m in found] == judge


def test_it_reads_what_botocore_reads_on_5000_splits_and_mutations() -> None:
    compare(5_000, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_it_reads_what_botocore_reads_on_100000_splits_and_mutations(seed: int) -> None:
    compare(10_000, 100 + seed)


def test_b14_a_frame_split_at_every_byte_is_one_message() -> None:
    frame = event("contentBlockDelta", '{"delta":{"text":"ñ"}}'.encode())
    for at in range(len(frame) + 1):
        found, fault = ours([frame[:at], frame[at:]])
        assert (len(found), fault) == (1, False)
        assert found[0].headers[":event-type"] == "contentBlockDelta"


def test_every_type_of_header_is_read() -> None:
    id_ = uuid.uuid4()
    said = {"t": (0, True), "f": (1, False), "b": (2, -3), "s": (3, 300), "i": (4, -70_000), "l": (5, 2**40)}
    more = {"y": (6, b"\x00\xff"), "n": (7, "ñ"), "d": (8, 1_700_000_000_000), "u": (9, id_.bytes)}
    ((headers, payload),), fault = ours([encode({**said, **more}, b"p")])
    assert not fault
    assert payload == b"p"
    wanted = {"t": True, "f": False, "b": -3, "s": 300, "i": -70_000, "l": 2**40}
    assert headers == {**wanted, "y": b"\x00\xff", "n": "ñ", "d": 1_700_000_000_000, "u": id_.bytes}


@pytest.mark.parametrize("at", range(len(event("metadata", b"{}"))))
def test_b14_one_flipped_bit_anywhere_is_a_fault(at: int) -> None:
    frame = bytearray(event("metadata", b"{}"))
    frame[at] ^= 1
    decoder = Decoder()
    assert decoder.feed(bytes(frame)) == []
    decoder.end()
    assert decoder.fault is not None


def test_what_came_before_a_fault_is_still_given_and_nothing_after_it() -> None:
    good, bad = event("messageStart", b"{}"), bytearray(event("messageStop", b"{}"))
    bad[-1] ^= 1
    decoder = Decoder()
    assert len(decoder.feed(good + bytes(bad) + good)) == 1
    assert decoder.fault is not None
    assert decoder.fault.kind == "protocol"
    assert decoder.feed(good) == []


def test_b14_a_length_beyond_the_cap_is_refused_from_its_prelude_alone() -> None:
    decoder = Decoder()
    decoder.feed(sealed(b"", b"", total=MAX_FRAME_BYTES + 1)[:12])
    assert decoder.fault is not None
    assert decoder.fault.kind == "too_large"


@pytest.mark.parametrize(
    "frame",
    [
        sealed(b"", b"", total=15),
        sealed(b"\x01a\x00", b"", headers_length=4),
        sealed(b"", b"", headers_length=128 * 1024 + 1, total=1 << 20),
        sealed(b"\x05ab", b""),
        sealed(b"\x01a\x0c", b""),
        sealed(b"\x01a\x07\x00\x09ab", b""),
        sealed(b"\x01a\x09ab", b""),
        sealed(b"\x01a\x00\x01a\x00", b""),
        sealed(b"\x01\xff\x00", b""),
        sealed(b"\x00\x00", b""),
        sealed(b"\x01a\x05\x00", b""),
    ],
    ids=["short", "overrun", "headers", "name", "type", "string", "uuid", "twice", "utf8", "nameless", "number"],
)
def test_b14_headers_and_lengths_that_cannot_be_are_faults(frame: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(frame) == []
    assert decoder.fault is not None


def test_an_end_within_a_frame_is_said() -> None:
    decoder = Decoder()
    decoder.feed(event("messageStart", b"{}")[:-1])
    decoder.end()
    assert decoder.fault is not None
    assert decoder.fault.kind == "closed"
