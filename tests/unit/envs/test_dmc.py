"""The fast path is dm_control to the last bit, and every task can be saved in the middle of an episode."""

import subprocess
import sys

import numpy as np
import pytest

from envs import EnvError, make
from envs.dmc import _load_suite
from envs.names import SUITE
from envs.spec import episode_seed

ALL = [f"{domain}_{task}" for domain, tasks in SUITE.items() for task in tasks]
# Building these takes seconds; one task each of the model family stands for the others in the longer tests.
SLOW = {f"dog_{task}" for task in SUITE["dog"] if task != "fetch"} | {
    "humanoid_CMU_stand",
    "humanoid_CMU_run",
}


def actions(simulator, count, seed=0):
    """Draw random actions: count A."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, simulator.spec.action.size)).astype(np.float32)


def test_the_static_list_is_dm_controls_list():
    """No task is missing or invented."""
    assert {f"{domain}_{task}" for domain, task in _load_suite().ALL_TASKS} == set(ALL)


@pytest.mark.parametrize(
    "task", ["walker_walk", "humanoid_CMU_walk", "manipulator_bring_ball", "lqr_lqr_2_1", "swimmer_swimmer6"]
)
def test_steps_equal_dm_controls_own_loop(task):
    """Observations and summed rewards of repeated actions are identical to env.step."""
    simulator = make("dmc", task=task, action_repeat=3, seed=5, index=2)
    obs = simulator.reset()["state"]
    domain = next(d for d in sorted(SUITE, key=len, reverse=True) if task.startswith(d + "_"))
    plain = _load_suite().load(domain, task.removeprefix(domain + "_"), {"random": 0})
    plain.task.random.seed(episode_seed(5, 2, 0))
    expected = plain.reset()
    low, high = (
        simulator.to_control(-np.ones(simulator.spec.action.size)),
        simulator.to_control(np.ones(simulator.spec.action.size)),
    )
    spec = plain.action_spec()
    if np.isfinite(spec.minimum).all():
        assert np.allclose(low, spec.minimum)
        assert np.allclose(high, spec.maximum)
    for action in actions(simulator, 15):
        assert np.array_equal(obs, flat(expected.observation))
        step = simulator.step(action)
        total = 0.0
        for _ in range(3):
            expected = plain.step(simulator.to_control(action))
            total += expected.reward
        obs = step.obs["state"]
        assert step.reward == total


def flat(observation):
    """Concatenate a dm_control observation."""
    return np.concatenate([np.ravel(value) for value in observation.values()]).astype(np.float32)


def test_the_time_limit_is_truncation_and_counts_the_partial_repeat():
    """1000 control steps with repeat 3 end with one last step of one frame."""
    simulator = make("dmc", task="pendulum_swingup", action_repeat=3)
    simulator.reset()
    steps = [simulator.step(np.zeros(1, np.float32)) for _ in range(334)]
    assert [s.frames for s in steps[-2:]] == [3, 1]
    assert sum(s.frames for s in steps) == 1000
    assert steps[-1].truncated
    assert not steps[-1].terminated
    assert not any(s.truncated or s.terminated for s in steps[:-1])


def test_a_task_with_a_terminal_state_reports_termination():
    """lqr ends by itself when the state is near zero; that is not a time limit."""
    simulator = make("dmc", task="lqr_lqr_2_1", time_limit=10_000)
    simulator.reset()
    simulator.physics.data.qpos[:] = 0
    simulator.physics.data.qvel[:] = 0
    simulator.physics.forward()
    step = simulator.step(np.zeros(simulator.spec.action.size, np.float32))
    assert step.terminated
    assert not step.truncated


def test_an_episode_depends_on_seed_index_and_number_only():
    """Episode 2 is the same after two others as when it is asked for at once, and unlike its neighbours."""
    first, second = make("dmc", task="reacher_hard", seed=4), make("dmc", task="reacher_hard", seed=4)
    starts = [first.reset()["state"] for _ in range(3)]
    first.step(np.ones(2, np.float32))
    second.episode = 1
    assert np.array_equal(second.reset()["state"], starts[2])
    assert not np.array_equal(starts[1], starts[2])
    assert not np.array_equal(make("dmc", task="reacher_hard", seed=4, index=1).reset()["state"], starts[0])


def test_divergence_ends_the_episode_on_the_last_good_observation():
    """A simulation that blows up shows neither NaN nor MuJoCo's silent reset."""
    simulator = make("dmc", task="walker_walk")
    simulator.reset()
    good = simulator.step(np.zeros(6, np.float32)).obs["state"]
    simulator.physics.data.qvel[:] = 1e30
    step = simulator.step(np.zeros(6, np.float32))
    assert step.truncated
    assert not step.terminated
    assert simulator.divergences == 1
    assert np.array_equal(step.obs["state"], good)


def test_a_state_task_loads_no_gl():
    """Training from state works on a machine without any graphics library."""
    code = (
        "import sys; from envs import make; make('dmc', task='quadruped_escape').reset();"
        "sys.exit(any(name.split('.')[0] in ('OpenGL', 'glfw') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_old_words_in_the_suites_models_are_not_told_to_the_user():
    code = "import envs; envs.make('dmc', task='cheetah_run')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "deprecated" not in done.stderr


def test_the_package_alone_loads_no_simulator():
    """--help must not wait for torch or MuJoCo."""
    code = (
        "import sys, envs; envs.names();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'mujoco', 'gymnasium')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_an_unknown_task_is_answered_with_a_near_one():
    """A typo costs one look at the message."""
    with pytest.raises(EnvError, match="did you mean walker_walk"):
        make("dmc", task="walker_wlk")
    with pytest.raises(EnvError, match="action_repeat"):
        make("dmc", task="walker_walk", action_repeat=0)
