"""Encode vectors column by column: a token for each, so that some may be missing."""

import math

import torch
from torch import Tensor, nn

from ..blocks import build_normaliser
from ..errors import ModelError
from .vectors import Facts, Observations, Vectors

MISSING = "missing"  # an observation as long as all float columns: 1 where a column is not there


class TableEncoder(nn.Module):
    """Encode rows of a table with a transformer over tokens: one per column, and registers beside them.

    A float entry is a column; so is an entry of a uint8 vector, a category below its entry of the fact
    `cardinalities`. Registers are never hidden. `positions` says what a latent is of: "rows" reads one from
    the registers and the columns' mean (dict of [B, T, ...] -> B T D); "columns" gives the tokens of the
    columns themselves, only those in keep if given (dict of [B, 1, ...], B M -> B M D).
    """

    def __init__(
        self,
        observation: Facts,
        *,
        positions: str = "rows",
        width: int = 32,
        layers: int = 2,
        heads: int = 2,
        ff: int = 64,
        registers: int = 1,
        latent: int = 128,
        normaliser: str = "simnorm",
        scaling: str = "running",
    ) -> None:
        super().__init__()
        if positions not in ("rows", "columns"):
            raise ModelError(f"encoder positions={positions!r} is unknown; choose rows or columns")
        if width % 2 or width % heads:
            raise ModelError(f"encoder width={width} must be even and divisible by heads={heads}")
        if any(len(fact["shape"]) > 1 for fact in observation.values()):
            raise ModelError("encoder table takes vectors; use worldmodel/encoder=conv for pixels")
        self.vectors = Vectors({k: f for k, f in observation.items() if k != MISSING}, scaling)
        self.categories = tuple(sorted(k for k, f in observation.items() if f["dtype"] == "uint8"))
        cardinalities = [n for key in self.categories for n in observation[key].get("cardinalities", ())]
        coded = sum(observation[key]["shape"][0] for key in self.categories)
        if coded != len(cardinalities):
            raise ModelError(
                f"encoder table needs the cardinalities of {coded} categorical columns in their shapes, and "
                f"there are {len(cardinalities)}; use worldmodel/encoder=conv for pixels"
            )
        self.columns = self.vectors.size + coded
        if not self.columns:
            raise ModelError("encoder table needs columns; use an observation that is a vector")
        if MISSING in observation and observation[MISSING]["shape"][0] != self.vectors.size:
            raise ModelError(
                f"the observation {MISSING!r} must be as long as all {self.vectors.size} float columns"
            )
        self.can_miss = MISSING in observation
        self.positions = positions
        self.slopes = nn.Parameter(torch.randn(self.vectors.size, width) * width**-0.5)
        self.offsets = nn.Parameter(torch.zeros(self.vectors.size, width))
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in cardinalities)
        self.registers = nn.Parameter(0.02 * torch.randn(registers, width))
        self.register_buffer("places", sines(self.columns, width))
        block = {"dim_feedforward": ff, "dropout": 0.0, "batch_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, **block) for _ in range(layers))
        self.head = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.size = width if positions == "columns" else latent
        if positions == "rows":
            self.read = nn.Linear((registers + 1) * width, latent)
        self.normaliser = build_normaliser("none" if positions == "columns" else normaliser, self.size)

    places: Tensor

    def observe(self, obs: Observations) -> None:
        """Add the float observations to the running normalisation, if there is one: dict of [..., *shape]."""
        self.vectors.observe(obs)

    def forward(self, obs: Observations, keep: Tensor | None = None) -> Tensor:
        """Encode: dict of [B, T, ...] -> B T D, or the columns of one row -> B M D."""
        lead = next(iter(obs.values())).shape[:2]
        tokens = self.tokenise(obs).flatten(0, 1)
        hidden = self._hidden(obs)
        if self.positions == "columns":
            if lead[1] != 1:
                raise ModelError("encoder positions=columns encodes one row at a time")
            return self.transform(tokens, hidden, keep)[:, len(self.registers) :]
        known = self.transform(tokens, hidden)
        registers, columns = known[:, : len(self.registers)], known[:, len(self.registers) :]
        there = (
            torch.ones_like(columns[..., :1]) if hidden is None else (~hidden)[..., None].to(columns.dtype)
        )
        mean = (columns * there).sum(1) / there.sum(1).clamp_min(1.0)
        read = self.read(torch.cat([registers.flatten(1), mean], -1))
        return self.normaliser(read).unflatten(0, lead)

    def tokenise(self, obs: Observations) -> Tensor:
        """A token for every column: dict of [B, T, ...] -> B T N E."""
        parts = []
        if self.vectors.size:
            parts.append(self.vectors(obs)[..., None] * self.slopes + self.offsets)
        codes = [obs[key][..., k].long() for key in self.categories for k in range(obs[key].shape[-1])]
        parts += [table(code)[..., None, :] for table, code in zip(self.tables, codes, strict=True)]
        return torch.cat(parts, -2) + self.places

    def transform(self, tokens: Tensor, hidden: Tensor | None, keep: Tensor | None = None) -> Tensor:
        """Let registers and the columns that are there attend to each other: n N E -> n R+N E."""
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
            hidden = hidden.gather(1, keep) if hidden is not None else None
        x = torch.cat([self.registers.expand(len(tokens), -1, -1), tokens], 1)
        if hidden is not None:
            hidden = nn.functional.pad(hidden, (len(self.registers), 0), value=False)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        return self.norm(self.head(x))

    def _hidden(self, obs: Observations) -> Tensor | None:
        """Which columns are missing: B T N, as n N; categories are always there."""
        if not self.can_miss:
            return None
        missing = obs[MISSING].flatten(0, 1) > 0.5
        return nn.functional.pad(missing, (0, self.columns - missing.shape[-1]), value=False)


def sines(count: int, width: int) -> Tensor:
    """Positions as sines and cosines of falling frequency: count width."""
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
