"""Translate Gymnasium spaces: observations to vectors or pictures, action vectors to native actions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.render import resize
from envs.spec import RESERVED, Action, Array, EnvError

Read = Callable[[Any], np.ndarray]


class Reader:
    """Observation space -> named float32 vectors and uint8 pictures (C Y X)."""

    def __init__(self, space: Any, name: str, observations: str, pixels: int):
        self._name = name
        self._fields: list[tuple[str, tuple[str, ...], Read]] = []
        self.arrays: dict[str, Array] = {}
        self._draw = observations != "state"
        self._pixels = pixels
        self._walk(space, ())
        pictured = any(array.dtype == "uint8" for array in self.arrays.values())
        if pictured:
            self._draw = False
        if observations == "pixels" and not pictured:
            self._fields, self.arrays = [], {}
        if self._draw:
            self.arrays["pixels"] = Array((3, pixels, pixels), "uint8")

    def __call__(self, raw: Any, picture: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
        """Read one observation; `picture` is asked only where the user wants drawn pixels."""
        obs = {}
        for key, path, read in self._fields:
            value = raw
            for step in path:
                value = value[step]
            obs[key] = read(value)
            if obs[key].shape != self.arrays[key].shape:
                raise EnvError(
                    f"{self._name}: observation {key!r} has {obs[key].size} numbers, its space promised "
                    f"{self.arrays[key].shape}; fix the observation or observation_space"
                )
        if self._draw:
            image = resize(picture(), self._pixels, self._pixels)
            obs["pixels"] = np.ascontiguousarray(image.transpose(2, 0, 1))
        return obs

    def _walk(self, space: Any, path: tuple[str, ...]) -> None:
        from gymnasium import spaces

        if isinstance(space, spaces.Dict):
            for key, inner in space.spaces.items():
                self._walk(inner, (*path, str(key)))
            return
        array, read = _leaf(space, self._name)
        key = "_".join(path) or ("pixels" if array.dtype == "uint8" else "state")
        if key in RESERVED or key in self.arrays:
            raise EnvError(
                f"{self._name}: observation key {key!r} is already taken; rename it in the environment"
            )
        self.arrays[key] = array
        self._fields.append((key, path, read))


def _leaf(space: Any, name: str) -> tuple[Array, Read]:
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return _box(space)
    if isinstance(space, spaces.Discrete):
        start, row = int(space.start), np.eye(int(space.n), dtype=np.float32)
        return Array((int(space.n),), "float32"), lambda value: row[int(value) - start].copy()
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return Array((size,), "float32"), lambda value: np.asarray(value, np.float32).reshape(-1)
    if isinstance(space, spaces.MultiDiscrete):
        rows = [np.eye(int(n), dtype=np.float32) for n in np.ravel(space.nvec)]
        starts = np.ravel(space.start)
        size = sum(len(row) for row in rows)

        def read(value: Any) -> np.ndarray:
            picks = np.ravel(value) - starts
            return np.concatenate([row[int(pick)] for row, pick in zip(rows, picks, strict=True)])

        return Array((size,), "float32"), read
    raise EnvError(
        f"{name}: observation space {type(space).__name__} is not supported; use Box, Discrete, MultiBinary, "
        "MultiDiscrete or a Dict of these (gymnasium.wrappers.FlattenObservation helps)"
    )


def _box(space: Any) -> tuple[Array, Read]:
    shape = space.shape
    if space.dtype == np.uint8 and len(shape) == 3 and shape[-1] in (1, 3, 4):
        return Array((shape[2], *shape[:2]), "uint8"), lambda v: np.ascontiguousarray(np.moveaxis(v, -1, 0))
    if space.dtype == np.uint8 and len(shape) == 3 and min(shape[1:]) >= 8:
        return Array(tuple(shape), "uint8"), lambda v: np.array(v, np.uint8)
    if space.dtype == np.uint8 and len(shape) == 2 and min(shape) >= 8:
        return Array((1, *shape), "uint8"), lambda v: np.array(v, np.uint8)[None]
    size = int(np.prod(shape)) if shape else 1
    return Array((size,), "float32"), lambda v: np.array(v, np.float32).reshape(-1)


class Decoder:
    """Action vector in our convention -> the space's own action."""

    def __init__(self, space: Any, name: str):
        from gymnasium import spaces

        self._shape: tuple[int, ...] | None = None
        if isinstance(space, spaces.Discrete):
            self.action, self._start = Action("discrete", int(space.n)), int(space.start)
        elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise EnvError(
                    f"{name}: the action space has infinite bounds, so [-1, 1] cannot be scaled to it; wrap "
                    "it with gymnasium.wrappers.RescaleAction or ClipAction and return that from env.entry"
                )
            self._shape, self._dtype = space.shape, space.dtype
            self._center = (space.low.astype(np.float64) + space.high) / 2
            self._half = (space.high.astype(np.float64) - space.low) / 2
            self.action = Action("continuous", int(np.prod(space.shape)))
        else:
            raise EnvError(
                f"{name}: action space {space} is not supported; only Box of floats and Discrete are, so "
                "flatten it in a wrapper (gymnasium.wrappers.TransformAction) and return that from env.entry"
            )

    def __call__(self, action: np.ndarray) -> Any:
        """Choose the largest entry, or scale [-1, 1] to the bounds: A -> native action."""
        if self._shape is None:
            return int(np.argmax(action)) + self._start
        unit = np.clip(action, -1.0, 1.0).astype(np.float64).reshape(self._shape)
        return (self._center + self._half * unit).astype(self._dtype)
