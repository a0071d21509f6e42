"""Bytes for flat dicts of arrays and scalars: a JSON head and raw array data; no pickle between processes."""

import json
from typing import Any

import numpy as np


def pack(message: dict[str, Any]) -> bytes:
    """Write a dict of arrays, numpy scalars and JSON values as bytes."""
    head, blobs = {}, []
    for key, value in message.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, np.ndarray):
            head[key] = {"dtype": value.dtype.str, "shape": list(value.shape)}
            blobs.append(np.ascontiguousarray(value).tobytes())
        else:
            head[key] = {"value": value}
    text = json.dumps(head).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *blobs])


def unpack(data: bytes) -> dict[str, Any]:
    """Read what `pack` wrote."""
    start = 8 + int.from_bytes(data[:8], "little")
    message: dict[str, Any] = {}
    for key, entry in json.loads(data[8:start]).items():
        if "value" in entry:
            message[key] = entry["value"]
            continue
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        size = dtype.itemsize * int(np.prod(shape))
        message[key] = np.frombuffer(data[start : start + size], dtype).reshape(shape).copy()
        start += size
    return message
