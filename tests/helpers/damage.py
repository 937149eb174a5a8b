"""Damaged bytes, JSON and safetensors, drawn at random."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

LEAVES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "\0",
    [],
    [[]],
    {},
    {"a": 1},
    [1, 2, 3],
    "../../etc/passwd",
    [-1],
    0.5,
)


def mutated(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Some bytes of ``data`` changed, cut out, doubled, zeroed, or taken from ``other``."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not raw:
            break
        at, size = draw.randrange(len(raw)), draw.choice((1, 2, 4, 8, 64, 1024))
        if draw.random() < 0.5:
            at = draw.randrange(min(len(raw), 512))  # headers
        match draw.randrange(8):
            case 0:
                raw[at] ^= 1 << draw.randrange(8)
            case 1:
                raw[at : at + size] = draw.randbytes(size)
            case 2:
                del raw[at : at + size]
            case 3:
                raw[at:at] = raw[at : at + size]
            case 4:
                raw[at : at + size] = bytes(size)
            case 5:
                raw[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0"))
            case 6:
                del raw[at:]
            case 7:
                raw[at : at + size] = other[at : at + size]
    return bytes(raw)


def mutated_json(value: Any, draw: random.Random) -> Any:
    """One leaf or branch of a JSON value replaced, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        result = dict(value)
        match draw.randrange(5):
            case 0:
                del result[key]
            case 1:
                result["unknown"] = 1
            case _:
                result[key] = mutated_json(value[key], draw)
        return result
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], mutated_json(value[at], draw), *value[at + 1 :]]
    return draw.choice(LEAVES)


def tampered_safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file whose header was changed, with or without a fitting length."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if draw.random() < 0.6:
        header = json.dumps(mutated_json(json.loads(header), draw)).encode()
    else:
        header = mutated(header, draw)
    size = draw.choice((len(header), len(header), len(header), length, 0, 2**63, 2**64 - 1, len(data)))
    return struct.pack("<Q", size) + header + draw.choice((body, body, body[: len(body) // 2], b""))
