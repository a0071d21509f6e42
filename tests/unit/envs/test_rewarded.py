"""What the last decision was worth is shown beside what it led to."""

import numpy as np
import pytest

from envs import EnvError, make


def play(decisions=5, **options):
    simulator = make("dmc", task="cheetah_run", action_repeat=2, seed=3, reward_seen=True, **options)
    draw = np.random.default_rng(0)
    seen, rewards = [simulator.reset()], [0.0]
    for _ in range(decisions):
        step = simulator.step(draw.uniform(-1, 1, 6).astype(np.float32))
        seen.append(step.obs)
        rewards.append(step.reward)
    return simulator, seen, np.array(rewards, np.float32)


def test_an_observation_comes_with_the_reward_that_led_to_it_and_an_episode_begins_with_none():
    simulator, seen, rewards = play()
    assert rewards.any()
    assert np.array_equal(np.concatenate([obs["last_reward"] for obs in seen]), rewards)
    assert simulator.reset()["last_reward"] == 0
    plain = make("dmc", task="cheetah_run", action_repeat=2, seed=3)
    assert np.array_equal(seen[0]["state"], plain.reset()["state"])


def test_it_is_as_late_as_the_rest_and_can_be_hidden():
    _, seen, rewards = play(delay=2)
    assert np.array_equal(np.concatenate([obs["last_reward"] for obs in seen[2:]]), rewards[:-2])
    assert set(play(hide=["last_reward"])[0].spec.observation) == {"state"}


def test_a_snapshot_remembers_it():
    simulator, _, _ = play(decisions=3)
    other, _, _ = play(decisions=1)
    other.restore(simulator.snapshot())
    action = np.zeros(6, np.float32)
    assert other.last == simulator.last != 0
    assert np.array_equal(other.step(action).obs["last_reward"], simulator.step(action).obs["last_reward"])


def test_an_environment_that_shows_it_already_is_a_mistake():
    from envs.rewarded import Rewarded

    with pytest.raises(EnvError, match="leave it out"):
        Rewarded(play()[0])
