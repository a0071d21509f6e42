"""Tiny environments whose right answers are known, for tests of counters, bootstrapping and learning."""

from typing import Any

import numpy as np

from envs.spec import Action, Array, EnvError, Spec, Step, check_action, episode_seed
from envs.truth import Truth, seen_from


class Toy:
    """Shared clockwork: seeding, action repeat, time limit and exact snapshots; `_move` is the toy itself."""

    name = "toy"
    limit: int | None = 100

    def __init__(
        self,
        size: int,
        action: Action,
        *,
        action_repeat: int = 1,
        time_limit: int | None = None,
        seed: int = 0,
        index: int = 0,
    ):
        self.seed, self.index, self.episode = seed, index, -1
        self.limit = time_limit or self.limit
        self.frames = 0
        self.state = np.zeros(1)
        self._random = np.random.RandomState(0)
        observation = {"state": Array((size,), "float32")}
        self.spec = Spec(f"toy_{self.name}", observation, action, self.limit, action_repeat)

    def reset(self) -> dict[str, np.ndarray]:
        """Begin the next episode."""
        self.episode += 1
        self._random.seed(episode_seed(self.seed, self.index, self.episode))
        self.frames = 0
        self.state = self._start()
        return self._observe()

    def step(self, action: np.ndarray) -> Step:
        """Apply one action for `action_repeat` control steps or until the episode ends: A -> Step."""
        check_action(action, self.spec.action.size)
        total, used, terminated, truncated = 0.0, 0, False, False
        for _ in range(self.spec.action_repeat):
            used += 1
            self.frames += 1
            reward, terminated = self._move(action)
            total += reward
            truncated = not terminated and self.limit is not None and self.frames >= self.limit
            if terminated or truncated:
                break
        return Step(self._observe(), float(total), bool(terminated), bool(truncated), used)

    def snapshot(self) -> dict[str, Any]:
        """Return episode number, frame count, state and random state."""
        _, keys, pos, has_gauss, gauss = self._random.get_state()
        return {
            "episode": self.episode,
            "frames": self.frames,
            "state": np.array(self.state),
            "random_keys": np.array(keys, np.int64),
            "random_pos": int(pos),
            "random_has_gauss": int(has_gauss),
            "random_gauss": float(gauss),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue from a snapshot."""
        self.episode, self.frames = int(snapshot["episode"]), int(snapshot["frames"])
        self.state = np.array(snapshot["state"])
        keys = np.asarray(snapshot["random_keys"], np.uint32)
        tail = int(snapshot["random_pos"]), int(snapshot["random_has_gauss"]), float(snapshot["random_gauss"])
        self._random.set_state(("MT19937", keys, *tail))

    def truth(self) -> Truth:
        """The state."""
        return {"state": np.array(self.state, np.float64)}

    def render(self, height: int, width: int, quality: str = "fast") -> np.ndarray:
        """Draw the observation as a row of grey bars: uint8 height width 3."""
        values = self._observe()["state"]
        grey = (255 / (1 + np.exp(-np.clip(values, -20, 20)))).astype(np.uint8)
        bars = grey[np.arange(width) * len(grey) // width]
        return np.ascontiguousarray(np.broadcast_to(bars[None, :, None], (height, width, 3)))

    def close(self) -> None:
        """Nothing is held."""

    def _start(self) -> np.ndarray:
        return np.zeros(1)

    def _observe(self) -> dict[str, np.ndarray]:
        return {"state": self.state.astype(np.float32)}

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        raise NotImplementedError


class Counter(Toy):
    """Observe (frames in this episode, episode number); ends after `length` frames by `end`."""

    name = "counter"

    def __init__(self, length: int = 10, end: str = "truncate", **pace: Any):
        if end not in ("truncate", "terminate"):
            raise EnvError(f"toy_counter: env.kwargs.end is {end!r}; choose truncate or terminate")
        self.limit = length if end == "truncate" else None
        self._length, self._end = length, end
        super().__init__(2, Action("continuous", 1), **pace)

    def _observe(self) -> dict[str, np.ndarray]:
        return {"state": np.array([self.frames, self.episode], np.float32)}

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        return float(self.frames), self._end == "terminate" and self.frames >= self._length


class Identity(Toy):
    """Reward for naming what is seen: the index of the hot entry, or the observed number."""

    name = "identity"

    def __init__(self, size: int = 4, discrete: bool = True, length: int = 20, **pace: Any):
        self.limit = length
        self._discrete = discrete
        super().__init__(size, Action("discrete" if discrete else "continuous", size), **pace)

    def _start(self) -> np.ndarray:
        size = self.spec.action.size
        if self._discrete:
            return np.eye(size)[self._random.randint(size)]
        return self._random.uniform(-1, 1, size).astype(np.float32)

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        if self._discrete:
            reward = float(np.argmax(action) == np.argmax(self.state))
        else:
            reward = 1.0 - float(np.abs(np.clip(action, -1, 1) - self.state).mean())
        self.state = self._start()
        return reward, False


class PointMass(Toy):
    """A damped mass in `dims` dimensions that is pushed towards the origin."""

    name = "point_mass"

    def __init__(self, dims: int = 2, length: int = 100, **pace: Any):
        self.limit = length
        super().__init__(2 * dims, Action("continuous", dims), **pace)

    def _start(self) -> np.ndarray:
        dims = self.spec.action.size
        return np.concatenate([self._random.uniform(-1, 1, dims), np.zeros(dims)])

    def truth(self) -> Truth:
        """Position and velocity."""
        position, velocity = np.split(np.array(self.state, np.float64), 2)
        return {"position": position, "velocity": velocity, "pose": position}

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        position, velocity = np.split(self.state, 2)
        velocity = 0.9 * velocity + 0.1 * np.clip(action, -1, 1)
        position = np.clip(position + 0.1 * velocity, -2, 2)
        self.state = np.concatenate([position, velocity])
        return float(np.exp(-4 * (position**2).sum())), False


class Rover(Toy):
    """Drive and turn in the plane, seeing beacons from where one stands; the first one is to be reached.

    Where a drive leads depends on the turns before it, so moves cannot be added up in any order. Beacons stay
    where they are for an episode, and their bearings say where one is only to those who remember them.
    """

    name = "rover"
    SPEED, TURN = 0.15, 0.5  # at full action, per frame

    def __init__(self, beacons: int = 2, length: int = 100, **pace: Any):
        if beacons < 1:
            raise EnvError("toy_rover: env.kwargs.beacons must be at least 1")
        self.limit, self._beacons = length, beacons
        super().__init__(2 * beacons, Action("continuous", 2), **pace)

    def truth(self) -> Truth:
        """Where it stands and looks, and where the beacons are, in the frame it began in."""
        return {"planar_pose": self.state[:3].copy(), "constant_beacons": self.state[3:].copy()}

    def _start(self) -> np.ndarray:
        return np.concatenate([np.zeros(3), self._random.uniform(-2, 2, 2 * self._beacons)])

    def _observe(self) -> dict[str, np.ndarray]:
        ahead = self.state[3:].reshape(-1, 2) - self.state[:2]
        return {"state": seen_from(self.state[2], ahead).ravel().astype(np.float32)}

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        drive, turn = np.clip(action, -1, 1) * (self.SPEED, self.TURN)
        heading = self.state[2] + turn
        place = np.clip(self.state[:2] + drive * np.array([np.cos(heading), np.sin(heading)]), -4, 4)
        self.state = np.concatenate([place, [heading], self.state[3:]])
        return float(np.exp(-((self.state[3:5] - place) ** 2).sum())), False


class Ring(Toy):
    """`size` places on a circle, step left or right; arriving at place 0 pays 1 and may end the episode."""

    name = "ring"

    def __init__(self, size: int = 6, end: str = "terminate", length: int = 20, **pace: Any):
        if end not in ("truncate", "terminate") or size < 3:
            raise EnvError("toy_ring: env.kwargs needs end=truncate or end=terminate, and size of at least 3")
        self.limit, self._end, self._size = length, end, size
        super().__init__(size, Action("discrete", 2), **pace)

    def optimal_q(self, discount: float) -> np.ndarray:
        """Return Q* of the process without time limit (truncation must not lower it): place 2."""
        places = np.arange(self._size)
        ahead = (places[:, None] + np.array([-1, 1])) % self._size
        away = np.minimum(ahead, self._size - ahead)
        if self._end == "terminate":
            # The place itself is final; from the others the first visit pays once.
            return np.where(places[:, None] == 0, 0.0, discount**away)
        # Without an end the best plan returns every second step: 1 + discount^2 + … from each visit.
        return discount**away / (1 - discount**2)

    def _start(self) -> np.ndarray:
        return np.eye(self._size)[self._random.randint(1, self._size)]

    def _move(self, action: np.ndarray) -> tuple[float, bool]:
        place = (int(np.argmax(self.state)) + (1 if np.argmax(action) else -1)) % self._size
        self.state = np.eye(self._size)[place]
        arrived = place == 0
        return float(arrived), arrived and self._end == "terminate"


def build_toy(name: str, extra: dict[str, Any], **pace: Any) -> Toy:
    """Build a toy by the name in `envs.names.TOYS`; `extra` are its own keyword arguments."""
    from envs.toy_faults import Crash, Hang, NaNObs

    makers: dict[str, tuple[type[Toy], dict[str, Any]]] = {
        "counter": (Counter, {}),
        "identity": (Identity, {}),
        "identity_continuous": (Identity, {"discrete": False}),
        "point_mass": (PointMass, {}),
        "ring": (Ring, {}),
        "rover": (Rover, {}),
        "ring_truncated": (Ring, {"end": "truncate"}),
        "crash": (Crash, {}),
        "hang": (Hang, {}),
        "nan_obs": (NaNObs, {}),
    }
    kind, preset = makers[name]
    try:
        return kind(**(preset | extra), **pace)
    except TypeError as error:
        raise EnvError(f"toy_{name}: {error}; remove that key from env.kwargs") from error
