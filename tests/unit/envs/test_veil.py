"""Hidden parts are gone, late observations are late, and mistakes are named."""

import numpy as np
import pytest

from envs import EnvError, make


def play(decisions=6, **veil):
    simulator = make("dmc", task="walker_walk", action_repeat=2, seed=3, **veil)
    draw = np.random.default_rng(0)
    seen = [simulator.reset()["state"]]
    rewards = []
    for _ in range(decisions):
        step = simulator.step(draw.uniform(-1, 1, 6).astype(np.float32))
        seen.append(step.obs["state"])
        rewards.append(step.reward)
    return simulator, np.stack(seen), rewards


def test_a_hidden_part_is_gone_and_the_rest_is_as_it_was():
    plain, everything, rewards = play()
    veiled, seen, same = play(hide=["height"])
    parts = plain.spec.observation["state"].parts
    start, stop = parts["height"]
    assert np.array_equal(seen, np.delete(everything, np.s_[start:stop], 1))
    assert same == rewards
    shown = veiled.spec.observation["state"]
    assert shown.shape == (seen.shape[1],)
    first, last = shown.parts["velocity"]
    assert np.array_equal(seen[:, first:last], everything[:, slice(*parts["velocity"])])


def test_late_observations_are_those_of_decisions_ago_and_rewards_are_not_late():
    _, everything, rewards = play()
    _, seen, same = play(delay=2)
    assert np.array_equal(seen[2:], everything[:-2])
    assert np.array_equal(seen[0], everything[0])
    assert np.array_equal(seen[1], everything[0])
    assert same == rewards


def test_names_that_are_not_shown_and_hiding_everything_are_mistakes():
    with pytest.raises(EnvError, match="it shows height, orientations, state, velocity"):
        make("dmc", task="walker_walk", hide=["velocities"])
    with pytest.raises(EnvError, match="nothing to see"):
        make("dmc", task="walker_walk", hide=["state"])
