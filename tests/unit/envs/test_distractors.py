"""Noise is as predictable as asked for, says nothing of the simulator, and mistakes are named."""

import numpy as np
import pytest

from envs import EnvError, make
from envs.truth import truth


def play(decisions, seed=0, **settings):
    simulator = make("toy", task="point_mass", time_limit=decisions, seed=seed, **settings)
    seen, rewards = [simulator.reset()], []
    for k in range(decisions):
        step = simulator.step(np.full(simulator.spec.action.size, np.sin(k), np.float32))
        seen.append(step.obs)
        rewards.append(step.reward)
    return simulator, seen, rewards


@pytest.mark.parametrize(("memory", "scale"), [(0.0, 1.0), (0.9, 3.0)])
def test_noise_has_the_memory_and_the_scale_that_were_asked_for(memory, scale):
    _, seen, _ = play(400, distractors=40, distractor_memory=memory, distractor_scale=scale)
    noise = np.stack([obs["distractors"] for obs in seen]).astype(float)
    assert noise.std() == pytest.approx(scale, rel=0.1)
    correlation = (noise[1:] * noise[:-1]).mean() / noise.var()
    assert correlation == pytest.approx(memory, abs=0.05)
    between = np.corrcoef(noise.T) - np.eye(40)
    assert abs(between.mean()) < 0.02


def test_everything_else_is_as_it_was():
    _, plain, rewards = play(20)
    simulator, seen, same = play(20, distractors=3)
    assert rewards == same
    for before, after in zip(plain, seen, strict=True):
        assert after.keys() == before.keys() | {"distractors"}
        assert all(np.array_equal(before[key], after[key]) for key in before)
    assert "distractors" in truth(simulator, seen[-1])


def test_episodes_environments_and_seeds_differ_and_come_back():
    def noise(seed, index, episodes):
        simulator = make("toy", task="point_mass", seed=seed, index=index, distractors=4)
        return [simulator.reset()["distractors"] for _ in range(episodes)]

    first = noise(0, 0, 2)
    assert np.array_equal(first, noise(0, 0, 2))
    different = [*first, *noise(1, 0, 1), *noise(0, 1, 1)]
    assert len({tuple(one) for one in different}) == 4


def test_mistakes_are_named():
    with pytest.raises(EnvError, match="distractor_memory=1"):
        make("toy", task="point_mass", distractors=4, distractor_memory=1.0)
    inner = make("toy", task="point_mass", distractors=4)
    from envs.distractors import Distracted

    with pytest.raises(EnvError, match="already shows"):
        Distracted(inner, count=2)
