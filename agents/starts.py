"""Where windows start: uniformly over transitions, or by priority and age."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler

from agents.segments import Ring

# Draws per slot of a batch: at least half of the rows are startable, so 4 leave nothing to chance.
CANDIDATES = 4
LEAST = 0.005  # of the highest weight: without rewards all errors vanish, and only new rows would be drawn
FORGOTTEN = 1e-4  # rows whose weight has faded to less are not drawn: one draw in ten thousand, together
BLOCK = 256  # rows whose weights are summed together
BELOW_ONE = 1 - 1e-12


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

    def weigh(self, start: Tensor) -> Tensor:
        """How much oftener than others of their age rows are drawn, as it can be captured: B -> B."""
        return torch.ones_like(start, dtype=torch.float32)

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
    """Draw window starts with probability proportional to priority ** alpha."""

    def __init__(self, generator: torch.Generator, ring: Ring, alpha: float) -> None:
        super().__init__(generator)
        self.ring, self.alpha = ring, alpha
        self.steady = ring.device.type != "cpu"  # draws of one shape, which a GPU can capture
        self.weight = torch.zeros(ring.max_size, device=ring.device)  # priority ** alpha
        self.highest = torch.ones((), device=ring.device)  # new transitions get the highest weight seen

    def extend(self, index: Tensor) -> None:
        """Give freshly startable rows the highest weight: M."""
        index = index.to(self.ring.device)
        touched = torch.cat([index, self.ring.before(index)])
        self.weight[touched] = self.ring.startable[touched] * self.highest

    def add(self, index: Tensor) -> None:
        """As `extend`."""
        self.extend(index)

    def grade(self, start: Tensor, priority: Tensor) -> None:
        """Set the priorities of start rows, without a number of its own, so that it can be captured: B, B."""
        weight = priority**self.alpha
        # What is not a number says nothing, and must not end up in the sums.
        weight = torch.where(weight.isfinite(), weight, self.highest).maximum(LEAST * self.highest)
        self.weight[start] = self.ring.startable[start] * weight
        torch.maximum(self.highest, weight.max(), out=self.highest)

    def propose(self, storage: Ring, batch_size: int) -> tuple[Tensor, ...]:
        """Draw random numbers -> B."""
        generator, device = self.generator, storage.device
        return (torch.rand(batch_size, generator=generator, device=device, dtype=torch.float64),)

    def choose(self, storage: Ring, *drawn: Tensor) -> Tensor:
        """Turn draws into start rows, without a number of its own, so that it can be captured -> B."""
        reach = storage.rows if self.steady else storage.reach
        weights = self.weight.view(storage.columns, storage.rows)[:, :reach].flatten()
        place = pick(weights, 1 - drawn[0])  # the newest come first, as where they fade
        return place // reach * storage.rows + place % reach

    def weigh(self, start: Tensor) -> Tensor:
        """How much oftener than others of their age rows are drawn, as it can be captured: B -> B."""
        return self.weight[start]

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, the weights and the highest weight."""
        return {**super().state_dict(), "weight": self.weight, "highest": self.highest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the generator and the weights."""
        super().load_state_dict(state_dict)
        self.weight.copy_(state_dict["weight"])
        self.highest.copy_(state_dict["highest"])

    def _empty(self) -> None:
        self.weight.zero_()
        self.highest.fill_(1)


class FadingStarts(PrioritizedStarts):
    """The same, times fade ** (age in decisions)."""

    def __init__(self, generator: torch.Generator, ring: Ring, alpha: float, fade: float) -> None:
        super().__init__(generator, ring, alpha)
        # What has faded is left out, so the sums stay short however much is kept.
        kept = math.log(FORGOTTEN) / math.log(fade) / ring.columns
        age = torch.arange(math.ceil(min(ring.rows, kept)), device=ring.device)
        self.faded = fade ** (age * ring.columns).double()  # by rows of a column, newest first
        self.base = torch.arange(ring.columns, device=ring.device)[:, None] * ring.rows

    def propose(self, storage: Ring, batch_size: int) -> tuple[Tensor, ...]:
        """Draw what `choose` needs: random numbers, and what only the CPU knows -> B, columns, rows."""
        rows = len(self.faded) if self.steady else min(len(self.faded), storage.reach)
        return *super().propose(storage, batch_size), storage.written, self.faded[:rows]

    def choose(self, storage: Ring, *drawn: Tensor) -> Tensor:
        """Turn draws into start rows, without a number of its own, so that it can be captured -> B."""
        draws, written, faded = drawn
        head = (written.to(faded.device) % storage.rows)[:, None]
        row = head - 1 - torch.arange(len(faded), device=faded.device)
        row = torch.where(row < 0, row + storage.rows, row) + self.base  # newest first
        # Of what was never written the weight is 0.
        place = pick((self.weight[row] * faded).flatten(), draws)
        return row.flatten().index_select(0, place)


def pick(weights: Tensor, draws: Tensor) -> Tensor:
    """Draw places by their weights with numbers from 0 to 1, in little more time than one sum: M, B -> B.

    First a block of places, then one in it: a running sum of a million numbers takes fifty milliseconds.
    """
    blocks = F.pad(weights, (0, -len(weights) % BLOCK)).view(-1, BLOCK)
    ends = blocks.sum(1, dtype=torch.float64).cumsum(0)
    # What is rounded beyond an end, or before a beginning, must not be a place of no weight.
    target = draws.clamp(max=BELOW_ONE) * ends[-1]
    block = torch.searchsorted(ends, target, right=True)
    inside = blocks.index_select(0, block).double().cumsum(1)
    into = target - (ends.index_select(0, block) - inside[:, -1])
    into = torch.minimum(into.clamp(min=0), inside[:, -1] * BELOW_ONE)
    return block * BLOCK + torch.searchsorted(inside, into[:, None], right=True)[:, 0]
