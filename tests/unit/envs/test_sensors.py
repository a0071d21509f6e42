"""Dead sensors read 0 for a whole episode, are marked, and change nothing else."""

import numpy as np
import pytest

from envs import EnvError, make


def play(episodes=40, steps=3, **settings):
    """What is shown, episode by episode and step by step: E T, one vector of each key."""
    simulator = make("dmc", task="walker_walk", time_limit=2 * steps, action_repeat=2, seed=1, **settings)
    action, shown = np.zeros(6, np.float32), []
    for _ in range(episodes):
        seen = [simulator.reset()] + [simulator.step(action).obs for _ in range(steps)]
        shown.append({key: np.stack([obs[key] for obs in seen]) for key in seen[0]})
    return shown


def test_dead_sensors_are_marked_for_the_whole_episode_and_read_nothing():
    plain, broken = play(), play(drop=0.3)
    dead = np.stack([episode["missing"] for episode in broken])
    assert dead.mean() == pytest.approx(0.3, abs=0.05)
    assert (dead == dead[:, :1]).all()
    assert len({tuple(each[0]) for each in dead}) == len(broken)
    for before, after in zip(plain, broken, strict=True):
        expected = np.where(after["missing"] == 1, 0, before["state"])
        assert np.array_equal(after["state"], expected)


def test_no_drop_shows_that_nothing_is_missing():
    plain, whole = play(2), play(2, drop=0.0)
    assert not any(episode["missing"].any() for episode in whole)
    assert np.array_equal(plain[1]["state"], whole[1]["state"])


def test_marks_follow_the_order_of_the_keys():
    simulator = make("toy", task="point_mass", distractors=4, drop=0.5, seed=2)
    simulator.reset()
    obs = simulator.step(np.ones(simulator.spec.action.size, np.float32)).obs  # nothing is 0 by itself
    everything = np.concatenate([obs[key] for key in ("distractors", "state")])
    assert not everything[obs["missing"] == 1].any()
    assert everything[obs["missing"] == 0].all()


def test_mistakes_are_named():
    with pytest.raises(EnvError, match="between 0 and 1"):
        make("toy", task="point_mass", drop=1.5)
    with pytest.raises(EnvError, match="observations that are vectors"):
        make("dmc", task="walker_walk", observations="pixels", drop=0.1)
