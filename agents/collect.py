"""Collection: the agent as a TorchRL policy, and TorchRL collectors that feed the loop."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from agents.actor_critic import Carry


class Actor(TensorDictModuleBase):
    """An agent as a policy of a batched environment: reads the newest observations, writes `action`."""

    def __init__(self, agent: Any, num: int) -> None:
        super().__init__()
        self.in_keys = [*agent.model.observation_keys, "is_init"]
        self.out_keys = ["action"]
        # Not registered as submodules: the collector would otherwise copy the networks that learning updates.
        self._agent = (agent,)
        self.carry: Carry = agent.start(num)
        self.random = True

    @torch.no_grad()
    def forward(self, step: TensorDictBase) -> TensorDictBase:
        """Choose an action for every environment: N."""
        agent = self._agent[0]
        obs = {key: step.get(key).to(agent.device) for key in self.in_keys}
        self.carry, action = agent.act(self.carry, obs, explore=True)
        if self.random:
            self.carry, action = agent.random(self.carry)
        return step.set("action", action.to(step.device or "cpu"))

    def state(self) -> dict[str, Any]:
        """The memory of every environment's episode."""
        return {"cache": tuple(self.carry.cache), "action": self.carry.action, "plan": self.carry.plan}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue in the middle of the episodes that `state` remembers."""
        cache = type(self.carry.cache)(*state["cache"])
        self.carry = Carry(cache, state["action"], state["plan"])


def collector(env: Any, actor: Actor) -> Iterator[TensorDictBase]:
    """Iterate over batched decisions, one per environment: N T=1."""
    from torchrl.collectors import Collector

    # Bookkeeping that we do not use costs more than the policy: no trajectory ids, no policy copy, no CUDA syncs.
    return iter(
        Collector(
            env,
            actor,
            frames_per_batch=env.batch_size[0],
            total_frames=-1,
            trust_policy=True,
            track_traj_ids=False,
            no_cuda_sync=True,
        )
    )
