"""What simulators and batches of them agree on: shapes, actions, steps and the error class."""

import traceback
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

RESERVED = frozenset(
    {"action", "prev_action", "reward", "done", "terminated", "truncated", "frames", "next", "valid"}
    | {"is_init", "is_first"}
)


class EnvError(Exception):
    """A mistake a user can fix, or a simulator that broke: the text says what and how to repair it."""


def explain(error: BaseException) -> str:
    """Say what somebody else's code raised and through which lines, the guilty one last."""
    places = traceback.extract_tb(error.__traceback__)[-4:]
    lines = [f"    {place.filename}:{place.lineno} in {place.name}: {place.line}" for place in places]
    return "\n".join([f"{type(error).__name__}: {error}", *lines])


@dataclass(frozen=True)
class Array:
    """Shape and type of one observation; `parts` names slices of a flat vector."""

    shape: tuple[int, ...]
    dtype: str
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """A float32 vector of `size`: continuous in [-1, 1], or scores of which the largest is chosen."""

    kind: str
    size: int


@dataclass(frozen=True)
class Spec:
    """Facts of an environment: observations, action, episode length and action repeat in control steps."""

    name: str
    observation: dict[str, Array]
    action: Action
    episode_frames: int | None
    action_repeat: int

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and scalars, as written to disk."""
        plain = asdict(self)
        for array in plain["observation"].values():
            array["shape"] = list(array["shape"])
            array["parts"] = {name: list(span) for name, span in array["parts"].items()}
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Spec":
        """Rebuild the spec that `to_json` described."""
        observation = {
            key: Array(
                tuple(value["shape"]),
                value["dtype"],
                {name: (span[0], span[1]) for name, span in value["parts"].items()},
            )
            for key, value in plain["observation"].items()
        }
        action = Action(plain["action"]["kind"], plain["action"]["size"])
        return cls(plain["name"], observation, action, plain["episode_frames"], plain["action_repeat"])


class Step(NamedTuple):
    """What one decision led to; `frames` counts the control steps really used by a partial last repeat."""

    obs: dict[str, np.ndarray]
    reward: float
    terminated: bool
    truncated: bool
    frames: int


@runtime_checkable
class Simulator(Protocol):
    """One environment; episode `e` depends on (seed, index, e) and the actions alone.

    `episode` starts at -1 and `reset` moves it on by one; setting it chooses which episode comes next.
    """

    spec: Spec
    seed: int
    index: int
    episode: int

    def reset(self) -> dict[str, np.ndarray]:
        """Begin the next episode and return its first observation."""
        ...

    def step(self, action: np.ndarray) -> Step:
        """Apply one action vector, shape A, for `action_repeat` control steps."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return a flat dict of arrays and scalars from which `restore` continues exactly."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot, in this object or another one built the same way."""
        ...

    def render(self, height: int, width: int, quality: str = "fast") -> np.ndarray:
        """Return a picture of the present state: uint8 height width 3."""
        ...

    def close(self) -> None:
        """Free what the simulator holds."""
        ...


def episode_seed(seed: int, index: int, episode: int) -> int:
    """Mix three counters into one 31-bit seed (the largest every simulator accepts)."""
    mixed = np.random.SeedSequence((seed % 2**32, index, episode % 2**32)).generate_state(1)[0]
    return int(mixed) & 0x7FFFFFFF


def check_action(action: np.ndarray, size: int) -> np.ndarray:
    """Refuse an action of another size or with NaN: A -> A."""
    if action.shape != (size,) or not np.isfinite(action).all():
        raise EnvError(
            f"action {np.array2string(np.asarray(action), threshold=8)} is not a finite vector of length "
            f"{size}; fix the policy's output (a NaN here usually means that training diverged)"
        )
    return action
