"""Encode vectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..blocks import build_normaliser, mlp
from ..errors import ModelError
from .vectors import Facts, Observations, Vectors


class MLPEncoder(nn.Module):
    """Encode the float observations with an MLP: dict of [B, T, *shape] -> B T D."""

    def __init__(
        self,
        observation: Facts,
        *,
        hidden: Sequence[int] = (256, 256),
        latent: int = 128,
        activation: str = "silu",
        normaliser: str = "simnorm",
        scaling: str = "running",
    ) -> None:
        super().__init__()
        self.size = latent
        self.vectors = Vectors(observation, scaling)
        if not self.vectors.size:
            raise ModelError(
                f"encoder mlp needs a float32 observation, and there is only {', '.join(observation)}; "
                "use worldmodel/encoder=conv for pixels"
            )
        sizes = [self.vectors.size, *hidden]
        self.trunk = mlp(sizes, activation=activation)
        self.head = nn.Linear(sizes[-1], latent)
        self.normaliser = build_normaliser(normaliser, latent)

    def observe(self, obs: Observations) -> None:
        """Add observations to the running normalisation, if there is one: dict of [..., *shape]."""
        self.vectors.observe(obs)

    def input_weights(self) -> Tensor:
        """What every input is multiplied with first: H V."""
        first = self.trunk[0]
        assert isinstance(first, nn.Linear)
        return first.weight

    def forward(self, obs: Observations) -> Tensor:
        """Encode: dict of [B, T, *shape] -> B T D."""
        return self.normaliser(self.head(self.trunk(self.vectors(obs))))
