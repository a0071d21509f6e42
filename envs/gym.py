"""Any Gymnasium environment as a Simulator: spaces checked early, ends kept apart, restored by replay."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from envs.render import choose_backend, resize
from envs.spaces import Decoder, Reader
from envs.spec import EnvError, Spec, Step, check_action, episode_seed
from envs.truth import Truth


def is_gymnasium(made: Any) -> bool:
    """Whether an object is a Gymnasium environment."""
    import gymnasium

    return isinstance(made, gymnasium.Env)


class Gymnasium:
    """One Gymnasium environment; `build(render_mode=…)` makes it."""

    def __init__(
        self,
        build: Callable[..., Any],
        name: str,
        *,
        action_repeat: int = 1,
        observations: str = "state",
        pixels: int = 64,
        camera: int | str = 0,
        time_limit: int | None = None,
        seed: int = 0,
        index: int = 0,
    ):
        self.seed, self.index, self.episode = seed, index, -1
        self.exact, self.warning = True, ""
        self._name, self._repeat, self._limit = name, action_repeat, time_limit
        self._build, self._painter, self._pixels = build, None, pixels
        self.env = self._open(observations != "state")
        self._read = Reader(self.env.observation_space, name, observations, pixels)
        self._decode = Decoder(self.env.action_space, name)
        own = getattr(getattr(self.env, "spec", None), "max_episode_steps", None)
        frames = min((limit for limit in (time_limit, own) if limit), default=None)
        self.spec = Spec(name, self._read.arrays, self._decode.action, frames, action_repeat)
        self._frames, self._taken = 0, []
        self._last: dict[str, np.ndarray] = {}

    def reset(self) -> dict[str, np.ndarray]:
        """Begin the next episode, seeded by (seed, index, episode)."""
        self.episode += 1
        self._begin()
        return self._last

    def step(self, action: np.ndarray) -> Step:
        """Apply one action for `action_repeat` steps or until the episode ends: A -> Step."""
        checked = check_action(action, self.spec.action.size)
        self._taken.append(np.array(checked, np.float32))
        native, total, frames = self._decode(checked), 0.0, 0
        terminated = truncated = False
        for _ in range(self._repeat):
            raw, reward, terminated, truncated, _ = self.env.step(native)
            total += float(reward)
            frames += 1
            self._frames += 1
            late = truncated or (self._limit is not None and self._frames >= self._limit)
            truncated = bool(late and not terminated)
            if terminated or truncated:
                break
        self._last = self._read(raw, self._picture)
        return Step(self._last, total, bool(terminated), bool(truncated), frames)

    def snapshot(self) -> dict[str, Any]:
        """Return the episode number, its actions so far (replayed by `restore`) and the last observation."""
        taken = np.array(self._taken, np.float32).reshape(len(self._taken), self.spec.action.size)
        last = {f"obs/{key}": value.copy() for key, value in self._last.items()}
        return {"episode": self.episode, "actions": taken, **last}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Replay the episode; `exact` turns False, with a `warning`, if it does not end where it did."""
        self.episode = int(snapshot["episode"])
        if self.episode < 0:
            return
        self._begin()
        for action in np.asarray(snapshot["actions"], np.float32):
            self.step(action)
        different = [
            k for k, v in self._last.items() if not np.array_equal(v, snapshot[f"obs/{k}"], equal_nan=True)
        ]
        self.exact = not different
        if different:
            self.warning = (
                f"{self._name}: replaying {len(self._taken)} actions of episode {self.episode} gave another "
                f"observation ({', '.join(different)}); the environment draws randomness that "
                "reset(seed=…) does not set"
            )

    def truth(self) -> Truth:
        """Joint positions and velocities of MuJoCo environments, the `state` of those that keep one."""
        inner: Any = self.env.unwrapped
        data, state = getattr(inner, "data", None), getattr(inner, "state", None)
        if data is not None and hasattr(data, "qpos"):
            position = np.array(data.qpos)
            return {"position": position, "velocity": np.array(data.qvel), "pose": position}
        if isinstance(state, np.ndarray | list | tuple) and np.ndim(state) == 1:
            return {"state": np.array(state, np.float64), "pose": np.array(state, np.float64)}
        return {}

    def render(self, height: int, width: int, quality: str = "fast") -> np.ndarray:
        """Draw the present state: uint8 height width 3."""
        return resize(self._picture(), height, width)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
        if self._painter is not None:
            self._painter.close()

    def _begin(self) -> None:
        raw, _ = self.env.reset(seed=episode_seed(self.seed, self.index, self.episode))
        self._frames, self._taken = 0, []
        self._last = self._read(raw, self._picture)

    def _open(self, draws: bool) -> Any:
        try:
            if draws:
                # Only MuJoCo environments need GL; others draw without, so its absence is no error here.
                with contextlib.suppress(EnvError):
                    choose_backend()
                return self._build(render_mode="rgb_array")
            return self._build()
        except EnvError:
            raise
        except Exception as error:
            raise EnvError(
                f"{self._name} could not be built: {type(error).__name__}: {error}; fix env.id, "
                "env.kwargs or the missing package"
            ) from error

    def _picture(self) -> np.ndarray:
        if getattr(self.env, "render_mode", None) == "rgb_array":
            return self._draw()
        # Training from state needs no display; the first picture opens a twin that replays this episode.
        if self._painter is None:
            self._painter = Gymnasium(lambda **_: self._open(True), self._name, action_repeat=self._repeat)
            self._painter._limit = self._limit
        twin = self._painter
        done = len(twin._taken)
        here = (twin.seed, twin.index, twin.episode) == (self.seed, self.index, self.episode)
        if not here or not np.array_equal(np.array(twin._taken), np.array(self._taken[:done])):
            twin.seed, twin.index, twin.episode = self.seed, self.index, self.episode
            twin._begin()
        for action in self._taken[len(twin._taken) :]:
            twin.step(action)
        return twin._draw()

    def _draw(self) -> np.ndarray:
        try:
            return np.asarray(self.env.render(), np.uint8)
        except Exception as error:
            raise EnvError(
                f"{self._name} could not be drawn: {type(error).__name__}: {error}; install what it names, "
                "or train from state without videos"
            ) from error
