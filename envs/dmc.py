"""dm_control's suite without its wrapper: the numbers of `env.step`, observed once per decision."""

import logging
import os
from typing import Any

import numpy as np

from envs.nuisance import Nuisance, altered
from envs.render import GeometryRenderer, render_suite
from envs.spec import Action, Array, EnvError, Spec, Step, check_action, episode_seed
from envs.truth import Truth, suite_truth

_OFF = {"MUJOCO_GL": "disable"}


def _load_suite() -> Any:
    # dm_control opens a display when it is imported. We draw with MuJoCo itself, on demand (render.py), so
    # its own renderer is switched off for the import and the user's setting put back for everybody else.
    before = os.environ.get("MUJOCO_GL")
    os.environ.update(_OFF)
    try:
        from dm_control import suite
    finally:
        os.environ.pop("MUJOCO_GL") if before is None else os.environ.update(MUJOCO_GL=before)
    # MuJoCo finds old words in the suite's own models, once per environment; nobody here can mend those.
    logging.getLogger("absl").addFilter(_is_news)  # the same function twice is one filter
    return suite


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("compiler attribute 'settotalmass' is deprecated")


class ControlSuite:
    """One task of the dm_control suite as a Simulator."""

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        task_kwargs: dict[str, Any] | None = None,
        action_repeat: int = 1,
        observations: str = "state",
        pixels: int = 64,
        camera: int | str = 0,
        time_limit: int | None = None,
        seed: int = 0,
        index: int = 0,
    ):
        suite = _load_suite()
        try:
            # lqr draws its masses and springs while it is built: always the same system, whatever the seed.
            self.env = suite.load(domain, task, task_kwargs={"random": 0} | (task_kwargs or {}))
        except TypeError as error:
            raise EnvError(f"dmc_{domain}_{task}: {error}; remove that key from env.kwargs") from error
        self.physics, self.task = self.env.physics, self.env.task
        # quadruped_escape asks for a drawing context to upload its terrain; without one it must see "none".
        self.physics.__class__ = type("Headless", (type(self.physics),), {"contexts": None})
        self.seed, self.index, self.episode = seed, index, -1
        self.divergences = 0
        self._key, self._camera, self._pixels = f"{domain}_{task}", camera, pixels
        self._repeat = action_repeat
        self._limit = self.env._step_limit if time_limit is None else time_limit
        self._steps, self._substeps = 0, self.env._n_sub_steps
        self._want_state, self._want_pixels = observations != "pixels", observations != "state"
        self._center, self._half = _action_range(self.env.action_spec())
        self._slices = self._measure()
        self.spec = self._describe(f"dmc_{domain}_{task}")
        self._last: dict[str, np.ndarray] = {}

    def reset(self) -> dict[str, np.ndarray]:
        """Begin the next episode."""
        self.episode += 1
        self._begin()
        self._last = self._observe()
        return self._last

    def step(self, action: np.ndarray) -> Step:
        """Apply one action for `action_repeat` control steps or until the episode ends: A -> Step."""
        control = self.to_control(check_action(action, self.spec.action.size))
        task, physics, total = self.task, self.physics, 0.0
        terminated = truncated = False
        frames = 0
        for _ in range(self._repeat):
            task.before_step(control, physics)
            physics._step_with_up_to_date_position_velocity(self._substeps)
            if physics._warnings.tobytes() != self._warned:
                return self._diverged(total, frames)
            task.after_step(physics)
            total += task.get_reward(physics)
            frames += 1
            self._steps += 1
            # As in dm_control, the limit is looked at first: an episode that is over time did not terminate.
            if self._steps >= self._limit:
                truncated = True
                break
            discount = task.get_termination(physics)
            if discount is not None:
                terminated, truncated = discount == 0.0, discount != 0.0
                break
        self._last = self._observe()
        return Step(self._last, float(total), terminated, truncated, frames)

    def to_control(self, action: np.ndarray) -> np.ndarray:
        """Scale [-1, 1] to the ranges of the actuators: … A -> … A."""
        return self._center + self._half * np.minimum(np.maximum(action.astype(np.float64), -1.0), 1.0)

    def snapshot(self) -> dict[str, Any]:
        """Return episode number, MuJoCo's integration state, the step count and the task's random state."""
        import mujoco

        model, data = self.physics.model.ptr, self.physics.data.ptr
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
        state = np.empty(size, np.float64)
        mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        _, keys, pos, has_gauss, gauss = self.task.random.get_state()
        return {
            "episode": self.episode,
            "steps": self._steps,
            "integration": state,
            "random_keys": np.array(keys, np.int64),
            "random_pos": int(pos),
            "random_has_gauss": int(has_gauss),
            "random_gauss": float(gauss),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Continue bit for bit: replay the reset (it edits the model), then put the state back."""
        import mujoco

        self.episode = int(snapshot["episode"])
        self._begin()
        model, data, kind = self.physics.model.ptr, self.physics.data.ptr, mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.ascontiguousarray(snapshot["integration"], np.float64)
        mujoco.mj_setState(model, data, state, kind)
        mujoco.mj_forward(model, data)
        # The forward pass may move the solver's warm start; the second half of a control step does not, and
        # repeating exactly that half leaves the fields as the uninterrupted run has them.
        mujoco.mj_setState(model, data, state, kind)
        mujoco.mj_step1(model, data)
        self._warned = self.physics._warnings.tobytes()
        self._steps = int(snapshot["steps"])
        self.task.random.set_state(
            (
                "MT19937",
                np.asarray(snapshot["random_keys"], np.uint32),
                int(snapshot["random_pos"]),
                int(snapshot["random_has_gauss"]),
                float(snapshot["random_gauss"]),
            )
        )
        self._last = self._observe()

    def truth(self) -> Truth:
        """Positions, velocities and the pose, whatever is observed."""
        return suite_truth(self.physics)

    def render(self, height: int, width: int, quality: str = "fast") -> np.ndarray:
        """Draw the present state: uint8 height width 3."""
        return render_suite(self._renderer, height, width, quality)

    def redraw(self, nuisance: Nuisance) -> dict[str, np.ndarray]:
        """The picture of now, had it looked otherwise, and no trace of it: -> pixels 3 Y X, if observed."""
        if not self._want_pixels:
            return {}
        with altered(self.physics.model.ptr, self.physics.data.ptr, nuisance):
            return {"pixels": self._picture()}

    def close(self) -> None:
        """Drop the simulation."""
        self.env.close()

    @property
    def _renderer(self) -> GeometryRenderer:
        return GeometryRenderer(self._key, self.physics.model.ptr, self.physics.data.ptr, self._camera)

    def _begin(self) -> None:
        self.task.random.seed(episode_seed(self.seed, self.index, self.episode))
        with self.physics.reset_context():
            self.task.initialize_episode(self.physics)
        self._steps = 0
        self._warned = self.physics._warnings.tobytes()

    def _observe(self) -> dict[str, np.ndarray]:
        obs = {}
        if self._want_state:
            flat = np.empty(self._size, np.float32)
            found = self.task.get_observation(self.physics)
            for key, start, stop, is_vector in self._slices:
                flat[start:stop] = found[key] if is_vector else np.ravel(found[key])
            obs["state"] = flat
        if self._want_pixels:
            obs["pixels"] = self._picture()
        return obs

    def _picture(self) -> np.ndarray:
        return np.ascontiguousarray(self.render(self._pixels, self._pixels).transpose(2, 0, 1))

    def _diverged(self, total: float, frames: int) -> Step:
        # MuJoCo has already put the model back to its start; what it would show now never happened.
        self.divergences += 1
        return Step(self._last, float(total), False, True, frames)

    def _measure(self) -> list[tuple[str, int, int, bool]]:
        # Shapes are those of an observation: observation_spec of some tasks does not know them.
        self._begin()
        slices, start = [], 0
        for key, value in self.task.get_observation(self.physics).items():
            size = int(np.size(value))
            slices.append((key, start, start + size, np.ndim(value) < 2))
            start += size
        self._size = start
        return slices

    def _describe(self, name: str) -> Spec:
        observation = {}
        if self._want_state:
            parts = {key: (start, stop) for key, start, stop, _ in self._slices}
            observation["state"] = Array((self._size,), "float32", parts)
        if self._want_pixels:
            observation["pixels"] = Array((3, self._pixels, self._pixels), "uint8")
        frames = None if self._limit == float("inf") else int(np.ceil(self._limit))
        return Spec(name, observation, Action("continuous", len(self._center)), frames, self._repeat)


def _action_range(spec: Any) -> tuple[np.ndarray, np.ndarray]:
    # Actuators without limits (lqr) take the action as it is.
    low = np.where(np.isfinite(spec.minimum), spec.minimum, -1.0) * np.ones(spec.shape)
    high = np.where(np.isfinite(spec.maximum), spec.maximum, 1.0) * np.ones(spec.shape)
    return (low + high) / 2, (high - low) / 2
