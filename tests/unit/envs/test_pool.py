"""EnvPool agrees with our simulator where both are in the same state."""

import numpy as np
import pytest
import torch

from envs import EnvError, make, make_batch

pytest.importorskip("envpool")


def test_observations_and_rewards_follow_ours():
    """From the same cartpole state the two stay together, with repeats and over the end of an episode."""
    factory = {"kind": "dmc", "task": "cartpole_swingup", "action_repeat": 3, "time_limit": 20}
    env = make_batch(factory, 2, backend="envpool", seed=1)
    ours = make(**factory)
    td = env.reset()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        place(ours, td["state"][1])
        for decision in range(7):
            action = torch.rand(2, 1, generator=generator) * 2 - 1
            td, following = env.step_and_maybe_reset(td.set("action", action))
            step = ours.step(action[1].numpy())
            assert np.allclose(td["next", "state"][1], step.obs["state"], atol=1e-4)
            assert float(td["next", "reward"][1]) == pytest.approx(step.reward, abs=1e-4)
            assert int(td["next", "frames"][1]) == step.frames == (2 if decision == 6 else 3)
            assert bool(td["next", "truncated"][1]) == step.truncated == (decision == 6)
            td = following
        assert td["is_init"].all()
    env.close()


def place(ours, state):
    """Put our cartpole where an observation (x, cos, sin, two velocities) says."""
    ours.reset()
    x, cos, sin, *velocity = state.double().tolist()
    ours.physics.data.qpos[:] = [x, np.arctan2(sin, cos)]
    ours.physics.data.qvel[:] = velocity
    ours.physics.forward()


def test_observations_follow_dm_controls_own_list():
    """EnvPool pads some tasks with more keys, or orders them otherwise."""
    for task in ("finger_spin", "fish_swim", "humanoid_walk"):
        env = make_batch({"kind": "dmc", "task": task}, 1, backend="envpool")
        assert env.reset()["state"].shape[1:] == make("dmc", task=task).spec.observation["state"].shape
        env.close()


def test_saving_is_refused_with_the_alternative():
    """A run on EnvPool learns at its first checkpoint which backend can resume."""
    env = make_batch({"kind": "dmc", "task": "pendulum_swingup"}, 2, backend="envpool")
    env.reset()
    with pytest.raises(EnvError, match="serial or process"):
        env.snapshot()
    env.close()
    with pytest.raises(EnvError, match="dm_control"):
        make_batch({"kind": "toy", "task": "counter"}, 2, backend="envpool")


@pytest.mark.parametrize(
    "change", [{"delay": 1}, {"distractors": 3}, {"drop": 0.0}, {"reward_seen": True}, {"recall": 2}]
)
def test_what_is_shown_can_not_be_changed(change):
    with pytest.raises(EnvError, match="unchanged dm_control tasks"):
        make_batch({"kind": "dmc", "task": "pendulum_swingup", **change}, 2, backend="envpool")
