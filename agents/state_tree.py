"""Nested state (optimisers, generators, counters) as flat tensors plus a JSON tree, and back exactly."""

import math
from typing import Any


def flatten_state(state: Any) -> tuple[dict[str, Any], Any]:
    """Split nested containers, numbers, strings and tensors into named tensors and a JSON document."""
    tensors: dict[str, Any] = {}
    return tensors, _flatten(state, tensors)


def unflatten_state(tensors: dict[str, Any], tree: Any) -> Any:
    """Rebuild exactly what `flatten_state` took apart."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        name, dtype = value
        return tensors[name].numpy().astype(dtype)
    if kind == "float":
        return float(value)
    if kind == "list":
        return [unflatten_state(tensors, item) for item in value]
    if kind == "tuple":
        return tuple(unflatten_state(tensors, item) for item in value)
    if kind == "dict":
        return {key: unflatten_state(tensors, item) for key, item in value}
    raise ValueError(f"unknown kind {kind!r} in a state tree")


def _flatten(node: Any, tensors: dict[str, Any]) -> Any:
    import numpy as np
    import torch

    if node is None or isinstance(node, (bool, int, str)):
        return node
    if isinstance(node, float):  # JSON has no spelling for nan and inf
        return node if math.isfinite(node) else {"float": repr(node)}
    if isinstance(node, torch.Tensor):
        name = f"t{len(tensors):06d}"
        tensors[name] = node
        return {"tensor": name}
    if isinstance(node, np.ndarray | np.generic):
        name = f"t{len(tensors):06d}"
        # Not every unsigned type has a torch twin; int64 carries each of them there and back bit for bit.
        wide = node.astype(np.int64) if node.dtype.kind == "u" and node.dtype != np.uint8 else node
        tensors[name] = torch.from_numpy(np.ascontiguousarray(wide).reshape(np.shape(node)))
        return {"array": [name, str(node.dtype)]}
    if isinstance(node, dict):
        if bad := [key for key in node if not isinstance(key, (str, int)) or isinstance(key, bool)]:
            raise TypeError(f"state keys must be strings or integers, got {bad[0]!r}")
        # Pairs, not an object: JSON would turn the integer keys of an optimiser into strings.
        return {"dict": [[key, _flatten(value, tensors)] for key, value in node.items()]}
    if isinstance(node, tuple):
        return {"tuple": [_flatten(value, tensors) for value in node]}
    if isinstance(node, list):
        return {"list": [_flatten(value, tensors) for value in node]}
    raise TypeError(f"state of type {type(node).__name__} has no exact JSON form")
