"""Collection: the agent as a TorchRL policy, and TorchRL collectors that feed the loop."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch.utils import _pytree as pytree
from torchrl.collectors import Collector

from agents.acting import Carry
from agents.cli import UserError
from envs import Spec, from_config


class AgentPolicy(TensorDictModuleBase):
    """An agent as a policy of a batched environment: reads the newest observations, writes `action`."""

    def __init__(self, agent: Any, num: int) -> None:
        super().__init__()
        self.in_keys = [*agent.model.observation_keys, "is_init"]
        self.out_keys = ["action"]
        # Not registered as submodules: the collector would otherwise copy the networks that learning updates.
        self._agent = (agent,)
        self.carry: Carry = agent.start(num)
        self.random = True
        self.rehearsing = False

    @torch.no_grad()
    def forward(self, step: TensorDictBase) -> TensorDictBase:
        """Choose an action for every environment: N."""
        agent = self._agent[0]
        if self.rehearsing:
            return step.set("action", torch.zeros(*step.batch_size, agent.actions))
        obs = {key: step.get(key).to(agent.device) for key in self.in_keys}
        if self.random:
            self.carry, action = agent.random(self.carry, obs)
        else:
            self.carry, action = agent.act(self.carry, obs, explore=True)
        return step.set("action", action.to(step.device or "cpu"))

    def state(self) -> dict[str, Any]:
        """The memory of every environment's episode."""
        return {**self.carry._asdict(), "cache": tuple(self.carry.cache)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue in the middle of the episodes that `state` remembers, on the agent's device."""
        device = self._agent[0].device
        here = pytree.tree_map_only(torch.Tensor, lambda saved: saved.to(device), state)
        self.carry = Carry(**{**here, "cache": type(self.carry.cache)(*here["cache"])})


class Stepwise(Collector):
    """TorchRL's collector without the bookkeeping that one decision at a time has no use for.

    Trajectory ids, buffers, copies and device checks cost a fifth of a decision of one environment. Nothing
    writes to a batch after it was handed out: our environments answer with new tensors.
    """

    def rollout(self) -> TensorDictBase:
        """Take one decision in every environment: N T=1."""
        step, self._carrier = self.env.step_and_maybe_reset(self._wrapped_policy(self._carrier))
        return step.unsqueeze(-1)

    def _postproc(self, tensordict_out: TensorDictBase) -> TensorDictBase:
        return tensordict_out


def collector(env: Any, actor: Any) -> Iterator[TensorDictBase]:
    """Iterate over batched decisions, one per environment: N T=1."""
    # TorchRL tries the policy out while it is built; that must not draw noise nor move the actor's memory.
    actor.rehearsing = True
    built = Stepwise(
        env,
        actor,
        frames_per_batch=env.batch_size[0],
        total_frames=-1,
        trust_policy=True,
        track_traj_ids=False,
        no_cuda_sync=True,
        use_buffers=False,
        return_same_td=True,
    )
    actor.rehearsing = False
    return iter(built)


class Source(Protocol):
    """Where the loop's decisions come from; `attach`, perhaps `restore`, then `start` and `next`."""

    spec: Spec

    def attach(self, agent: Any) -> None:
        """Act with this agent."""
        ...

    def restore(self, state: dict[str, Any]) -> bool:
        """Go on where `state` was taken; False where the environments begin new episodes instead."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What did not go on just as it was."""
        ...

    def start(self) -> None:
        """Get ready to collect."""
        ...

    def next(self, *, random: bool) -> TensorDictBase:
        """Return the next decisions, uniformly random ones if asked: N T."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        ...

    def close(self) -> None:
        """Release the environments."""
        ...


class Alternating:
    """Collects in this process, between updates: bit for bit the same after any interruption."""

    def __init__(self, cfg: Any) -> None:
        self.num = cfg.env.num
        self.env = from_config(cfg.env, seed=cfg.seed)
        self.spec: Spec = self.env.facts

    def attach(self, agent: Any) -> None:
        """Act with this agent."""
        self.actor = AgentPolicy(agent, self.num)

    def restore(self, state: dict[str, Any]) -> bool:
        """Go on inside the episodes of `state`; after asynchronous collection begin the ones that follow."""
        if "environment" not in state:
            self.env.skip_episodes(state["episodes"])
            return False
        self.actor.restore(state["actor"])
        self.env.restore(state["environment"])
        return True

    @property
    def warnings(self) -> Sequence[str]:
        """What the environments say of a restore that ended elsewhere."""
        return self.env.warnings

    def start(self) -> None:
        """Build the collector; the environment then hands out its first observations."""
        self._stream = collector(self.env, self.actor)

    def next(self, *, random: bool) -> TensorDictBase:
        """Take one decision in every environment: N T=1."""
        self.actor.random = random
        return next(self._stream)

    def state(self) -> dict[str, Any]:
        """The environments' and the actor's state, in the middle of their episodes."""
        return {"actor": self.actor.state(), "environment": self.env.snapshot()}

    def close(self) -> None:
        """Release the environments."""
        self.env.close()


def make_source(cfg: Any) -> Source:
    """Build what `trainer.collector` names."""
    if cfg.trainer.collector == "async":
        from agents.remote import Concurrent

        return Concurrent(cfg)
    if cfg.env.backend == "envpool":
        text = "env.backend=envpool does not give out the state of its environments, for checkpoints"
        raise UserError(text, "add trainer.collector=async, or use env.backend=serial or process")
    return Alternating(cfg)
