"""What every part around the agent relies on, for both kinds of actions, with and without a planner."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from agents.assembly import build_agent
from agents.cli import UserError
from agents.config import load_config
from agents.replay import make_replay
from envs import make_batch, simulator_from_config
from worldmodel import State, WorldModel

CASES = {
    "continuous": ("point_mass", ["agent=policy"]),
    "discrete": ("identity", ["agent=policy"]),
    "continuous, planned": ("point_mass", ["agent=planner"]),
    "discrete, planned": ("identity", ["agent=planner"]),
}


def build(case: str, *more: str):
    task, settings = CASES[case]
    cfg = load_config([f"env=toy_{task}", "trainer=debug", *settings, *more])
    env = make_batch({"kind": "toy", "task": task}, 3, seed=0)
    torch.manual_seed(0)
    return cfg, env, build_agent(cfg, env.facts, torch.device("cpu"))


def batch_of(cfg, env):
    fields = {key: (array.shape, array.dtype) for key, array in env.facts.observation.items()}
    size = env.facts.action.size
    window = cfg.agent.window + 1
    replay = make_replay(fields, size, capacity=600, num_envs=3, window=window, batch=cfg.agent.batch)
    step = env.reset()
    for _ in range(40):
        step["action"] = torch.rand(3, size) * 2 - 1
        done, step = env.step_and_maybe_reset(step)
        replay.extend(done)
    return replay.sample()


def observation(env, num: int = 3):
    root = env.reset()
    return {key: root[key][:num] for key in (*env.facts.observation, "is_init")}


@pytest.mark.parametrize("case", CASES)
def test_actions_have_the_shape_and_range_the_environment_wants(case):
    _, env, agent = build(case)
    for num in (1, 3):
        carry, action = agent.act(agent.start(num), observation(env, num), explore=True)
        assert action.shape == (num, env.facts.action.size)
        assert action.isfinite().all()
        assert action.abs().max() <= 1
        if agent.discrete:
            assert torch.equal(action.sum(-1), torch.ones(num))
        assert torch.equal(carry.action, action)


@pytest.mark.parametrize("case", CASES)
def test_acting_greedily_repeats_and_exploring_varies(case):
    _, env, agent = build(case)
    obs = observation(env)

    def act(explore, seed):
        generator = torch.Generator().manual_seed(seed)
        draws = [agent.act(agent.start(3), obs, explore=explore, generator=generator) for _ in range(20)]
        return torch.stack([action for _, action in draws])

    if agent.cfg.planner == "none":
        assert torch.equal(act(False, 0), act(False, 1))
    assert torch.equal(act(True, 0), act(True, 0))
    assert not torch.equal(act(True, 0), act(True, 1))


def test_one_environment_among_many_gets_the_action_it_would_get_alone():
    _, env, agent = build("continuous")
    obs = observation(env)
    _, together = agent.act(agent.start(3), obs, explore=False)
    _, alone = agent.act(agent.start(1), {key: value[:1] for key, value in obs.items()}, explore=False)
    torch.testing.assert_close(together[:1], alone)


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("part", ["action=batchnorm", "aggregator=bidirectional"])
def test_neither_other_environments_nor_chance_have_a_part_in_what_is_believed(part, explore):
    cfg, env, agent = build("continuous, planned", f"worldmodel/{part}")
    obs = observation(env) | {"is_init": torch.zeros(3, 1, dtype=torch.bool)}
    before = {name: value.clone() for name, value in agent.weights().items()}

    def first(others: float) -> torch.Tensor:
        carry = agent.start(3)
        carry.action[1:] = others
        _, action = agent.act(carry, obs, explore=explore, generator=torch.Generator().manual_seed(0))
        return action[0]

    assert torch.equal(first(0.1), first(0.9))
    agent.random(agent.start(1), {key: value[:1] for key, value in obs.items()})
    assert all(torch.equal(before[name], value) for name, value in agent.weights().items())
    assert agent.model.training
    agent.update(batch_of(cfg, env))


def test_an_episode_start_forgets_the_episode_before():
    _, env, agent = build("continuous")
    obs = observation(env)
    carry = agent.start(3)
    for _ in range(3):
        carry, _ = agent.act(carry, obs | {"is_init": torch.zeros(3, 1, dtype=torch.bool)}, explore=True)
    _, after = agent.act(carry, obs | {"is_init": torch.ones(3, 1, dtype=torch.bool)}, explore=False)
    _, fresh = agent.act(agent.start(3), obs | {"is_init": torch.ones(3, 1, dtype=torch.bool)}, explore=False)
    torch.testing.assert_close(after, fresh)


@pytest.mark.parametrize("case", ["continuous", "discrete"])
def test_saved_and_loaded_agents_take_the_same_next_steps(case):
    cfg, env, agent = build(case)
    batch = batch_of(cfg, env)
    agent.update(batch.clone())
    _, _, other = build(case)
    other.load_state_dict(agent.state_dict())
    for _ in range(3):
        first, second = agent.update(batch.clone()), other.update(batch.clone())
        assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in second.items()}
    for name, value in agent.state_dict()["weights"].items():
        assert torch.equal(value, other.state_dict()["weights"][name]), name


def test_weights_of_another_agent_are_refused_in_words():
    _, _, agent = build("continuous")
    weights = agent.state_dict()["weights"]
    for change in ({"policy.head.bias": torch.zeros(9)}, {"stranger": torch.zeros(1)}):
        with pytest.raises(UserError, match=next(iter(change))) as caught:
            agent.load_weights(weights | change)
        assert "train anew" in str(caught.value)


@pytest.mark.parametrize("case", ["continuous", "discrete"])
def test_an_update_moves_every_trained_network_and_reports_plain_metrics(case):
    cfg, env, agent = build(case)
    batch = batch_of(cfg, env)
    before = {name: value.clone() for name, value in agent.state_dict()["weights"].items()}
    for _ in range(2):  # some last layers start at zero and give their inputs no gradient at first
        metrics = agent.update(batch)
    after = agent.state_dict()["weights"]
    still = {name for name in before if torch.equal(before[name], after[name])}
    acting = ("model.encoder.trunk", "model.predictor", "policy")
    for network in (*acting, "critic", "target.encoder", "acting_model", "target_critic", "acting_policy"):
        moved = {name for name in before if name.startswith(network)} - still
        assert moved, network
    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in metrics.values())
    assert batch["priority"].shape == batch.shape


def test_critics_and_policy_send_no_gradient_into_the_representation():
    cfg, env, agent = build("continuous")
    batch = batch_of(cfg, env)
    tensors = {key: batch[key] for key in batch.keys()}  # noqa: SIM118
    agent.objective.weights = dict.fromkeys(agent.objective.weights, 0.0)
    noise = torch.zeros(batch.shape[0], batch.shape[1] - cfg.agent.nstep, agent.actions)
    total, _, _ = agent.losses(tensors, noise)
    total.backward()
    gradients = [p.grad for p in agent.model.parameters() if p.grad is not None]
    assert all(g.abs().max() == 0 for g in gradients)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in agent.critic.parameters())


def test_the_policys_loss_leaves_the_critics_alone():
    _, _, agent = build("continuous")
    belief, taken = torch.randn(4, 3, agent.model.belief_size), torch.randn(4, 3, agent.actions)
    loss, _ = agent._policy_loss(belief, taken, torch.zeros(4, 3), torch.ones(4, 3), torch.tensor(12.0))
    loss.backward()
    assert all(p.grad is None for p in agent.critic.parameters())
    assert any(p.grad is not None for p in agent.policy.parameters())


@pytest.mark.parametrize("preferred", [True, False])
def test_the_policy_becomes_what_was_done_only_where_a_critic_prefers_that(preferred):
    # An untrained critic values everything alike, so no slope leads anywhere.
    _, _, agent = build("continuous, planned", "agent.imitation=0.1")
    belief = torch.randn(64, 1, agent.model.belief_size)
    taken = belief[..., :1].tanh().expand(64, 1, agent.actions)
    worth = torch.full((64, 1), 1.0 if preferred else -1.0)
    optimiser = torch.optim.Adam(agent.policy.parameters(), 1e-3)
    for _ in range(200):
        loss, _ = agent._policy_loss(belief, taken, worth, torch.ones(64, 1), torch.tensor(64.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    distance = (agent.policy.squash(agent.policy(belief)) - taken).abs().mean()
    assert distance < 0.05 if preferred else distance > 0.3


def test_what_was_done_is_worth_what_the_lowest_critic_says():
    cfg, env, agent = build("continuous")
    batch, given = batch_of(cfg, env), []
    with torch.no_grad():  # untrained critics agree; shaken ones do not
        for p in agent.critic.parameters():
            p.add_(0.1 * torch.randn_like(p))
    plain = agent._policy_loss
    agent._policy_loss = lambda *a: given.append(a) or plain(*a)
    noise = torch.zeros(batch.shape[0], batch.shape[1] - cfg.agent.nstep, agent.actions)
    agent._grade({key: batch[key] for key in batch.keys()}, noise)  # noqa: SIM118
    belief, taken, worth, *_ = given[0]
    told = agent._judged(agent.exploring, belief, taken)
    assert (told.amax(0) - told.amin(0)).max() > 1e-3
    torch.testing.assert_close(worth, told.amin(0).detach())


def test_what_acts_is_a_slow_average_of_what_learns():
    cfg, env, agent = build("continuous", "agent.tau=0.25")
    batch, (slow, _, _) = batch_of(cfg, env), agent.acting
    before = [p.clone() for p in slow.parameters()]
    agent.update(batch)
    for old, mine, theirs in zip(before, slow.parameters(), agent.model.parameters(), strict=True):
        torch.testing.assert_close(mine, old.lerp(theirs, 0.25))
    for mine, theirs in zip(slow.buffers(), agent.model.buffers(), strict=True):
        assert torch.equal(mine, theirs)  # running statistics are facts, not weights


@pytest.mark.parametrize("case", ["continuous", "continuous, planned"])
def test_it_explores_with_what_learns_and_does_well_with_its_average(case):
    _, env, agent = build(case, "agent.explore_noise=0", "agent.wander=0", "agent.plan.eval_horizon=null")
    obs = observation(env)
    with torch.no_grad():
        agent.policy.head.bias.fill_(9.0)
    explored = agent.act(agent.start(3), obs, explore=True)[1]
    done_well = agent.act(agent.start(3), obs, explore=False)[1]
    assert (explored - done_well).abs().max() > 0.1
    agent.acting.policy.load_state_dict(agent.policy.state_dict())
    agent.generator.manual_seed(1)
    explored = agent.act(agent.start(3), obs, explore=True)[1]
    agent.generator.manual_seed(1)
    torch.testing.assert_close(agent.act(agent.start(3), obs, explore=False)[1], explored)


def test_padding_of_a_window_changes_nothing_that_is_learned():
    cfg, env, agent = build("continuous")
    batch = batch_of(cfg, env)
    batch["valid"][:, -2:] = False
    noise = torch.zeros(batch.shape[0], batch.shape[1] - cfg.agent.nstep, agent.actions)

    def loss(rows):
        agent.optimiser.zero_grad()
        total, _, _ = agent.losses({key: rows[key] for key in rows.keys()}, noise)  # noqa: SIM118
        return total

    first = loss(batch)
    changed = batch.clone()
    for key in ("state", "prev_action", "reward"):
        changed[key][:, -2:] = 7.0
    changed["terminated"][:, -2:] = True
    torch.testing.assert_close(loss(changed), first)


def test_the_planner_prefers_the_action_the_reward_head_pays_for():
    _, env, agent = build("continuous, planned")

    class Pays(torch.nn.Module):
        """Pays for the first action component, read from what the predictor was given."""

        def forward(self, trunk):
            return trunk

        def mean(self, trunk):
            return trunk[..., 0]

    model = agent.acting.model
    model.reward = Pays()
    plain = model.predict

    def predict(belief, action):
        out = plain(belief, action)
        return out._replace(trunk=torch.cat([action[..., :1], out.trunk[..., 1:]], -1))

    model.predict = predict
    _, action = agent.act(agent.start(3), observation(env), explore=False)
    assert (action[:, 0] > 0.8).all()


@pytest.mark.parametrize("case", ["continuous, planned", "discrete, planned"])
@pytest.mark.parametrize(("margin", "explore"), [("1.0", False), ("null", False), ("1.0", True)])
def test_a_plan_that_critics_do_not_agree_on_leaves_the_policy_alone(case, margin, explore):
    _, _, agent = build(case, f"agent.plan.margin={margin}")
    belief, warm = torch.randn(3, agent.model.belief_size), agent.start(3).plan
    state = State(belief, agent.model.start(3))
    policy = agent.policy.squash(agent.policy(belief))

    def planned(*words):
        """Search while the critics value what follows an action so much more than another."""

        def values(mind, belief, noise=None):
            taken = belief[..., :1].sum(-1)
            return torch.stack([word * taken for word in words])

        agent._values = values
        return agent.plan(state, warm, torch.Generator().manual_seed(0), explore=explore)[0]

    agree, disagree = planned(100.0, 101.0), planned(100.0, -100.0)
    assert not torch.equal(agree, policy)
    assert torch.equal(disagree, policy) == (margin == "1.0" and not explore)


@pytest.mark.parametrize(("asked", "far"), [("4", 4), ("null", 2), ("1", 1)])
def test_it_looks_further_ahead_where_it_does_not_explore(monkeypatch, asked, far):
    _, env, agent = build("continuous, planned", "agent.plan.horizon=2", f"agent.plan.eval_horizon={asked}")
    seen, imagine = [], WorldModel.imagine
    monkeypatch.setattr(
        WorldModel,
        "imagine",
        lambda model, state, policy, horizon: seen.append(horizon) or imagine(model, state, policy, horizon),
    )
    carry = agent.start(3)
    for explore in (True, False, True):  # one memory serves both
        carry, _ = agent.act(carry, observation(env), explore=explore)
        assert carry.plan.shape == (3, max(far, 2), agent.actions)
    assert seen == [2, 2, far, far, 2, 2]


@pytest.mark.parametrize("kind", ["continuous, planned", "discrete, planned"])
@pytest.mark.parametrize(
    ("asked", "explored", "done_well"),
    [("4", [2], [0, 2, 4]), ("null", [2], [2]), ("2", [2], [2]), ("1", [2], [1])],
)
def test_a_plan_that_goes_further_is_judged_at_once_and_after_both_horizons(kind, asked, explored, done_well):
    _, env, agent = build(kind, "agent.plan.horizon=2", f"agent.plan.eval_horizon={asked}")
    worths, judged = agent._worths, []
    agent._worths = lambda mind, seen, ends: judged.append(ends) or worths(mind, seen, ends)
    for explore, ends in ((True, explored), (False, done_well)):
        judged.clear()
        agent.act(agent.start(3), observation(env), explore=explore)
        assert judged == [ends] * agent.cfg.plan.iterations


def test_a_plan_is_worth_its_rewards_and_what_follows_on_average_over_ends():
    _, _, agent = build("continuous, planned")
    beliefs = torch.zeros(1, 4, agent.model.belief_size)  # where it begins, and after every decision
    beliefs[0, :, 0] = torch.tensor([1.0, 10.0, 20.0, 30.0])
    agent._values = lambda mind, belief, noise=None: torch.stack([belief[:, 0], 2 * belief[:, 0]])
    agent._judged = lambda mind, belief, action: agent._values(mind, belief + action[:, :1])
    rewards, lives = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.5, 0.8]])
    actions = torch.tensor([[[0.5, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    seen = SimpleNamespace(rewards=rewards, continuations=lives, beliefs=beliefs, actions=actions)
    d = agent.discount
    for critic, (at_once, near, far) in enumerate([(1.5, 20.0, 30.0), (3.0, 40.0, 60.0)]):
        after_two = 1 + d * 2 + d**2 * 0.5 * near
        after_three = 1 + d * 2 + d**2 * 0.5 * 4 + d**3 * 0.4 * far
        every = (at_once + after_two + after_three) / 3
        for ends, worth in (([0], at_once), ([2], after_two), ([3], after_three), ([0, 2, 3], every)):
            assert agent._worths(agent.acting, seen, ends)[critic].item() == pytest.approx(worth)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["continuous, planned", "discrete, planned"])
def test_the_search_is_one_graph(case):
    _, env, agent = build(case, "agent.plan.horizon=2", "agent.plan.iterations=1")
    carry, obs = agent.start(3), observation(env)
    _, belief, cache = agent._believe(agent.model, carry, obs)
    plan = agent.cfg.plan
    noise = torch.randn(plan.guides + plan.iterations * plan.samples, *carry.plan.shape)
    state = State(belief, cache)
    # aot_eager traces like the real compiler, without a minute of code generation.
    search = partial(agent.search, agent.exploring, agent.cfg.plan.margin)
    compiled = torch.compile(search, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(state, carry.plan, noise), search(state, carry.plan, noise))


def test_a_model_that_imagines_nan_stops_the_agent():
    _, env, agent = build("continuous, planned")
    with torch.no_grad():
        agent.model.reward.linear.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        agent.act(agent.start(3), observation(env), explore=True)


def test_a_planner_without_the_heads_it_reads_is_a_mistake_with_a_fix():
    cfg = load_config(["env=toy_point_mass", "trainer=debug", "worldmodel/terms=mse"])
    cfg.worldmodel = dict(cfg.worldmodel) | {"heads": {}, "terms": {"mse": {"weight": 1.0}}}
    env = make_batch({"kind": "toy", "task": "point_mass"}, 1, seed=0)
    with pytest.raises(UserError, match="reward and continuation") as caught:
        build_agent(cfg, env.facts, torch.device("cpu"))
    assert "agent=policy" in str(caught.value)


def test_nothing_to_come_may_count_nothing():
    assert build("continuous", "agent.discount=0")[2].discount == 0.0
    assert build("continuous")[2].discount > 0.9


def test_random_actions_cover_the_range_and_last():
    _, env, agent = build("continuous")
    seen = {key: value[:1].expand(500, *value.shape[1:]) for key, value in observation(env).items()}
    carry, first = agent.random(agent.start(500), seen | {"is_init": torch.ones(500, 1, dtype=torch.bool)})
    actions = [first]
    for _ in range(40):
        carry, action = agent.random(carry, seen | {"is_init": torch.zeros(500, 1, dtype=torch.bool)})
        actions.append(action)
    drawn = torch.stack(actions)
    assert first.abs().min() > 0  # nothing lasts from before the episode
    assert abs(drawn.std() - 3**-0.5) < 0.02  # uniform over [-1, 1]
    assert abs((drawn[1:] == drawn[:-1]).float().mean() - 0.75) < 0.02


@pytest.mark.parametrize("case", ["continuous", "discrete"])
def test_exploration_wanders_until_rewards_are_common(case):
    _, env, agent = build(case)
    start = observation(env) | {"is_init": torch.ones(3, 1, dtype=torch.bool)}
    seen = {key: value[:1].expand(2000, *value.shape[1:]) for key, value in start.items()}
    for rewarded, share in ((0.0, 0.5), (0.2, 0.2), (0.9, 0.0)):
        agent.critic.rewarded.fill_(rewarded)
        carry, _ = agent.act(agent.start(2000), seen, explore=True)
        assert abs(carry.wandering.float().mean() - share) < 0.05
    agent.critic.rewarded.zero_()
    carry, _ = agent.act(agent.start(2000), seen, explore=True)
    seen["is_init"] = torch.zeros(2000, 1, dtype=torch.bool)
    later, _ = agent.act(carry, seen, explore=True)
    assert (later.wandering == carry.wandering).float().mean() > 0.95  # for a while, not for a moment


def test_updates_count_how_often_there_is_a_reward():
    cfg, env, agent = build("continuous")
    batch = batch_of(cfg, env)
    batch["reward"], batch["valid"] = torch.zeros_like(batch["reward"]), torch.ones_like(batch["valid"])
    agent.update(batch)
    assert agent.critic.rewarded == 0
    batch["reward"][:4] = 3.0
    batch["reward"][4:8] = 0.001  # nothing, beside the others
    agent.update(batch)
    assert agent.critic.rewarded == pytest.approx(cfg.agent.tau * 4 / len(batch))
    assert torch.equal(agent.acting.critic.rewarded, agent.critic.rewarded)


def test_sensors_are_hidden_anew_from_every_window_and_not_from_the_target():
    cfg = load_config(["env=toy_point_mass", "env.drop=0", "trainer=debug", "agent=policy", "agent.hide=0.5"])
    env = make_batch({"kind": "toy", "task": "point_mass", "drop": 0.0}, 3, seed=0)
    agent = build_agent(cfg, env.facts, torch.device("cpu"))
    seen = {"model": [], "target": []}
    for name, encoder in (("model", agent.model.encoder), ("target", agent.objective.target.encoder)):
        encoder.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0]))
    batch = batch_of(cfg, env)
    before = batch.clone()
    agent.update(batch)
    agent.update(batch)
    hidden = torch.stack([obs["missing"] for obs in seen["model"]])  # updates B T N
    assert torch.equal(hidden, hidden[:, :, :1].expand_as(hidden))
    assert 0.2 < hidden.mean() < 0.8
    assert not torch.equal(hidden[0], hidden[1])
    assert len(hidden[0].unique(dim=0)) > 2
    for obs, marks in zip(seen["model"], hidden, strict=True):
        assert torch.equal(obs["state"], torch.where(marks > 0, 0.0, before["state"]))
    assert all(not obs["missing"].any() for obs in seen["target"])
    assert torch.equal(batch["state"], before["state"])


def test_hiding_sensors_needs_an_environment_that_says_what_is_missing():
    with pytest.raises(UserError, match=r"add env\.drop=0"):
        build("continuous", "agent.hide=0.3")


@pytest.mark.parametrize("shown", ["env.reward_seen=true", "env.hide=[velocity]"], ids=["more", "fewer"])
def test_hiding_sensors_needs_every_one_of_them_marked(shown):
    cfg = load_config(["env=dmc_walker", "env.drop=0", "trainer=debug", "agent.hide=0.3", shown])
    spec = simulator_from_config(cfg.env, 0).spec
    with pytest.raises(UserError, match="sensors, but"):
        build_agent(cfg, spec, torch.device("cpu"))
