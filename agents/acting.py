"""Acting with a world model, critics and a policy: exploring, wandering, and searching inside the model."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.compiling import Compiled
from agents.networks import Ensemble, Policy
from agents.planning import Categorical, Gaussian, choose, mppi
from agents.returns import discount_for
from worldmodel import State, WorldModel
from worldmodel.heads import Bins

# Chance per decision that a component of a random action is drawn anew: bodies hardly move under white noise.
RENEWAL = 0.25
SWITCH = 0.04  # chance per decision that wandering begins or ends
VALUE_LIMIT = 8.5  # in symlog: values up to about 5,000 either way


class Carry(NamedTuple):
    """What acting remembers between decisions, for N environments."""

    cache: Any  # of the aggregator
    action: Tensor  # N A, the last one taken
    plan: Tensor  # N H A, the planner's warm start; N 0 A without a planner
    wandering: Tensor  # N, whether exploration acts at random for a while


class Mind(NamedTuple):
    """What an action is chosen with."""

    model: WorldModel
    critic: Ensemble
    policy: Policy


class Actor:
    """Acts by a search of the model or by the policy alone: with one mind to explore, another to do well."""

    def __init__(
        self,
        acting: Mind,
        exploring: Mind,
        spec: Any,
        cfg: Any,
        *,
        seed: int,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.acting, self.exploring, self.cfg, self.device = acting, exploring, cfg, device
        self.spec, self.discrete = spec, spec.action.kind == "discrete"
        self.actions = spec.action.size
        usual = discount_for(spec.episode_frames, spec.action_repeat, cfg.horizons)
        self.discount = usual if cfg.discount is None else cfg.discount
        self.bins = Bins(cfg.bins, limit=VALUE_LIMIT).to(device)
        self.generator = torch.Generator(device).manual_seed(seed)
        unsettling = (nn.modules.batchnorm._BatchNorm, nn.Dropout)
        self._unsettled = any(isinstance(part, unsettling) for part in exploring.model.modules())
        # Only what repeats with one batch size is worth compiling: collecting, not evaluation.
        self._explore_by_search = partial(self.search, exploring, None)
        if cfg.compile:
            self._explore_by_search = Compiled(self._explore_by_search, device, say, "the planner")

    def start(self, num: int) -> Carry:
        """An empty memory for `num` environments."""
        horizon = max(self.horizon(explore=each) for each in (True, False))
        zeros = torch.zeros(num, self.actions, device=self.device)
        plan = zeros[:, None].expand(-1, horizon, -1).clone()
        return Carry(self.acting.model.start(num), zeros, plan, zeros.new_zeros(num, dtype=torch.bool))

    def horizon(self, *, explore: bool) -> int:
        """How many decisions the planner looks ahead: further where no learning waits for it."""
        plan = self.cfg.plan
        if self.cfg.planner == "none":
            return 0
        return plan.horizon if explore or plan.eval_horizon is None else plan.eval_horizon

    @torch.no_grad()
    def act(
        self, carry: Carry, obs: dict[str, Tensor], *, explore: bool, generator: torch.Generator | None = None
    ) -> tuple[Carry, Tensor]:
        """Choose actions for N environments; obs holds what they see now and `is_init` (N 1): -> N A."""
        generator = generator or self.generator
        mind = self.exploring if explore else self.acting
        first, belief, cache = self._believe(mind.model, carry, obs)
        if self.cfg.planner == "none":
            plan = carry.plan
            proposal = mind.policy.squash(mind.policy(belief))
        else:
            warm = torch.where(first[:, None, None], 0.0, carry.plan)
            proposal, plan = self.plan(State(belief, cache), warm, generator, explore=explore)
        wandering = carry.wandering
        if explore:
            noise = torch.randn(proposal.shape, generator=generator, device=self.device)
            action = self._explore(proposal, noise)
            wandering = self._wander(first, wandering, generator)
            action = torch.where(wandering[:, None], self._lasting(first, carry.action, generator), action)
        else:
            action = self._greedy(proposal)
        return Carry(cache, action, plan, wandering), action

    @torch.no_grad()
    def random(self, carry: Carry, obs: dict[str, Tensor]) -> tuple[Carry, Tensor]:
        """Choose uniformly random actions that last, for the warm-up, and remember what was seen: -> N A."""
        first, _, cache = self._believe(self.exploring.model, carry, obs)
        action = self._lasting(first, carry.action, self.generator)
        return carry._replace(cache=cache, action=action), action

    def _lasting(self, first: Tensor, previous: Tensor, generator: torch.Generator) -> Tensor:
        """Uniformly random actions whose components are renewed now and then: N, N A -> N A."""
        if self.discrete:
            draw = torch.randint(self.actions, first.shape, generator=generator, device=self.device)
            return F.one_hot(draw, self.actions).float()
        draws = torch.rand((2, *previous.shape), generator=generator, device=self.device)
        renew = first[:, None] | (draws[1] < RENEWAL)
        return torch.where(renew, draws[0] * 2 - 1, previous)

    def _wander(self, first: Tensor, wandering: Tensor, generator: torch.Generator) -> Tensor:
        """Choose who acts at random for a while, the fewer the more often there is a reward: N, N -> N."""
        draws = torch.rand((2, *first.shape), generator=generator, device=self.device)
        chance = self.cfg.wander * (1 - self.exploring.critic.rewarded) ** 4
        return torch.where(first | (draws[0] < SWITCH), draws[1] < chance, wandering)

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """Keep what learns from telling environments by each other, or by chance, while it acts."""
        model = self.exploring.model
        if self._unsettled and model.training:
            model.eval()
            try:
                yield
            finally:
                model.train()
        else:
            yield

    def _believe(self, model: WorldModel, carry: Carry, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
        """Add what N environments see now to their memories: -> episode begins N, belief N W, memory."""
        first = obs["is_init"].reshape(-1)
        previous = torch.where(first[:, None], 0.0, carry.action)
        with self._settled():
            z = model.encode({key: obs[key][:, None] for key in model.observation_keys})
            belief, cache = model.aggregate(z, previous[:, None], is_first=first[:, None], cache=carry.cache)
        assert cache is not None  # it came in, so it goes out
        return first, belief[:, 0], cache

    def _greedy(self, proposal: Tensor) -> Tensor:
        return F.one_hot(proposal.argmax(-1), self.actions).to(proposal.dtype) if self.discrete else proposal

    def _explore(self, proposal: Tensor, noise: Tensor) -> Tensor:
        if self.discrete:
            return choose(proposal, noise)
        return (proposal + self.cfg.explore_noise * noise).clamp(-1, 1)

    @torch.no_grad()
    def plan(
        self, state: State, warm: Tensor, generator: torch.Generator, *, explore: bool
    ) -> tuple[Tensor, Tensor]:
        """Search action sequences inside the model: N, N H A -> first actions N A and a warm start N H A."""
        plan, (n, room, actions), horizon = self.cfg.plan, warm.shape, self.horizon(explore=explore)
        count = plan.guides + plan.iterations * plan.samples
        noise = torch.randn((count, n, horizon, actions), generator=generator, device=self.device)
        search = self._explore_by_search if explore else partial(self.search, self.acting, plan.margin)
        with self._settled():
            action, mean = search(state, warm[:, :horizon], noise)
        if not bool(action.isfinite().all()):
            raise FloatingPointError("every candidate plan has a non-finite cost: the model has diverged")
        return action, torch.cat([mean[:, 1:], mean[:, -1:].expand(-1, 1 + room - horizon, -1)], 1)

    @torch.no_grad()
    def search(
        self, mind: Mind, margin: float | None, state: State, warm: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Plan with standard normals (guides + iterations*samples, N H A): -> action N A, mean plan N H A.

        With a margin the policy acts where the critics do not agree that the plan is better.
        """
        plan, (n, horizon, _), (model, _, policy) = self.cfg.plan, warm.shape, mind
        # A nearer end owes more to the critics' errors, a further one to the model's. Where a plan looks
        # further than in training both count, and so does what critics say at once: that imagines nothing.
        near = min(plan.horizon, horizon)
        ends = [horizon] if near == horizon else [0, near, horizon]
        guides = noise[: plan.guides].transpose(0, 1)
        draws = noise[plan.guides :].unflatten(0, (plan.iterations, plan.samples)).transpose(1, 2)
        proposal = Categorical(warm) if self.discrete else Gaussian(warm, std=plan.std, std_min=plan.std_min)

        def cost(candidates: Tensor) -> Tensor:
            actions = candidates.flatten(0, 1)
            seen = model.imagine(state.repeat(plan.samples), lambda _, h: actions[:, h], horizon)
            return -self._worths(mind, seen, ends).T.unflatten(0, (n, -1))

        def opening(candidates: Tensor) -> tuple[Tensor, Tensor]:
            """Put what the policy would do before the candidates, the first guide without noise."""

            def act(belief: Tensor, step: int) -> Tensor:
                choice = policy.squash(policy(belief.unflatten(0, (n, -1))[:, : plan.guides]))
                noisy = self._explore(choice[:, 1:], guides[:, 1:, step])
                chosen = torch.cat([self._greedy(choice[:, :1]), noisy, candidates[:, :, step]], 1)
                return chosen.flatten(0, 1)

            seen = model.imagine(state.repeat(plan.guides + plan.samples), act, horizon)
            costs = -self._worths(mind, seen, ends).T.unflatten(0, (n, -1))
            return seen.actions.unflatten(0, (n, -1)), costs

        found = mppi(
            cost,
            proposal,
            draws,
            opening=opening if plan.guides else None,
            elites=plan.elites,
            temperature=plan.temperature,
        )
        action = found.plan[:, 0]
        if margin is not None and found.guide is not None:
            keep = self._prefer_policy(found.guide, found.costs, margin)
            action = torch.where(keep[:, None], policy.squash(policy(state.belief)), action)
        return action, found.mean

    @staticmethod
    def _prefer_policy(own: Tensor, plan: Tensor, margin: float) -> Tensor:
        """Whether a critic sees no more in the plan than in the policy's own way and a margin: N K, N K -> N.

        The best of many candidates owes part of its worth to errors, of which the critics' disagreement is a
        measure. Costs that are no numbers are not preferred: they must be seen.
        """
        doubt = (own.amax(-1) - own.amin(-1) + plan.amax(-1) - plan.amin(-1)) / 2
        return (own - plan).amin(-1) <= margin * doubt

    def _worths(self, mind: Mind, seen: Any, ends: list[int]) -> Tensor:
        """Imagined rewards and every critic's word on what follows, discounted, mean of ends: B H -> K B."""
        alive = seen.continuations.cumprod(1)
        discounts = self.discount ** torch.arange(seen.rewards.shape[1], device=self.device)
        reached = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
        gained = discounts * reached * seen.rewards

        def worth(end: int) -> Tensor:
            if end == 0:
                return self._judged(mind, seen.beliefs[:, 0], seen.actions[:, 0])
            tail = self._values(mind, seen.beliefs[:, end])  # the first is where the plan begins
            return gained[:, :end].sum(1) + self.discount**end * alive[:, end - 1] * tail

        return torch.stack([worth(end) for end in ends]).mean(0)

    def _judged(self, mind: Mind, belief: Tensor, action: Tensor) -> Tensor:
        """Every critic's value of an action, and of following the policy then: ... W, ... A -> K ..."""
        return self.bins.mean(self.judge(mind.critic, belief, action))

    def judge(self, critic: Ensemble, belief: Tensor, action: Tensor, *, frozen: bool = False) -> Tensor:
        """Logits of every critic: ... W, ... A -> K ... bins."""
        return critic(torch.cat([belief, action], -1), frozen=frozen)

    def judge_all(self, critic: Ensemble, belief: Tensor) -> Tensor:
        """Value of every discrete action to every critic: ... W -> K ... A."""
        choices = torch.eye(self.actions, device=belief.device).expand(*belief.shape[:-1], -1, -1)
        beliefs = belief[..., None, :].expand(*belief.shape[:-1], self.actions, belief.shape[-1])
        return self.bins.mean(self.judge(critic, beliefs, choices))

    def values(self, mind: Mind, belief: Tensor, noise: Tensor | None = None) -> Tensor:
        """The lowest critic's value of following the policy: ... W -> ..."""
        return self._values(mind, belief, noise).amin(0)

    def _values(self, mind: Mind, belief: Tensor, noise: Tensor | None = None) -> Tensor:
        """Every critic's value of following the policy: ... W -> K ..."""
        choice = mind.policy.squash(mind.policy(belief))
        if self.discrete:
            return (choice * self.judge_all(mind.critic, belief)).sum(-1)
        if noise is not None:
            choice = (choice + noise).clamp(-1, 1)
        return self._judged(mind, belief, choice)
