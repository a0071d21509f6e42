"""Predictors: a belief and an action to the next latent, and the trunk that the heads read."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import Normaliser, mlp
from .errors import ModelError


class Prediction(NamedTuple):
    """What follows an action: the next latent, and the features that the heads read."""

    latent: Tensor  # ... D
    trunk: Tensor  # ... F


class MLPPredictor(nn.Module):
    """Predict the next latent from [belief; embedded action]: ... W, ... E -> ... D."""

    def __init__(
        self,
        belief_size: int,
        action_width: int,
        latent_size: int,
        normaliser: Normaliser,
        *,
        hidden: Sequence[int] = (256, 256),
        norm: str = "layer",
        activation: str = "silu",
        residual: bool = False,
    ) -> None:
        super().__init__()
        if not hidden:
            raise ModelError("predictor hidden is empty; give at least one width, such as hidden=[256,256]")
        if residual and belief_size != latent_size:
            raise ModelError(
                f"predictor residual=true needs beliefs of latent size {latent_size}, not {belief_size}; "
                "use worldmodel/aggregator=causal or residual=false"
            )
        self.size = hidden[-1]
        self.residual = residual
        self.trunk = mlp([belief_size + action_width, *hidden], norm=norm, activation=activation)
        self.head = nn.Linear(hidden[-1], latent_size)
        self.normaliser = normaliser
        if residual:
            # Starts as "nothing changes": the latent passes through unaltered.
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, belief: Tensor, action: Tensor) -> Prediction:
        """Predict: ... W, embedded action ... E -> ... D and ... F."""
        trunk = self.trunk(torch.cat([belief, action], -1))
        latent = self.head(trunk)
        if self.residual:
            latent = latent + self.normaliser.inverse(belief)
        return Prediction(self.normaliser(latent), trunk)


class LinearPredictor(nn.Module):
    """Predict the next latent by one matrix, whatever is done: ... W, ... E -> ... D."""

    def __init__(
        self,
        belief_size: int,
        action_width: int,
        latent_size: int,
        normaliser: Normaliser,
        *,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.size = belief_size  # heads read the belief itself
        self.matrix = nn.Parameter(scale * torch.eye(latent_size, belief_size))
        self.normaliser = normaliser

    def forward(self, belief: Tensor, action: Tensor) -> Prediction:
        """Predict: ... W, embedded action ... E -> ... D and ... F."""
        return Prediction(self.normaliser(belief @ self.matrix.t()), belief)


Predictor = MLPPredictor | LinearPredictor
PREDICTORS: dict[str, type[Predictor]] = {"mlp": MLPPredictor, "linear": LinearPredictor}
