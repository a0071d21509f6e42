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


class TokenPredictor(nn.Module):
    """Predict the latents of what is asked for from all that is seen: B M W, B Q E -> B Q D.

    Questions are tokens among those of what is seen, a mask token plus what is asked; their `sets` do not see
    each other.
    """

    def __init__(
        self,
        belief_size: int,
        action_width: int,
        latent_size: int,
        normaliser: Normaliser,
        *,
        width: int = 16,
        layers: int = 2,
        heads: int = 2,
        ff: int = 32,
        sets: int = 4,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"predictor width={width} must be divisible by heads={heads}")
        self.size, self.sets = width, sets
        self.narrow = nn.Linear(belief_size, width)
        self.ask = nn.Linear(action_width, width, bias=False)
        self.mask = nn.Parameter(0.02 * torch.randn(width))
        block = {"dim_feedforward": ff, "dropout": 0.0, "batch_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, **block) for _ in range(layers))
        self.head = nn.Linear(width, latent_size)
        self.normaliser = normaliser

    def forward(self, belief: Tensor, action: Tensor) -> Prediction:
        """Predict: B M W, embedded questions B Q E -> B Q D and B Q F."""
        if action.shape[1] % self.sets:
            raise ModelError(
                f"{action.shape[1]} questions do not make predictor sets={self.sets} of one size"
            )
        asked = (self.mask + self.ask(action)).unflatten(1, (self.sets, -1)).flatten(0, 1)
        seen = self.narrow(belief).repeat_interleave(self.sets, 0)
        x = torch.cat([seen, asked], 1)
        for layer in self.layers:
            x = layer(x)
        trunk = x[:, seen.shape[1] :].unflatten(0, (-1, self.sets)).flatten(1, 2)
        return Prediction(self.normaliser(self.head(trunk)), trunk)


Predictor = MLPPredictor | LinearPredictor | TokenPredictor
PREDICTORS: dict[str, type[Predictor]] = {
    "mlp": MLPPredictor,
    "linear": LinearPredictor,
    "tokens": TokenPredictor,
}
