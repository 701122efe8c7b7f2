"""Damage of ONNX files in protobuf's wire format."""

from __future__ import annotations

import random


def structure(data: bytes, seed: int) -> bytes:
    """Three bits flipped where the nodes and the names are: before and behind the weights."""
    chooser, changed = random.Random(seed), bytearray(data)
    for _ in range(3):
        near = chooser.randrange(3000), chooser.randrange(len(data) - 20_000, len(data))
        changed[chooser.choice(near)] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def nested(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    data = b""
    for _ in range(depth):
        for number in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            data = bytes([number << 3 | 2]) + varint(len(data)) + data
    return b"\x3a" + varint(len(data)) + data


def varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])
