"""The batch keeps final observations, counters and episode starts straight, and can be saved."""

import numpy as np
import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs

from envs import EnvError, from_config, make_batch
from envs.wire import pack, unpack

COUNTER = {"kind": "toy", "task": "counter"}


def counter(num=3, repeat=1, **kwargs):
    """Build a batch of counters."""
    return make_batch({**COUNTER, "action_repeat": repeat, "kwargs": kwargs}, num)


def play(env, td, steps):
    """Step with zero actions; return the list of (root, next)."""
    seen = []
    size = env.facts.action.size
    for _ in range(steps):
        root = td.clone()
        td, following = env.step_and_maybe_reset(td.set("action", torch.zeros(env.num, size)))
        seen.append((root, td["next"].clone()))
        td = following
    return seen, td


@pytest.mark.parametrize("end", ["truncate", "terminate"])
def test_the_final_observation_is_kept_and_the_next_root_is_the_reset(end):
    """At an end `next` shows the last count; the root after it the first of a new episode."""
    env = counter(length=4, end=end)
    seen, _ = play(env, env.reset(), 6)
    assert [int(n["state"][0, 0]) for _, n in seen] == [1, 2, 3, 4, 1, 2]
    assert [int(r["state"][0, 0]) for r, _ in seen] == [0, 1, 2, 3, 0, 1]
    assert [int(r["state"][0, 1]) for r, _ in seen] == [0, 0, 0, 0, 1, 1]
    assert [bool(r["is_init"][0]) for r, _ in seen] == [True, False, False, False, True, False]
    assert [bool(n["is_init"][0]) for _, n in seen] == [False] * 6
    ends = [(bool(n["terminated"][0]), bool(n["truncated"][0]), bool(n["done"][0])) for _, n in seen]
    assert ends[3] == (end == "terminate", end == "truncate", True)
    assert not any(any(e) for i, e in enumerate(ends) if i != 3)


def test_what_was_handed_out_is_not_overwritten_later():
    """The caller may keep a tensordict for ever."""
    env = counter(length=4)
    td = env.reset()
    kept = []
    for _ in range(6):
        td, following = env.step_and_maybe_reset(td.set("action", torch.zeros(3, 1)))
        kept.append(td)
        td = following
    assert [int(k["next", "state"][0, 0]) for k in kept] == [1, 2, 3, 4, 1, 2]
    assert [int(k["state"][0, 0]) for k in kept] == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize(
    "factory",
    [
        COUNTER,
        {"kind": "toy", "task": "identity"},
        {"kind": "dmc", "task": "cartpole"},
        {"kind": "gym", "id": "CartPole-v1"},
    ],
)
def test_torchrl_accepts_the_batch(factory):
    """check_env_specs and the ordinary rollout agree with our shortcut."""
    env = make_batch(factory, 2)
    check_env_specs(env)
    env.close()


def test_the_plain_torchrl_path_gives_the_same_data():
    """rollout goes through step and maybe_reset, the collector through our override."""
    slow, fast = counter(length=4), counter(length=4)
    rolled = slow.rollout(9, lambda td: td.set("action", torch.zeros(3, 1)), break_when_any_done=False)
    seen, _ = play(fast, fast.reset(), 9)
    for t, (root, following) in enumerate(seen):
        for key in ("state", "is_init", "frames"):
            assert torch.equal(rolled[:, t][key], root[key])
        for key in ("state", "reward", "terminated", "truncated", "done", "frames"):
            assert torch.equal(rolled[:, t]["next", key], following[key])


def test_a_second_reset_does_not_skip_an_episode():
    """A collector resets again what was just reset."""
    env = counter()
    env.reset()
    assert env.reset()["state"][:, 1].tolist() == [0, 0, 0]
    play(env, env.reset(), 2)
    assert env.reset()["state"].tolist() == [[0, 1]] * 3


def test_environments_differ_and_seeds_repeat():
    """Every environment has its own stream; the same seed gives the same ones."""

    def start(seed):
        return make_batch({"kind": "toy", "task": "point_mass"}, 3, seed=seed).reset()["state"]

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert not torch.equal(start(1)[0], start(1)[1])
    env = make_batch({"kind": "toy", "task": "point_mass"}, 3, seed=5)
    env.set_seed(1)
    assert torch.equal(env.reset()["state"], start(1))


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_every_backend_gives_the_same_data(backend):
    """Where environments run is no part of the result."""
    factory = {"kind": "dmc", "task": "cartpole_swingup", "action_repeat": 2, "time_limit": 9}
    runs = []
    for name in ("serial", backend):
        env = make_batch(factory, 3, backend=name, workers=2, seed=4)
        generator = torch.Generator().manual_seed(0)
        td, rows = env.reset(), []
        for _ in range(12):
            td.set("action", torch.rand(3, 1, generator=generator) * 2 - 1)
            td, following = env.step_and_maybe_reset(td)
            rows.append(td)
            td = following
        runs.append(torch.stack(rows))
        env.close()
    assert (runs[0] == runs[1]).all()


@pytest.mark.parametrize("backend", ["serial", "process"])
def test_a_restored_batch_goes_on_and_the_first_reset_returns_the_present(backend):
    """A collector calls reset at its start; a resumed run must not lose its episodes there."""
    factory = {"kind": "dmc", "task": "reacher_easy", "time_limit": 7}
    source = make_batch(factory, 2, backend=backend, workers=2, seed=3)
    _, td = play(source, source.reset(), 3)
    source.reset(td.empty().set("_reset", torch.tensor([[False], [True]])))
    td = source.current()
    saved = source.snapshot()
    saved["envs"] = [unpack(pack(one)) for one in saved["envs"]]
    twin = make_batch(factory, 2, seed=3)
    twin.reset()
    twin.restore(saved)
    resumed = twin.reset()
    for key in ("state", "is_init", "frames"):
        assert torch.equal(resumed[key], td[key])
    expected, _ = play(source, td, 12)
    got, _ = play(twin, resumed, 12)
    for (a, b), (c, d) in zip(expected, got, strict=True):
        assert (a == c).all()
        assert (b == d).all()
    assert twin.reset()["is_init"].all()
    source.close()


def test_a_snapshot_of_something_else_is_refused():
    """Resuming with other settings is an error, not a silent mix."""
    saved = counter(2, length=4)
    saved.reset()
    with pytest.raises(EnvError, match=r"set env\.num"):
        counter(3, length=4).restore(saved.snapshot())
    with pytest.raises(EnvError, match="another environment"):
        counter(2, 2, length=4).restore(saved.snapshot())


def test_the_collector_sees_every_step_once():
    """Through TorchRL's collector the counter counts without gap or repetition."""
    env = counter(2, length=5)
    policy = lambda td: td.set("action", torch.zeros(2, 1))  # noqa: E731 - a plain function is what is tested
    batches = Collector(
        env, policy, frames_per_batch=14, total_frames=42, trust_policy=True, track_traj_ids=False
    )
    rows = torch.cat(list(batches), 1)
    assert rows["next", "state"][0, :, 0].tolist() == [1 + i % 5 for i in range(21)]
    assert rows["next", "truncated"][0, :, 0].tolist() == [i % 5 == 4 for i in range(21)]
    assert rows["next", "state"][0, :, 1].tolist() == [i // 5 for i in range(21)]
    batches.shutdown()


def test_a_nan_action_is_refused_with_a_hint():
    """A diverged policy is named where it shows first."""
    env = counter()
    td = env.reset()
    with pytest.raises(EnvError, match="training diverged"):
        env.step_and_maybe_reset(td.set("action", torch.full((3, 1), float("nan"))))


def test_a_config_object_is_enough():
    """The env config group and make_batch share their names."""

    class Config:
        kind, task, id, entry, kwargs = "toy", "counter", None, None, {"length": 3}
        action_repeat, observations, pixels, camera, time_limit = 2, "state", 64, 0, None
        num, backend, workers, timeout_s, restarts = 2, "serial", None, 60.0, 5

    env = from_config(Config(), seed=1, num=4)
    assert env.num == 4
    assert env.facts.action_repeat == 2
    assert env.facts.episode_frames == 3


def test_wire_keeps_arrays_and_scalars():
    """Nothing is rounded or reshaped on the way to a worker."""
    message = {
        "a": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "b": np.zeros((0, 4)),
        "c": 0.1,
        "d": ["x", None],
        "e": True,
    }
    back = unpack(pack(message))
    assert back["c"] == 0.1
    assert back["d"] == ["x", None]
    assert back["e"] is True
    assert back["a"].dtype == np.uint8
    assert np.array_equal(back["a"], message["a"])
    assert back["b"].shape == (0, 4)
