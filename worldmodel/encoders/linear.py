"""Encode vectors with a product of matrices: what of deep networks can be worked out on paper."""

import torch
from torch import Tensor, nn

from ..blocks import build_normaliser
from ..errors import ModelError
from .vectors import Facts, Observations, Vectors


class LinearEncoder(nn.Module):
    """Multiply the float observations with `layers` square matrices: dict of [B, T, *shape] -> B T D.

    Every matrix begins as `scale` times an orthogonal one and their product as scale^layers times the
    identity: the small balanced start that `linear.py` describes, if the predictor begins at `scale` as well.
    """

    def __init__(
        self, observation: Facts, *, layers: int = 2, scale: float = 0.1, scaling: str = "none"
    ) -> None:
        super().__init__()
        self.vectors = Vectors(observation, scaling)
        self.size = size = self.vectors.size
        if not size:
            raise ModelError(
                "encoder linear needs a float32 observation; use worldmodel/encoder=conv for pixels"
            )
        turns = [torch.linalg.qr(torch.randn(size, size))[0] for _ in range(layers - 1)]
        back = torch.eye(size)
        for turn in turns:
            back = back @ turn.t()
        self.layers = nn.ParameterList(nn.Parameter(scale * turn) for turn in [*turns, back])
        self.normaliser = build_normaliser("none", size)

    def observe(self, obs: Observations) -> None:
        """Add observations to the running normalisation, if there is one: dict of [..., *shape]."""
        self.vectors.observe(obs)

    def input_weights(self) -> Tensor:
        """What every input is multiplied with first: V V."""
        return self.layers[0]

    def forward(self, obs: Observations) -> Tensor:
        """Encode: dict of [B, T, *shape] -> B T D."""
        x = self.vectors(obs).to(self.layers[0].dtype)  # in float64 a network can be held against the theory
        for matrix in self.layers:
            x = x @ matrix.t()
        return x
