"""The default agent: TD-learning of a policy and an ensemble of critics on the beliefs of a world model."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from agents.capturing import Captured, capture
from agents.cli import UserError
from agents.compiling import Compiled
from agents.crash import NotFinite, odd
from agents.networks import Ensemble, Policy
from agents.planning import Categorical, Gaussian, choose, mppi
from agents.precision import ROUNDING, choose_precision
from agents.returns import bootstrap_rows, discount_for, n_step
from worldmodel import Objective, State, WorldModel
from worldmodel.encoders.table import MISSING
from worldmodel.heads import Bins
from worldmodel.views import hide

# Chance per decision that a component of a random action is drawn anew: bodies hardly move under white noise.
RENEWAL = 0.25
SWITCH = 0.04  # chance per decision that wandering begins or ends
VALUE_LIMIT = 8.5  # in symlog: values up to about 5,000 either way
READ = ("prev_action", "reward", "terminated", "is_first", "valid")  # by an update, beside observations


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


class ActorCritic:
    """A world model, critics and a policy trained by one step on a batch of replayed windows."""

    def __init__(
        self,
        objective: Objective,
        spec: Any,
        cfg: Any,
        *,
        seed: int,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        self.cfg, self.device = cfg, device
        self.objective = objective.to(device)
        self.model = objective.model
        if cfg.hide and MISSING not in spec.observation:
            text = f"agent.hide={cfg.hide} needs an environment that says what is missing"
            raise UserError(text, "add env.drop=0")
        self.spec, self.discrete = spec, spec.action.kind == "discrete"
        self.actions = spec.action.size
        self.discount = cfg.discount or discount_for(spec.episode_frames, spec.action_repeat)
        width = self.model.belief_size
        self.bins = Bins(cfg.bins, limit=VALUE_LIMIT).to(device)
        self.critic = Ensemble(cfg.critics, width + self.actions, cfg.hidden, 2, cfg.bins).to(device)
        self.policy = Policy(width, cfg.hidden, 2, self.actions, discrete=self.discrete).to(device)
        # Slow averages of what learns: steadier than the newest weights, to act with and to bootstrap from.
        self.acting = copy.deepcopy(Mind(self.model, self.critic, self.policy))
        for slow in self.acting:
            slow.requires_grad_(False)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.groups = [
            list(self.objective.trainable()),
            list(self.critic.parameters()),
            list(self.policy.parameters()),
        ]
        rates = [cfg.model_lr, cfg.critic_lr, cfg.policy_lr]
        self.optimiser = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in zip(self.groups, rates, strict=True)],
            weight_decay=cfg.weight_decay,
            fused=True,
            capturable=device.type == "cuda",  # or it refuses to be captured
        )
        self.precision = cfg.precision  # auto until the first update
        self._learn = capture(self.learn, device, say, "the update", wanted=cfg.capture)
        learners = (self.objective, self.critic, self.policy)
        self._losses = (
            Compiled(self.losses, device, say, "the update", learners, lambda: ROUNDING[self.precision])
            if cfg.compile
            else self.losses
        )
        self._search = Compiled(self.search, device, say, "the planner") if cfg.compile else self.search

    # ---- acting

    def start(self, num: int) -> Carry:
        """An empty memory for `num` environments."""
        horizon = self.cfg.plan.horizon if self.cfg.planner != "none" else 0
        zeros = torch.zeros(num, self.actions, device=self.device)
        plan = zeros[:, None].expand(-1, horizon, -1).clone()
        return Carry(self.model.start(num), zeros, plan, zeros.new_zeros(num, dtype=torch.bool))

    @torch.no_grad()
    def act(
        self, carry: Carry, obs: dict[str, Tensor], *, explore: bool, generator: torch.Generator | None = None
    ) -> tuple[Carry, Tensor]:
        """Choose actions for N environments; obs holds what they see now and `is_init` (N 1): -> N A."""
        generator = generator or self.generator
        first, belief, cache = self._believe(carry, obs)
        if self.cfg.planner == "none":
            plan = carry.plan
            proposal = self.acting.policy.squash(self.acting.policy(belief))
        else:
            warm = torch.where(first[:, None, None], 0.0, carry.plan)
            proposal, plan = self.plan(State(belief, cache), warm, generator, compiled=explore)
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
        first, _, cache = self._believe(carry, obs)
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
        chance = self.cfg.wander * (1 - self.acting.critic.rewarded) ** 4
        return torch.where(first | (draws[0] < SWITCH), draws[1] < chance, wandering)

    def _believe(self, carry: Carry, obs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
        """Add what N environments see now to their memories: -> episode begins N, belief N W, memory."""
        first = obs["is_init"].reshape(-1)
        previous = torch.where(first[:, None], 0.0, carry.action)
        model = self.acting.model
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
        self, state: State, warm: Tensor, generator: torch.Generator, *, compiled: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Search action sequences inside the model: N, N H A -> first actions N A and a warm start N H A.

        Only what repeats with one batch size is worth compiling: collecting, not evaluation.
        """
        plan, (n, horizon, actions) = self.cfg.plan, warm.shape
        count = plan.guides + plan.iterations * plan.samples
        noise = torch.randn((count, n, horizon, actions), generator=generator, device=self.device)
        best, mean = (self._search if compiled else self.search)(state, warm, noise)
        if not bool(best.isfinite().all()):
            raise FloatingPointError("every candidate plan has a non-finite cost: the model has diverged")
        return best[:, 0], torch.cat([mean[:, 1:], mean[:, -1:]], 1)

    @torch.no_grad()
    def search(self, state: State, warm: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Find the best plan with standard normals (guides + iterations*samples, N H A): best, mean N H A."""
        plan, n, (model, _, policy) = self.cfg.plan, warm.shape[0], self.acting
        guides = noise[: plan.guides].transpose(0, 1)
        draws = noise[plan.guides :].unflatten(0, (plan.iterations, plan.samples)).transpose(1, 2)
        proposal = Categorical(warm) if self.discrete else Gaussian(warm, std=plan.std, std_min=plan.std_min)

        def cost(candidates: Tensor) -> Tensor:
            actions = candidates.flatten(0, 1)
            seen = model.imagine(state.repeat(plan.samples), lambda _, h: actions[:, h], plan.horizon)
            return -self._worth(seen).view(n, -1)

        def opening(candidates: Tensor) -> tuple[Tensor, Tensor]:
            """Put what the policy would do before the candidates, the first guide without noise."""

            def act(belief: Tensor, step: int) -> Tensor:
                choice = policy.squash(policy(belief.unflatten(0, (n, -1))[:, : plan.guides]))
                noisy = self._explore(choice[:, 1:], guides[:, 1:, step])
                chosen = torch.cat([self._greedy(choice[:, :1]), noisy, candidates[:, :, step]], 1)
                return chosen.flatten(0, 1)

            seen = model.imagine(state.repeat(plan.guides + plan.samples), act, plan.horizon)
            return seen.actions.unflatten(0, (n, -1)), -self._worth(seen).view(n, -1)

        return mppi(
            cost,
            proposal,
            draws,
            opening=opening if plan.guides else None,
            elites=plan.elites,
            temperature=plan.temperature,
        )

    def _worth(self, seen: Any) -> Tensor:
        """Discounted imagined rewards plus the critics' lowest word on what follows: B H -> B."""
        alive = seen.continuations.cumprod(1)
        horizon = seen.rewards.shape[1]
        discounts = self.discount ** torch.arange(horizon, device=self.device)
        reached = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
        tail = self.values(seen.beliefs[:, -1:], self.acting.policy)[:, 0]
        return (discounts * reached * seen.rewards).sum(1) + self.discount**horizon * alive[:, -1] * tail

    # ---- learning

    def judge(self, critic: Ensemble, belief: Tensor, action: Tensor, *, frozen: bool = False) -> Tensor:
        """Logits of every critic: ... W, ... A -> K ... bins."""
        return critic(torch.cat([belief, action], -1), frozen=frozen)

    def judge_all(self, critic: Ensemble, belief: Tensor) -> Tensor:
        """Value of every discrete action to every critic: ... W -> K ... A."""
        choices = torch.eye(self.actions, device=belief.device).expand(*belief.shape[:-1], -1, -1)
        beliefs = belief[..., None, :].expand(*belief.shape[:-1], self.actions, belief.shape[-1])
        return self.bins.mean(self.judge(critic, beliefs, choices))

    def values(self, belief: Tensor, policy: Policy, noise: Tensor | None = None) -> Tensor:
        """The lowest slow critic's value of following a policy: ... W -> ..."""
        choice = policy.squash(policy(belief))
        if self.discrete:
            return (choice * self.judge_all(self.acting.critic, belief).amin(0)).sum(-1)
        if noise is not None:
            choice = (choice + noise).clamp(-1, 1)
        return self.bins.mean(self.judge(self.acting.critic, belief, choice)).amin(0)

    def losses(self, batch: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """World-model, critic and policy loss in one graph: B T ... -> loss, priority B, metrics."""
        # Weights, targets and whatever adds up or divides stays in float32; acting has no part in this.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return self._grade(batch, noise)

    def _grade(self, batch: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        outputs = self.objective.outputs(batch)
        loss, metrics = self.objective.grade(outputs, batch)
        belief = outputs.beliefs.detach()
        with torch.no_grad():
            rows = bootstrap_rows(batch["valid"], self.cfg.nstep)
            future = belief.gather(1, rows[..., None].expand(-1, -1, belief.shape[-1]))
            value = self.values(future, self.policy, noise)
            target = n_step(
                batch["reward"], batch["terminated"], batch["valid"], value, self.discount, self.cfg.nstep
            )
        start, action, mask = belief[:, :-1], batch["prev_action"][:, 1:], target.mask
        count = mask.sum().clamp_min(1)
        logits = self.judge(self.critic, start, action)
        critic_loss = (self.bins.loss(logits, target.returns.expand(logits.shape[:-1])) * mask).sum() / count
        policy_loss, scale = self._policy_loss(start, action, mask, count)
        with torch.no_grad():
            error = (self.bins.mean(logits).mean(0) - target.returns).abs() * mask
            priority = error.amax(1)
            size = batch["reward"].abs() * batch["valid"]
        metrics |= {
            "loss/critic": critic_loss,
            "loss/policy": policy_loss,
            "value/mean": (target.returns * mask).sum() / count,
            "value/error": error.sum() / count,
            "value/scale": scale,
            # What ends wandering. Values would not do: those of nothing take long to vanish.
            "reward/share": (size > 0.01 * size.amax()).sum() / batch["valid"].sum(),
        }
        total = loss + self.cfg.critic_weight * critic_loss + policy_loss
        return total, priority, {name: value.detach() for name, value in metrics.items()}

    def _policy_loss(
        self, belief: Tensor, taken: Tensor, mask: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Raise the critics' mean value, in units of its size, near what was done, with a little entropy."""
        raw = self.policy(belief)
        choice = self.policy.squash(raw)
        if self.discrete:
            with torch.no_grad():
                values = self.judge_all(self.critic, belief).mean(0)
            value = (choice * values).sum(-1)
            rest = (choice * raw.log_softmax(-1)).sum(-1)  # negative entropy
            distance = torch.zeros_like(value)  # every choice is compared: there is no slope to be misled by
        else:
            value = self.bins.mean(self.judge(self.critic, belief, choice, frozen=True)).mean(0)
            rest = raw.square().mean(-1)  # keeps tanh out of saturation
            distance = (choice - taken).square().mean(-1)
        scale = ((value.detach().abs() * mask).sum() / count).clamp_min(1e-3)
        loss = self.cfg.imitation * distance + self.cfg.policy_regulariser * rest - value / scale
        return (loss * mask).sum() / count, scale

    def update(self, batch: TensorDict) -> dict[str, Tensor]:
        """Take one optimiser step on a batch B T; set batch["priority"], B T; return 0-d metrics."""
        if self.precision == "auto":
            self.precision = choose_precision(batch.numel(), self.cfg.hidden, self.device)
        shape = (batch.shape[0], batch.shape[1] - self.cfg.nstep, self.actions)
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        read = {key: batch.get(key) for key in (*self.model.observation_keys, *READ)}
        if self.cfg.hide:
            columns = (len(noise), read[MISSING].shape[-1])
            draw = torch.rand(columns, generator=self.generator, device=self.device)
            read["hidden"] = draw < self.cfg.hide
        priority, metrics = self._learn(read, noise)
        batch.set("priority", priority[:, None].expand(batch.shape))
        return metrics

    def learn(self, batch: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Observe, grade, descend and follow, with standard normals B T-n A: B T ... -> priority B, metrics.

        It is captured: whatever changes from one update to the next is a tensor, and nothing waits for one.
        """
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        seen = {key: batch[key] for key in self.model.observation_keys}
        self.model.observe(hide(seen, batch["hidden"]) if "hidden" in batch else seen)
        priority, metrics = self.slopes(batch, noise)
        self.optimiser.step()
        self.critic.rewarded.lerp_(metrics["reward/share"], self.cfg.tau)
        self.track()
        return priority, metrics

    def slopes(self, batch: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Grade a batch and leave the clipped gradients in the weights: B T ... -> priority B, metrics.

        Where waiting for numbers costs nothing, NotFinite is raised where they are not finite.
        """
        clipped = (noise * self.cfg.policy_noise).clamp(-self.cfg.noise_clip, self.cfg.noise_clip)
        loss, priority, metrics = self._losses(batch, clipped)
        # To None, not zero: the backward pass then writes gradients to the recording's own memory instead of
        # adding to what is there, and a replay repeats just that.
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norms = [nn.utils.clip_grad_norm_(group, self.cfg.grad_clip, foreach=True) for group in self.groups]
        names = ("model", "critic", "policy")
        metrics |= {f"grad/{name}": norm for name, norm in zip(names, norms, strict=True)}
        if self.device.type == "cpu" and not isinstance(self._learn, Captured):
            numbers = {name: float(value) for name, value in metrics.items()}
            if odd(numbers):
                raise NotFinite(batch, noise, numbers)
        return priority, metrics

    @torch.no_grad()
    def track(self) -> None:
        """Move the targets and the averages, after the optimiser step."""
        self.objective.target.update()
        for slow, fast in zip(self.acting, (self.model, self.critic, self.policy), strict=True):
            mine, theirs = list(slow.parameters()), list(fast.parameters())
            torch._foreach_lerp_(mine, theirs, self.cfg.tau)  # type: ignore[attr-defined]
            for old, new in zip(slow.buffers(), fast.buffers(), strict=True):
                old.copy_(new)

    # ---- state

    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights, by name."""
        return {
            "model": self.model,
            "target": self.objective.target,
            "critic": self.critic,
            "policy": self.policy,
            "acting_model": self.acting.model,
            "target_critic": self.acting.critic,
            "acting_policy": self.acting.policy,
        }

    def weights(self) -> dict[str, Tensor]:
        """Every weight, not copied, by the name of its network and its own."""
        return {f"{name}.{k}": v for name, m in self.modules().items() for k, v in m.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and noise: all that a bit-exact continuation needs."""
        return {
            "weights": self.weights(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "precision": self.precision,
        }

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load the weights alone, as for evaluation."""
        shapes = [{name: value.shape for name, value in each.items()} for each in (self.weights(), weights)]
        if shapes[0] != shapes[1]:
            odd = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
            text = f"these weights are of another agent: {odd[0]} and {len(odd) - 1} others do not fit"
            raise UserError(text, "use the version that wrote them (see run.json), or train anew")
        for name, module in self.modules().items():
            prefix = f"{name}."
            module.load_state_dict({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly from `state`."""
        self.load_weights(state["weights"])
        self.precision = state["precision"]
        # Copied: torch would go on with the very tensors it is given, shared with whoever else has them.
        self.optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        for group in self.optimiser.param_groups:  # of this device, not of the one that saved
            group["capturable"] = self.optimiser.defaults["capturable"]
        if isinstance(self._learn, Captured):
            self._learn.forget()  # it would go on with the optimiser's former tensors
        self.generator.set_state(state["generator"].cpu())
