"""Environments that die, hang or show NaN: cut cleanly, restarted within a budget, named at the end."""

import itertools
import subprocess
import sys
import time

import pytest
import torch

from envs import EnvError, make_batch


def walk(env, steps):
    """Step with zero actions and yield (root, next)."""
    td = env.reset()
    for _ in range(steps):
        root = td.clone()
        td, following = env.step_and_maybe_reset(td.set("action", torch.zeros(env.num, 1)))
        yield root, td["next"]
        td = following


def check_no_transition_crosses_a_crash(rows):
    """Within an environment, count and episode go on by one or the episode was cut in place."""
    for root, following in rows:
        for i in range(len(root)):
            before, after = root["state"][i].tolist(), following["state"][i].tolist()
            if following["frames"][i] == 0:
                assert after == before
                assert following["truncated"][i]
                assert not following["terminated"][i]
                assert following["reward"][i] == 0
            else:
                assert after == [before[0] + 1, before[1]]
    for (_, old), (new, _) in itertools.pairwise(rows):
        for i in range(len(new)):
            if old["done"][i]:
                assert new["is_init"][i]
                assert new["state"][i, 0] == 0
                assert new["state"][i, 1] > old["state"][i, 1], "an episode number came back"
            else:
                assert torch.equal(new["state"][i], old["state"][i])


@pytest.mark.parametrize(
    ("backend", "how", "used"),
    [("serial", "exception", 3), ("process", "exception", 3), ("process", "kill", 3)],
)
def test_a_broken_environment_is_cut_and_begins_anew(backend, how, used):
    """Every second episode of environment 1 breaks; others are cut at most with their worker."""
    kwargs = {"at": 3, "how": how, "every": 2, "only_index": 1, "length": 5}
    env = make_batch(
        {"kind": "toy", "task": "crash", "kwargs": kwargs}, 3, backend=backend, workers=2, restarts=5
    )
    rows = list(walk(env, 20))
    check_no_transition_crosses_a_crash(rows)
    assert env.restarts_used == used
    assert sum(int(n["frames"][0]) == 0 for _, n in rows) == 0, "environment 0 lives in another worker"
    env.close()


@pytest.mark.parametrize("backend", ["serial", "process"])
def test_over_budget_the_environments_own_words_are_shown(backend):
    """More failures than env.restarts end the run with the child's traceback."""
    env = make_batch({"kind": "toy", "task": "crash"}, 2, backend=backend, workers=2, restarts=3)
    with pytest.raises(EnvError, match=r"(?s)env.restarts=3.*toy_crash broke at frame 5"):
        list(walk(env, 60))
    env.close()


def test_a_killed_worker_shows_how_it_ended():
    """The exit by SIGKILL is named."""
    env = make_batch(
        {"kind": "toy", "task": "crash", "kwargs": {"how": "kill"}}, 1, backend="process", restarts=0
    )
    with pytest.raises(EnvError, match="ended with code -9"):
        list(walk(env, 10))
    env.close()


@pytest.mark.parametrize("backend", ["serial", "process"])
def test_nan_stops_at_once_and_is_named(backend):
    """Key, environment, episode and decision stand in the message; no restart hides it."""
    env = make_batch(
        {"kind": "toy", "task": "nan_obs", "kwargs": {"at": 3, "only_index": 1}}, 2, backend=backend
    )
    with pytest.raises(EnvError, match="environment 1, episode 0, decision 3: observation 'state' is NaN"):
        list(walk(env, 5))
    env.close()


def test_workers_die_with_their_parent():
    """A parent killed without warning leaves no process behind."""
    code = (
        "import os, signal; from envs import make_batch\n"
        "env = make_batch({'kind': 'toy', 'task': 'counter'}, 2, backend='process', workers=2); env.reset()\n"
        "print(*env.backend.pids, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    pids = [int(word) for word in out.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(alive(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
