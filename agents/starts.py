"""Where windows start: uniformly over transitions, or by priority and age."""

import math
from typing import Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from agents.segments import Ring

# Draws per slot of a batch: at least half of the rows are startable, so 4 leave nothing to chance.
CANDIDATES = 4


class UniformStarts(Sampler):
    """Draw window starts uniformly over transitions, in time independent of the capacity."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def sample(self, storage: Ring, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Draw start rows -> B."""
        return self.choose(storage, *self.propose(storage, batch_size)), {}

    def propose(self, storage: Ring, batch_size: int) -> tuple[Tensor, ...]:
        """Draw what `choose` needs: random numbers, and what only the CPU knows -> M, 0-d."""
        device, reach = storage.device, storage.reach
        draws = torch.randint(
            reach * storage.columns, (batch_size * CANDIDATES,), generator=self.generator, device=device
        )
        return draws, torch.full((), reach, device=device)  # grows, so a recording must not hold the number

    def choose(self, storage: Ring, *drawn: Tensor) -> Tensor:
        """Turn draws into start rows, without a number of its own, so that it can be captured -> B."""
        draws, reach = drawn
        batch_size = draws.shape[0] // CANDIDATES
        draws = draws // reach * storage.rows + draws % reach
        # The b-th startable draw serves slot b: independent uniform draws, rejected without a loop or a sync.
        accepted = storage.startable.index_select(0, draws).cumsum(0)
        slot = torch.arange(batch_size, device=draws.device) % accepted[-1].clamp(min=1)
        return draws.index_select(0, torch.searchsorted(accepted, slot + 1).clamp(max=len(draws) - 1))

    def state_dict(self) -> dict[str, Any]:
        """The generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the generator."""
        self.generator.set_state(state_dict["generator"])

    def _empty(self) -> None:
        """Forget nothing: the stream of draws outlives the data."""

    def dumps(self, path: Any) -> None:
        """Refuse: see Replay.flush."""
        raise NotImplementedError("use Replay.flush, which is crash-safe")

    def loads(self, path: Any) -> None:
        """Refuse: see Replay.restore."""
        raise NotImplementedError("use Replay.restore, which verifies what it reads")


class PrioritizedStarts(UniformStarts):
    """Draw window starts with probability proportional to priority ** alpha * fade ** (age in decisions)."""

    def __init__(self, generator: torch.Generator, ring: Ring, alpha: float, fade: float) -> None:
        super().__init__(generator)
        self.ring, self.alpha, self.fade = ring, alpha, fade
        self.weight = torch.zeros(
            ring.max_size, device=ring.device
        )  # priority ** alpha, 0 where no window starts
        self.highest = torch.ones((), device=ring.device)  # new transitions get the highest weight seen
        if fade < 1:
            age = torch.arange(ring.rows - 1, -1, -1, device=ring.device, dtype=torch.float64) * ring.columns
            self.table = (math.log(fade) * age).exp().repeat(2)

    def extend(self, index: Tensor) -> None:
        """Give freshly startable rows the highest weight: M."""
        index = index.to(self.ring.device)
        touched = torch.cat([index, self.ring.before(index)])
        self.weight[touched] = self.ring.startable[touched] * self.highest

    def add(self, index: Tensor) -> None:
        """As `extend`."""
        self.extend(index)

    def update_priority(self, index: Tensor, priority: Tensor, *, storage: Storage | None = None) -> None:
        """Set the priorities of start rows: B (or the rows B T of whole windows), B."""
        start = index if index.ndim == 1 else index[:, 0]
        start = start.to(self.ring.device)
        weight = priority.detach().to(self.ring.device, torch.float32).reshape(-1) ** self.alpha
        self.weight[start] = self.ring.startable[start] * weight
        self.highest = torch.maximum(self.highest, weight.max())

    def propose(self, storage: Ring, batch_size: int) -> tuple[Tensor, ...]:
        """Draw start rows -> B. Not to be captured: the sums over all rows grow with what arrives."""
        reach = storage.reach
        weight = self.weight.view(storage.columns, storage.rows)[:, :reach].double()
        if self.fade < 1:
            weight = self._faded(reach).mul_(weight)
        total = weight.flatten().cumsum(0)
        aim = (
            torch.rand(batch_size, generator=self.generator, device=storage.device, dtype=torch.float64)
            * total[-1]
        )
        drawn = torch.searchsorted(total, aim, right=True).clamp(max=len(total) - 1)
        return (drawn // reach * storage.rows + drawn % reach,)

    def choose(self, storage: Ring, *drawn: Tensor) -> Tensor:
        """Take the start rows as they were drawn -> B."""
        return drawn[0]

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, the weights and the highest weight."""
        return {**super().state_dict(), "weight": self.weight, "highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the generator and the weights."""
        super().load_state_dict(state_dict)
        self.weight.copy_(state_dict["weight"])
        self.highest = state_dict["highest"].to(self.ring.device).clone()

    def _faded(self, reach: int) -> Tensor:
        """What age leaves of each row's weight -> columns, reach."""
        # One row is one decision of one environment (first rows apart, one per episode). The ages of a column
        # are the numbers rows-1..0 rotated, that is a slice of a table holding them twice.
        start = (-self.ring.written) % self.ring.rows
        return self.table.unfold(0, reach, 1)[start.to(self.table.device)]

    def _empty(self) -> None:
        self.weight.zero_()
        self.highest.fill_(1)
