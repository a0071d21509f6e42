"""What was done lately, and what changed, is shown beside what is seen now."""

import numpy as np
import pytest

from agents.cli import UserError
from agents.config import load_config
from envs import EnvError, make


def play(decisions=5, recall=3, **options):
    simulator = make("dmc", task="cheetah_run", action_repeat=2, seed=3, recall=recall, **options)
    draw = np.random.default_rng(0)
    seen, done = [simulator.reset()], []
    for _ in range(decisions):
        done.append(draw.uniform(-1, 1, 6).astype(np.float32))
        seen.append(simulator.step(done[-1]).obs)
    return simulator, seen, done


@pytest.mark.parametrize("hide", [[], ["velocity"]])
def test_the_newest_change_and_action_come_first(hide):
    _, seen, done = play(hide=hide)
    changes = np.diff([obs["state"] for obs in seen], axis=0)
    rows = np.concatenate([changes, np.stack(done)], 1)
    assert np.array_equal(seen[5]["recent"].reshape(3, -1), rows[:1:-1])
    assert np.array_equal(seen[1]["recent"].reshape(3, -1), [rows[0], 0 * rows[0], 0 * rows[0]])


def test_what_is_seen_now_is_unchanged_and_an_episode_begins_with_nothing():
    simulator, seen, done = play()
    plain = make("dmc", task="cheetah_run", action_repeat=2, seed=3)
    assert np.array_equal(seen[0]["state"], plain.reset()["state"])
    for obs, action in zip(seen[1:], done, strict=True):
        assert np.array_equal(obs["state"], plain.step(action).obs["state"])
    assert not seen[0]["recent"].any()
    assert not simulator.reset()["recent"].any()


def test_observations_are_as_late_as_they_are_and_actions_are_not():
    _, seen, done = play(delay=2)
    prompt = play()[1]
    recent, truth = seen[5]["recent"].reshape(3, -1), prompt[3]["recent"].reshape(3, -1)
    assert np.array_equal(recent[:, :-6], truth[:, :-6])
    assert np.array_equal(recent[:, -6:], done[:1:-1])


def test_a_snapshot_remembers_it():
    simulator, _, _ = play()
    other, _, _ = play(decisions=1)
    other.restore(simulator.snapshot())
    for _ in range(2):
        action = np.full(6, 0.3, np.float32)
        assert np.array_equal(other.step(action).obs["recent"], simulator.step(action).obs["recent"])


def test_where_there_is_nothing_to_recall_it_says_so():
    from envs.recalled import Recalled

    simulator, _, _ = play()
    with pytest.raises(EnvError, match="leave it out"):
        Recalled(simulator, count=3)
    del simulator.spec.observation["state"], simulator.spec.observation["recent"]
    with pytest.raises(EnvError, match="needs an observed vector"):
        Recalled(simulator, count=3)


def test_what_is_hidden_from_windows_cannot_be_recalled():
    with pytest.raises(UserError, match=r"env\.recall"):
        load_config(["env=dmc_walker", "env.drop=0", "agent.hide=0.3", "env.recall=2"])
