"""The agent as a policy, between updates and in a process of its own."""

import os
import signal

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from agents.assembly import build_agent
from agents.cli import UserError
from agents.collect import AgentPolicy, Alternating, collector, make_source
from agents.config import load_config
from agents.remote import Board, exploring_weights
from envs import EnvError, simulator_from_config

DEBUG = ("trainer=debug", "agent.compile=false", "env.time_limit=20")


def attached(*words, env="toy_point_mass"):
    cfg = load_config([*DEBUG, f"env={env}", *words])
    torch.manual_seed(cfg.seed)
    source = make_source(cfg)
    agent = build_agent(cfg, source.spec, torch.device("cpu"))
    source.attach(agent)
    return source, agent, cfg


def frames_of(batch):
    return int(batch["next", "frames"].sum())


def exhaust(source):
    for _ in range(3):
        source.next(random=False)


# ---- between updates


def test_a_restored_memory_is_where_the_agent_is():
    source, agent, _ = attached()
    kept = source.actor.state()
    agent.device = torch.device("meta")
    source.actor.restore(kept)
    tensors = (*source.actor.carry[1:], *source.actor.carry.cache)
    assert {tensor.device.type for tensor in tensors if torch.is_tensor(tensor)} == {"meta"}


def test_environments_that_cannot_be_saved_are_refused_before_the_first_step():
    cfg = load_config([*DEBUG, "env=dmc_walker", "env.backend=envpool"])
    with pytest.raises(UserError, match=r"trainer\.collector=async"):
        make_source(cfg)


def test_trying_the_policy_out_moves_neither_noise_nor_memory():
    source, agent, _ = attached()
    noise, carry = agent.generator.get_state(), source.actor.carry
    collector(source.env, source.actor)
    assert source.actor.carry is carry
    assert torch.equal(agent.generator.get_state(), noise)


def test_a_batch_holds_what_the_replay_reads():
    source, _, _ = attached()
    source.start()
    batch = source.next(random=True)
    assert batch.shape == (2, 1)
    for key in ("state", "action", "is_init", ("next", "state"), ("next", "reward"), ("next", "frames")):
        assert key in batch.keys(include_nested=True)
    assert batch["is_init"].all()
    assert torch.equal(source.next(random=True)["state"], batch["next", "state"])


def test_the_batches_kept_by_the_caller_do_not_change():
    source, _, _ = attached()
    source.start()
    first = source.next(random=True)
    copy = first.clone()
    for _ in range(3):
        source.next(random=False)
    assert (first == copy).all()


def test_a_new_episode_forgets_the_one_before():
    _, agent, _ = attached("agent=policy", "agent.explore_noise=0", "agent.wander=0")
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # an untrained agent ignores its memory
        for weight in (*agent.model.parameters(), *agent.policy.parameters()):
            weight.add_(torch.randn(weight.shape, generator=draw) * 0.2)

    def root(state, *, first):
        return TensorDict({"state": state, "is_init": torch.full((1, 1), first)}, [1])

    old, new = AgentPolicy(agent, 1), AgentPolicy(agent, 1)
    old.random = new.random = False
    for step in range(3):
        old(root(torch.randn(1, 4, generator=draw), first=step == 0))
    begin = torch.randn(1, 4, generator=draw)
    fresh = new(root(begin, first=True))["action"]
    assert torch.equal(old(root(begin, first=True))["action"], fresh)
    # The same observation inside an episode is another matter, or this test could not fail.
    assert not torch.equal(old(root(begin, first=False))["action"], fresh)


def test_after_asynchronous_collection_the_following_episodes_begin():
    source, _, cfg = attached()
    assert not source.restore({"episodes": [3, 5]})
    source.start()
    batch = source.next(random=True)
    for index, number in enumerate((3, 5)):
        simulator = simulator_from_config(cfg.env, cfg.seed, index)
        simulator.episode = number - 1
        assert np.array_equal(simulator.reset()["state"], batch["state"][index, 0])


# ---- in another process


def test_the_board_hands_over_weights_of_every_type_once():
    theirs = {"a": torch.randn(3, 5), "count": torch.tensor(7), "flag": torch.tensor([True, False])}
    ours = {name: torch.zeros_like(value) for name, value in theirs.items()}
    board = Board(theirs)
    board.publish(theirs)
    seen = board.fetch(ours, 0)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours["a"].zero_()
    assert board.fetch(ours, seen) == seen
    assert not ours["a"].any()  # the version did not change, so nothing was copied


@pytest.mark.parametrize("planner", ["none", "mppi"])
def test_the_collecting_process_reads_what_learns_and_how_often_there_is_reward(planner):
    agent = attached(f"agent.planner={planner}")[1]
    sent = exploring_weights(agent)
    assert {name.partition(".")[0] for name in sent} == {"model", "critic", "policy"}
    assert sent["critic.rewarded"].data_ptr() == agent.critic.rewarded.data_ptr()  # wandering ends by it
    assert all(p.data_ptr() == sent[f"policy.{n}"].data_ptr() for n, p in agent.policy.named_parameters())


@pytest.fixture(scope="module")
def beside():
    source, agent, cfg = attached(
        "trainer.collector=async", "agent=policy", "agent.wander=0", env="toy_identity"
    )
    assert not source.restore({"episodes": [3, 5]})
    source.start()
    yield source, agent, cfg
    source.close()


def test_it_collects_an_unbroken_stream_beside_us(beside):
    source, _, cfg = beside
    batches = [source.next(random=True) for _ in range(6)]
    assert source.pid != os.getpid()
    assert all(batch.shape == (2, 8) for batch in batches)
    whole = torch.cat(batches, 1)
    inside = ~whole["is_init"][:, 1:, 0]
    assert torch.equal(whole["state"][:, 1:][inside], whole["next", "state"][:, :-1][inside])
    assert torch.equal(whole["next", "done"][:, :-1, 0], ~inside)
    assert frames_of(whole) == whole.numel()  # 96 decisions of one frame, each of them once
    assert (whole["action"].sum(-1) == 1).all()
    assert whole["action"].sum((0, 1)).min() > 0  # every choice was tried
    simulator = simulator_from_config(cfg.env, cfg.seed, 0)
    simulator.episode = 2
    assert np.array_equal(simulator.reset()["state"], whole["state"][0, 0])
    assert source.state() == {"episodes": (np.array([3, 5]) + whole["is_init"].sum((1, 2)).numpy()).tolist()}


def test_new_weights_act_within_two_batches(beside):
    source, agent, _ = beside
    for choice in (1, 0, 2):
        with torch.no_grad():
            agent.policy.head.bias.zero_()[choice] = 100
        source.next(random=False)
        source.next(random=False)
        assert (source.next(random=False)["action"].argmax(-1) == choice).all()


def test_a_killed_process_is_an_error_and_leaves_nothing_behind(beside):
    source, _, _ = beside
    pid = source.pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EnvError, match="-9"):
        exhaust(source)
    source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_faulty_environment_ends_planned_collection_with_its_own_words():
    source, agent, cfg = attached(
        *("trainer.collector=async", "agent.planner=mppi", "env.kwargs.at=19"), env="toy_nan_obs"
    )
    assert cfg.env.kwargs == {"at": 19}
    threads = torch.get_num_threads()
    source.start()
    pid = source.pid
    try:
        batch = source.next(random=False)
        assert batch["action"].shape == (2, 8, agent.actions)
        with pytest.raises(EnvError, match="NaN") as caught:
            exhaust(source)
        assert "Traceback" not in str(caught.value)
    finally:
        source.close()
    assert torch.get_num_threads() == threads
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_usual_way_is_between_updates():
    assert isinstance(attached()[0], Alternating)
