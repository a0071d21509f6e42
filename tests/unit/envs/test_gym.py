"""Gymnasium environments: spaces, ends, replayed snapshots and early refusals."""

import sys
from functools import partial
from types import ModuleType

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs import EnvError, Step, make


class Probe(gymnasium.Env):
    """Shows what it was given; ends as told."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, observation=None, action=None, end=7, terminates=True, honest=True, render_mode=None):
        self.observation_space = observation or spaces.Box(-5, 5, (2,), np.float32)
        self.action_space = action or spaces.Box(np.array([0, -2], np.float32), np.array([1, 4], np.float32))
        self.end, self.terminates, self.honest, self.render_mode = end, terminates, honest, render_mode
        self.count, self.last = 0, None

    def reset(self, *, seed=None, options=None):
        """Begin; a dishonest probe ignores the seed."""
        super().reset(seed=seed)
        self.count = 0
        self.observation_space.seed(seed if self.honest else None)
        return self.observation_space.sample(), {}

    def step(self, action):
        """Count."""
        self.last, self.count = action, self.count + 1
        ended = self.count >= self.end
        return (
            self.observation_space.sample(),
            1.0,
            ended and self.terminates,
            ended and not self.terminates,
            {},
        )

    def render(self):
        """Draw the count."""
        return np.full((90, 120, 3), self.count, np.uint8)


@pytest.fixture
def entry(monkeypatch):
    """A module that users could have written, reachable as `my_envs:probe`."""
    module = ModuleType("my_envs")
    module.probe = Probe
    module.number = lambda: 3
    module.broken = lambda: 1 / 0
    monkeypatch.setitem(sys.modules, "my_envs", module)
    return lambda **kwargs: make("entry", entry="my_envs:probe", kwargs=kwargs.pop("probe", {}), **kwargs)


def test_a_bounded_action_is_scaled_to_its_range(entry):
    """[-1, 1] maps onto the bounds of every dimension, and beyond is clipped."""
    simulator = entry()
    simulator.reset()
    simulator.step(np.array([-1, 1], np.float32))
    assert simulator.env.last.tolist() == [0, 4]
    simulator.step(np.array([0, -3], np.float32))
    assert simulator.env.last.tolist() == [0.5, -2]


def test_an_end_at_the_time_limit_is_the_end_alone(entry):
    simulator = entry(probe={"end": 4}, time_limit=4)
    simulator.reset()
    step = [simulator.step(np.zeros(2, np.float32)) for _ in range(4)][-1]
    assert (step.terminated, step.truncated) == (True, False)


@pytest.mark.parametrize("limit", [150, 300])
def test_a_registered_limit_gives_way_to_ours(limit):
    simulator = make("gym", id="Pendulum-v1", time_limit=limit)
    assert simulator.spec.episode_frames == limit
    simulator.reset()
    ends = [simulator.step(np.zeros(1, np.float32)).truncated for _ in range(limit)]
    assert ends == [False] * (limit - 1) + [True]


@pytest.mark.parametrize("terminates", [True, False])
def test_ends_stay_apart_and_a_partial_repeat_counts_its_frames(entry, terminates):
    """Seven steps with repeat 3 are 3 + 3 + 1 frames."""
    simulator = entry(probe={"terminates": terminates}, action_repeat=3)
    simulator.reset()
    steps = [simulator.step(np.zeros(2, np.float32)) for _ in range(3)]
    assert [s.frames for s in steps] == [3, 3, 1]
    assert [s.reward for s in steps] == [3.0, 3.0, 1.0]
    assert (steps[-1].terminated, steps[-1].truncated) == (terminates, not terminates)


def test_our_time_limit_truncates(entry):
    """env.time_limit counts control steps."""
    simulator = entry(time_limit=4, action_repeat=3)
    simulator.reset()
    steps = [simulator.step(np.zeros(2, np.float32)) for _ in range(2)]
    assert [s.frames for s in steps] == [3, 1]
    assert steps[-1].truncated
    assert not steps[-1].terminated


def test_spaces_become_vectors_and_pictures(entry):
    """A Dict keeps its keys; numbers are one-hot; an image is C Y X."""
    space = spaces.Dict(
        camera=spaces.Box(0, 255, (16, 12, 3), np.uint8),
        arm=spaces.Dict(angles=spaces.Box(-1, 1, (2, 3)), grip=spaces.MultiBinary(2)),
        place=spaces.Discrete(3, start=5),
        dial=spaces.MultiDiscrete([2, 3]),
    )
    simulator = entry(probe={"observation": space})
    obs = simulator.reset()
    shapes = {key: value.shape for key, value in obs.items()}
    assert shapes == {
        "camera": (3, 16, 12),
        "arm_angles": (6,),
        "arm_grip": (2,),
        "place": (3,),
        "dial": (5,),
    }
    assert {k: (a.shape, a.dtype) for k, a in simulator.spec.observation.items()} == {
        k: (v.shape, str(v.dtype)) for k, v in obs.items()
    }
    assert obs["place"].sum() == 1
    assert obs["dial"].sum() == 2


def test_a_discrete_observation_is_one_hot_and_an_action_the_largest_entry(entry):
    """The index itself is not a number to learn from."""
    simulator = entry(probe={"observation": spaces.Discrete(4), "action": spaces.Discrete(3, start=2)})
    assert simulator.reset()["state"].shape == (4,)
    simulator.step(np.array([0.1, 0.2, 0.9], np.float32))
    assert simulator.env.last == 4


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"action": spaces.MultiDiscrete([2, 2])}, "Box of floats and Discrete"),
        ({"action": spaces.Tuple([spaces.Discrete(2)])}, "Box of floats and Discrete"),
        ({"action": spaces.Box(-np.inf, np.inf, (2,))}, "RescaleAction"),
        ({"observation": spaces.Tuple([spaces.Discrete(2)])}, "Dict of these"),
        ({"observation": spaces.Dict(reward=spaces.Discrete(2))}, "rename"),
    ],
)
def test_an_unusable_space_is_refused_before_training_with_a_way_out(entry, probe, words):
    """One clear sentence at construction."""
    with pytest.raises(EnvError, match=words):
        entry(probe=probe)


def test_replay_restores_exactly_what_keeps_to_its_seed(entry):
    """Restoring in a new object goes on identically."""
    source, twin = make("gym", id="CartPole-v1", seed=3), make("gym", id="CartPole-v1", seed=3)
    source.reset()
    source.reset()
    left = np.array([1, 0], np.float32)
    for _ in range(4):
        source.step(left)
    saved = source.snapshot()
    twin.restore(saved)
    assert twin.exact
    assert np.array_equal(source.step(left).obs["state"], twin.step(left).obs["state"])


def test_an_inexact_replay_is_recorded(entry):
    """Randomness beyond the seed is reported, not hidden."""
    source = entry(probe={"honest": False})
    source.reset()
    source.step(np.zeros(2, np.float32))
    twin = entry(probe={"honest": False})
    twin.restore(source.snapshot())
    assert not twin.exact
    assert "draws randomness" in twin.warning


def test_what_surrounds_a_simulator_passes_on_that_it_was_not_restored_exactly(entry):
    build = partial(entry, probe={"honest": False}, delay=1, recall=1)
    source, twin = build(), build()
    source.reset()
    source.step(np.zeros(2, np.float32))
    assert twin.exact
    twin.restore(source.snapshot())
    assert not twin.exact
    assert "draws randomness" in twin.warning


def test_a_picture_shows_the_present_state_even_without_pixels(entry):
    """A state environment opens a drawing twin that follows it."""
    simulator = entry(time_limit=4, action_repeat=2)
    simulator.reset()
    simulator.step(np.zeros(2, np.float32))
    assert simulator.render(45, 60).shape == (45, 60, 3)
    assert np.unique(simulator.render(45, 60)) == [2]
    simulator.reset()
    assert np.unique(simulator.render(45, 60)) == [0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_envs:number", "returned int"),
        ("my_envs:broken", "ZeroDivisionError: division by zero"),
        ("my_envs", "package.module"),
    ],
)
def test_a_wrong_entry_says_what_happened(entry, name, words):
    """The user's own exception stays visible."""
    with pytest.raises(EnvError, match=words):
        make("entry", entry=name)


def test_an_unknown_id_is_answered_with_a_near_one():
    """A typo costs one look."""
    with pytest.raises(EnvError, match="Pendulum-v1"):
        make("gym", id="Pendulm-v1")


def test_a_step_is_made_of_what_the_protocol_says(entry):
    """Types do not depend on what the environment returned."""
    simulator = entry()
    simulator.reset()
    step = simulator.step(np.zeros(2, np.float32))
    assert [type(v) for v in step] == [dict, float, bool, bool, int]
    assert isinstance(step, Step)
