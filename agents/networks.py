"""What acts and what judges on top of a belief: an ensemble of critics and a policy."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldmodel.blocks import mlp


class Ensemble(nn.Module):
    """K independent MLPs evaluated together as batched matrix products: ... I -> K ... O."""

    def __init__(self, members: int, inputs: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.members = members
        self.rewarded: Tensor  # how often what is learned from has a reward worth the name, an average
        self.register_buffer("rewarded", torch.zeros(()))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        sizes = [inputs, *[hidden] * layers, outputs]
        for k, (wide, narrow) in enumerate(pairwise(sizes)):
            weight = torch.zeros(members, wide, narrow)
            if k < layers:  # the last layer starts at zero: an untrained critic says exactly zero
                for member in weight:
                    nn.init.orthogonal_(member)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(members, 1, narrow)))

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Evaluate every member; `frozen` lets gradients reach x but not the weights: ... I -> K ... O."""
        weights = [w.detach() if frozen else w for w in self.weights]
        biases = [b.detach() if frozen else b for b in self.biases]
        rows = x.reshape(-1, x.shape[-1])
        # All members read the same input: one wide product instead of K narrow ones.
        first = rows @ weights[0].transpose(0, 1).flatten(1)
        h = first.unflatten(1, (self.members, -1)).transpose(0, 1) + biases[0]
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            h = torch.baddbmm(bias, F.relu(F.layer_norm(h, h.shape[-1:])), weight)
        return h.unflatten(1, x.shape[:-1])


class Policy(nn.Module):
    """Belief to a squashed action, or to the probabilities of discrete ones: ... W -> ... A."""

    def __init__(self, belief: int, hidden: int, layers: int, action: int, *, discrete: bool) -> None:
        super().__init__()
        self.discrete = discrete
        self.trunk = mlp([belief, *[hidden] * layers], activation="relu")
        self.head = nn.Linear(hidden, action)
        nn.init.uniform_(self.head.weight, -1e-3, 1e-3)  # start near the middle of the action range
        nn.init.zeros_(self.head.bias)

    def forward(self, belief: Tensor) -> Tensor:
        """Raw outputs, before squashing: ... W -> ... A."""
        return self.head(self.trunk(belief))

    def squash(self, raw: Tensor) -> Tensor:
        """Raw outputs to an action in [-1, 1] or to probabilities: ... A -> ... A."""
        return raw.softmax(-1) if self.discrete else raw.tanh()
