"""EnvPool's C++ simulators as a backend for dm_control tasks; fast, but its state can not be saved."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from envs.backends import fresh_arrays
from envs.dmc import ControlSuite
from envs.factory import make
from envs.group import block_size
from envs.names import resolve_suite
from envs.spec import EnvError, episode_seed


class Pool:
    """A batch of one suite task in EnvPool, with EnvPool's own random episodes."""

    def __init__(self, factory: dict[str, Any], num: int, seed: int, *, workers: int):
        try:
            import envpool
        except ImportError as error:
            raise EnvError(
                "env.backend=envpool needs EnvPool: pip install envpool, or choose serial"
            ) from error
        plain = factory.get("kind") == "dmc" and factory.get("observations", "state") == "state"
        model = make(**factory) if plain and not factory.get("kwargs") else None
        if not isinstance(model, ControlSuite):  # but another kind, or wrapped in what changes what is shown
            raise EnvError(
                "env.backend=envpool serves unchanged dm_control tasks from state only; use serial or process"
            )
        self._model = model
        self.spec, self.restarts_used, self.warnings = self._model.spec, 0, []
        self._envpool, self._workers, self._num = envpool, workers, num
        self.arrays = fresh_arrays(bytearray(block_size(self.spec, num)), self.spec, num, seed)
        domain, task = resolve_suite(factory.get("task"))
        words = f"{domain}_{task}".split("_")
        self._name = "".join(word[:1].upper() + word[1:] for word in words) + "-v1"
        self._open()

    def begin(self, rows: Sequence[int]) -> None:
        """Start the next episode of these environments."""
        picks = np.asarray(rows, np.int32)
        arrays = self.arrays
        if arrays["seed"][0] != self._seed:
            self._pool.close()
            self._open()
        obs, _ = self._pool.reset(picks)
        arrays["episode"][picks] += 1
        arrays["decision"][picks] = 0
        self._gather(obs, arrays["now/state"], picks)

    def step(self) -> None:
        """Apply the actions for `action_repeat` control steps; each stops where its episode ends."""
        arrays = self.arrays
        actions = self._model.to_control(arrays["action"])
        for name in ("reward", "frames", "terminated", "truncated", "failed"):
            arrays[name][:] = 0
        arrays["decision"] += 1
        alive = np.arange(self._num, dtype=np.int32)
        for _ in range(self.spec.action_repeat):
            obs, reward, terminated, truncated, _ = self._pool.step(actions[alive], alive)
            arrays["reward"][alive] += reward
            arrays["frames"][alive] += 1
            arrays["terminated"][alive] = terminated & ~truncated
            arrays["truncated"][alive] = truncated
            self._gather(obs, arrays["next/state"], alive)
            alive = alive[~(terminated | truncated)]
            if not len(alive):
                break
        # EnvPool would start the next episode one step late and pay for it; asked at once it does not.
        ended = np.flatnonzero(arrays["terminated"] | arrays["truncated"])
        if len(ended):
            self.begin(ended.tolist())

    def snapshots(self) -> NoReturn:
        """Refuse: EnvPool does not give out its state."""
        raise EnvError(
            "env.backend=envpool can not save the state of its environments, so a run could not be resumed; "
            "use env.backend=serial or process"
        )

    def restore(self, snapshots: list[dict[str, Any]]) -> NoReturn:
        """Refuse: EnvPool does not take a state back."""
        raise EnvError(
            "env.backend=envpool can not resume; use the env.backend that the run was started with"
        )

    def render(self, row: int, height: int, width: int, quality: str) -> NoReturn:
        """Refuse: this pool does not draw."""
        raise EnvError("env.backend=envpool can not draw pictures; use env.backend=serial for videos")

    def close(self) -> None:
        """Stop the pool."""
        self._pool.close()
        self._model.close()

    def _open(self) -> None:
        self._seed = int(self.arrays["seed"][0])
        limit = self.spec.episode_frames or np.iinfo(np.int32).max
        self._pool = self._envpool.make(
            self._name,
            env_type="gymnasium",
            num_envs=self._num,
            num_threads=min(self._workers, self._num),
            seed=episode_seed(self._seed, 0, 0),
            max_episode_steps=limit,
        )

    def _gather(self, obs: dict[str, np.ndarray], out: np.ndarray, rows: np.ndarray) -> None:
        # Some tasks come with additional keys, or in another order: dm_control's own list decides.
        for key, (start, stop) in self.spec.observation["state"].parts.items():
            out[rows, start:stop] = obs[key].reshape(len(rows), stop - start)
