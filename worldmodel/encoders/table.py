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
    all tokens, zeros where a column is missing (dict of [B, T, ...] -> B T D); "columns" gives the tokens of
    the columns themselves, of `steps` rows in a row, oldest first, only those in keep if given (dict of
    [B, steps, ...], B M -> B M D). What was learned of several rows serves one: its tokens are the last's.
    A frozen one, pre-trained, learns no more than to read its tokens.
    """

    def __init__(
        self,
        observation: Facts,
        *,
        positions: str = "rows",
        steps: int = 1,
        width: int = 32,
        layers: int = 2,
        heads: int = 2,
        ff: int = 64,
        registers: int = 1,
        latent: int = 128,
        normaliser: str = "simnorm",
        scaling: str = "running",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if positions not in ("rows", "columns"):
            raise ModelError(f"encoder positions={positions!r} is unknown; choose rows or columns")
        if frozen and positions == "columns":
            raise ModelError("encoder frozen=true learns to read rows; use it with positions=rows")
        if steps < 1 or (steps > 1 and positions == "rows"):
            raise ModelError(f"encoder steps={steps} with positions={positions}: only columns have several")
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
        self.positions, self.steps = positions, steps
        self.slopes = nn.Parameter(torch.randn(self.vectors.size, width) * width**-0.5)
        self.offsets = nn.Parameter(torch.zeros(self.vectors.size, width))
        self.tables = nn.ModuleList(nn.Embedding(count, width) for count in cardinalities)
        self.registers = nn.Parameter(0.02 * torch.randn(registers, width))
        self.register_buffer("places", sines(self.columns, width))
        if steps > 1:
            self.moments = nn.Parameter(0.02 * torch.randn(steps - 1, 1, width))  # of all rows but the last
        block = {"dim_feedforward": ff, "dropout": 0.0, "batch_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, **block) for _ in range(layers))
        self.head = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.size = width if positions == "columns" else latent
        if positions == "rows":
            self.read = nn.Linear((registers + self.columns) * width, latent)
        self.normaliser = build_normaliser("none" if positions == "columns" else normaliser, self.size)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)
            self.read.requires_grad_(True)

    places: Tensor

    def observe(self, obs: Observations) -> None:
        """Add the float observations to the running normalisation, if there is one: dict of [..., *shape]."""
        if not self.frozen:  # or what it learned would come to mean something else
            self.vectors.observe(obs)

    def forward(self, obs: Observations, keep: Tensor | None = None) -> Tensor:
        """Encode: dict of [B, T, ...] -> B T D, or the columns of one row -> B M D."""
        lead = next(iter(obs.values())).shape[:2]
        tokens = self.tokenise(obs).flatten(0, 1)
        hidden = self._hidden(obs)
        if self.positions == "columns":
            if lead[1] != self.steps:
                raise ModelError(f"encoder steps={self.steps} cannot encode {lead[1]} rows as one table")
            if self.steps > 1:
                moments = torch.cat([self.moments, torch.zeros_like(self.moments[:1])])
                tokens = (tokens.unflatten(0, lead) + moments).flatten(1, 2)
                hidden = hidden.unflatten(0, lead).flatten(1) if hidden is not None else None
            return self.transform(tokens, hidden, keep)[:, len(self.registers) :]
        known = self.transform(tokens, hidden)
        if hidden is not None:
            gone = nn.functional.pad(hidden, (len(self.registers), 0), value=False)
            known = known.masked_fill(gone[..., None], 0.0)
        return self.normaliser(self.read(known.flatten(1))).unflatten(0, lead)

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
