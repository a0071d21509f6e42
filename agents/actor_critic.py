"""The default agent: TD-learning of a policy and an ensemble of critics on the beliefs of a world model."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from agents.acting import Actor, Mind
from agents.capturing import Captured, capture
from agents.cli import UserError
from agents.compiling import Compiled
from agents.crash import NotFinite, odd
from agents.flat import Flat, join_state, split_state
from agents.networks import Ensemble, Policy
from agents.precision import ROUNDING, choose_precision
from agents.returns import bootstrap_rows, n_step, rewarded_share
from worldmodel import Objective
from worldmodel.encoders.table import MISSING
from worldmodel.views import hide

READ = ("prev_action", "reward", "terminated", "is_first", "valid")  # by an update, beside observations


class ActorCritic(Actor):
    """A world model, critics and a policy trained by one step on a batch of replayed windows.

    It acts with slow averages of what learns: they are steadier, and what values bootstrap from. It explores
    with what learns itself, whose every update acts a little differently.
    """

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
        if cfg.hide and MISSING not in spec.observation:
            text = f"agent.hide={cfg.hide} needs an environment that says what is missing"
            raise UserError(text, "add env.drop=0")
        if cfg.hide:
            counted = spec.observation[MISSING].shape[0]
            vectors = [a for key, a in spec.observation.items() if key != MISSING and a.dtype == "float32"]
            shown = sum(math.prod(a.shape) for a in vectors)
            if shown != counted:
                text = f"agent.hide={cfg.hide} counts {shown} sensors, but {counted} are marked"
                raise UserError(text, "drop it, or env.hide and env.reward_seen, which change what is shown")
        self.objective = objective.to(device)
        self.model = objective.model
        width, actions, discrete = self.model.belief_size, spec.action.size, spec.action.kind == "discrete"
        self.critic = Ensemble(cfg.critics, width + actions, cfg.hidden, 2, cfg.bins).to(device)
        self.policy = Policy(width, cfg.hidden, 2, actions, discrete=discrete).to(device)
        learning = Mind(self.model, self.critic, self.policy)
        acting = copy.deepcopy(learning)
        for slow in acting:
            slow.requires_grad_(False).eval()
        super().__init__(acting, learning, spec, cfg, seed=seed, device=device, say=say)
        both = list(zip(learning, acting, strict=True))
        self._buffers = [
            pair for fast, slow in both for pair in zip(slow.buffers(), fast.buffers(), strict=True)
        ]
        moved = [
            [pair for pair in zip(fast.parameters(), slow.parameters(), strict=True) if pair[0].requires_grad]
            for fast, slow in both
        ]
        self.groups = [Flat([fast for fast, _ in pairs]) for pairs in moved]
        self.averages = [Flat([slow for _, slow in pairs]) for pairs in moved]
        rates = [cfg.model_lr, cfg.critic_lr, cfg.policy_lr]
        self.optimiser = torch.optim.AdamW(
            [{"params": [flat.whole], "lr": rate} for flat, rate in zip(self.groups, rates, strict=True)],
            weight_decay=cfg.weight_decay,
            fused=True,
            capturable=device.type == "cuda",  # or it refuses to be captured
        )
        self.precision, self.say = cfg.precision, say  # auto until the first update
        self._learn = capture(self.learn, device, say, "the update", wanted=cfg.capture)
        learners = (self.objective, self.critic, self.policy)
        self._losses = (
            Compiled(self.losses, device, say, "the update", learners, lambda: ROUNDING[self.precision])
            if cfg.compile
            else self.losses
        )

    # ---- learning

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
            value = self.values(self.acting._replace(policy=self.policy), future, noise)
            target = n_step(
                batch["reward"], batch["terminated"], batch["valid"], value, self.discount, self.cfg.nstep
            )
        start, action, mask = belief[:, :-1], batch["prev_action"][:, 1:], target.mask
        count = mask.sum().clamp_min(1)
        logits = self.judge(self.critic, start, action)
        critic_loss = (self.bins.loss(logits, target.returns.expand(logits.shape[:-1])) * mask).sum() / count
        told = self.bins.mean(logits.detach())
        policy_loss, scale = self._policy_loss(start, action, told.amin(0), mask, count)
        with torch.no_grad():
            error = (told.mean(0) - target.returns).abs() * mask
            priority = error.amax(1)
        metrics |= {
            "loss/critic": critic_loss,
            "loss/policy": policy_loss,
            "value/mean": (target.returns * mask).sum() / count,
            "value/error": error.sum() / count,
            "value/scale": scale,
            # What ends wandering. Values would not do: those of nothing take long to vanish.
            "reward/share": rewarded_share(batch["reward"], batch["valid"], batch["weight"]),
        }
        total = loss + self.cfg.critic_weight * critic_loss + policy_loss
        return total, priority, {name: value.detach() for name, value in metrics.items()}

    def _policy_loss(
        self, belief: Tensor, taken: Tensor, worth: Tensor, mask: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Raise the critics' mean value, in units of its size, with a little entropy.

        Where the lowest critic values what was done (`worth`) above what the policy would do, follow that:
        mostly a search did it, and a slope alone leads to the nearest of several peaks.
        """
        raw = self.policy(belief)
        choice = self.policy.squash(raw)
        if self.discrete:
            with torch.no_grad():
                values = self.judge_all(self.critic, belief).mean(0)
            value = (choice * values).sum(-1)
            rest = (choice * raw.log_softmax(-1)).sum(-1)  # negative entropy
            distance = torch.zeros_like(value)  # every choice is compared: there is no slope to be misled by
        else:
            own = self.bins.mean(self.judge(self.critic, belief, choice, frozen=True))
            value = own.mean(0)
            rest = raw.square().mean(-1)  # keeps tanh out of saturation
            better = worth > own.detach().amin(0)
            distance = better * (choice - taken).square().mean(-1)
        scale = ((value.detach().abs() * mask).sum() / count).clamp_min(1e-3)
        loss = self.cfg.imitation * distance + self.cfg.policy_regulariser * rest - value / scale
        return (loss * mask).sum() / count, scale

    def update(self, batch: TensorDict) -> dict[str, Tensor]:
        """Take one optimiser step on a batch B T; set batch["priority"], B T; return 0-d metrics."""
        if self.precision == "auto":
            self.precision = choose_precision(batch.numel(), self.cfg.hidden, self.device)
            if self.precision == "bfloat16":
                self.say("the update multiplies in bfloat16: measured to be faster here")
        shape = (batch.shape[0], batch.shape[1] - self.cfg.nstep, self.actions)
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        read = {key: batch.get(key) for key in (*self.model.observation_keys, *READ)}
        weight = batch.get("weight", None)
        read["weight"] = torch.ones(batch.shape, device=batch.device) if weight is None else weight
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
        for flat in self.groups:
            flat.forget_slopes()
        loss.backward()
        for flat in self.groups:
            flat.collect_slopes()
        norms = [flat.clip_slopes(self.cfg.grad_clip) for flat in self.groups]
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
        for slow, fast in zip(self.averages, self.groups, strict=True):
            slow.whole.lerp_(fast.whole, self.cfg.tau)
        for old, new in self._buffers:
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
            "optimiser": split_state(self.optimiser.state_dict(), self.groups),
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
        self.optimiser.load_state_dict(join_state(state["optimiser"], self.groups))
        for group in self.optimiser.param_groups:  # of this device, not of the one that saved
            group["capturable"] = self.optimiser.defaults["capturable"]
        if isinstance(self._learn, Captured):
            self._learn.forget()  # it would go on with the optimiser's former tensors
        self.generator.set_state(state["generator"].cpu())
