"""What every simulator promises, whatever is behind it."""

import json

import numpy as np
import pytest

from envs import Spec, make, names
from envs.spec import Simulator
from envs.wire import pack, unpack

EVERY = {
    "dmc": {"kind": "dmc", "task": "hopper_hop", "action_repeat": 2, "time_limit": 15},
    "dmc veiled": {"kind": "dmc", "task": "hopper_hop", "time_limit": 15, "hide": ["velocity"], "delay": 2},
    "dmc that shows rewards": {"kind": "dmc", "task": "hopper_hop", "time_limit": 15, "reward_seen": True},
    "dmc that recalls": {"kind": "dmc", "task": "hopper_hop", "time_limit": 15, "recall": 2, "delay": 1},
    "dmc distracted and unreliable": {
        "kind": "dmc",
        "task": "hopper_hop",
        "time_limit": 15,
        "distractors": 5,
        "drop": 0.3,
        "hide": ["velocity"],
        "delay": 1,
    },
    "gym": {"kind": "gym", "id": "Pendulum-v1", "action_repeat": 2, "time_limit": 15},
    "gym discrete": {"kind": "gym", "id": "CartPole-v1"},
    "gym one-hot": {"kind": "gym", "id": "FrozenLake-v1"},
    "counter": {"kind": "toy", "task": "counter"},
    "identity": {"kind": "toy", "task": "identity"},
    "identity_continuous": {"kind": "toy", "task": "identity_continuous"},
    "point_mass": {"kind": "toy", "task": "point_mass", "action_repeat": 3},
    "ring": {"kind": "toy", "task": "ring"},
    "rover": {"kind": "toy", "task": "rover", "time_limit": 15},
    "ring_truncated": {"kind": "toy", "task": "ring_truncated"},
}


@pytest.fixture(params=EVERY, ids=list(EVERY))
def build(request):
    """A function of (seed, index) for one kind of simulator."""
    return lambda seed=0, index=0: make(**EVERY[request.param], seed=seed, index=index)


def actions(simulator, count):
    """Draw random action vectors: count A."""
    return np.random.default_rng(0).uniform(-1, 1, (count, simulator.spec.action.size)).astype(np.float32)


def run(simulator, plan):
    """Play and begin new episodes where they end."""
    rows = []
    for action in plan:
        step = simulator.step(action)
        rows.append((step, simulator.reset() if step.terminated or step.truncated else None))
    return rows


def same(a, b):
    """Whether two runs are equal bit for bit."""
    for (x, p), (y, q) in zip(a, b, strict=True):
        if x[1:] != y[1:] or any(not np.array_equal(x.obs[k], y.obs[k]) for k in x.obs):
            return False
        if (p is None) != (q is None) or (p and any(not np.array_equal(p[k], q[k]) for k in p)):
            return False
    return True


def test_it_keeps_to_the_protocol_and_its_spec(build):
    """Observations have the promised keys, shapes and types; a step the promised fields."""
    simulator = build()
    assert isinstance(simulator, Simulator)
    assert simulator.episode == -1
    spec = simulator.spec
    first = simulator.reset()
    for obs in (first, simulator.step(actions(simulator, 1)[0]).obs):
        assert {k: (v.shape, str(v.dtype)) for k, v in obs.items()} == {
            k: (a.shape, a.dtype) for k, a in spec.observation.items()
        }
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_ends_are_exclusive_and_frames_bounded_by_the_repeat(build):
    """Every decision uses 1 to `action_repeat` frames; a time limit is never a termination."""
    simulator = build()
    simulator.reset()
    steps = [step for step, _ in run(simulator, actions(simulator, 60))]
    assert all(1 <= s.frames <= simulator.spec.action_repeat for s in steps)
    assert all(s.frames == simulator.spec.action_repeat for s in steps if not (s.terminated or s.truncated))
    assert any(s.terminated or s.truncated for s in steps)
    assert not any(s.terminated and s.truncated for s in steps)


def test_an_episode_is_a_function_of_seed_index_and_number(build):
    """A new simulator asked for episode 2 gives what the third reset of another gave."""
    old, new = build(3, 1), build(3, 1)
    old.reset()
    run(old, actions(old, 5))
    old.episode = new.episode = 1
    assert same([(old.step(a), None) for a in prepared(old)], [(new.step(a), None) for a in prepared(new)])


def prepared(simulator):
    """Begin an episode and return a few actions."""
    simulator.reset()
    return actions(simulator, 1)


def test_a_snapshot_is_plain_and_continues_exactly(build):
    """Through bytes into another object, over the end of the episode, and more than once."""
    source = build(9, 2)
    source.reset()
    source.reset()
    source.step(actions(source, 1)[0])
    saved = unpack(pack(source.snapshot()))
    expected = run(source, actions(source, 40))
    twin = build(9, 2)
    for _ in range(2):
        twin.restore(saved)
        assert same(run(twin, actions(twin, 40)), expected)


def test_observations_are_not_overwritten_by_later_steps(build):
    """What was returned belongs to the caller."""
    simulator = build()
    first = simulator.reset()
    kept = {key: value.copy() for key, value in first.items()}
    run(simulator, actions(simulator, 5))
    assert all(np.array_equal(first[key], kept[key]) for key in kept)


def test_names_can_be_listed_without_duplicates():
    """Names are what `env=` takes."""
    listed = names()
    assert len(listed) == len(set(listed))
    assert {"dmc_walker", "dmc_walker_walk", "toy_ring"} <= set(listed)
