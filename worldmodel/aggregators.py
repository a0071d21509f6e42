"""Aggregators: latents and the actions between them to beliefs, with a memory for step-by-step use."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ActionEmbedding
from .errors import ModelError


class Cache(NamedTuple):
    """Keys and values of the last C tokens, newest last; slots before the episode's start are not valid."""

    keys: Tensor  # B layers C W
    values: Tensor  # B layers C W
    valid: Tensor  # B C


class MovingCache(NamedTuple):
    """A cache of tokens that say how latents change, so with the last latent."""

    keys: Tensor  # B layers C W
    values: Tensor  # B layers C W
    valid: Tensor  # B C
    latest: Tensor  # B D


class History(NamedTuple):
    """The last C latents and the actions that led to them, newest last."""

    latents: Tensor  # B C D
    actions: Tensor  # B C A
    valid: Tensor  # B C


class Blank(NamedTuple):
    """The memory of an aggregator that has none."""

    valid: Tensor  # B 0


Memory = Cache | MovingCache | History | Blank


def episodes(valid: Tensor, is_first: Tensor | None, past: int) -> Tensor:
    """Number the episode of every row, remembered rows being number 0: B past+T -> B past+T."""
    if is_first is None:
        return torch.zeros_like(valid, dtype=torch.long)
    return F.pad(is_first.long(), (past, 0)).cumsum(1)


class Memoryless(nn.Module):
    """Believe only what is seen now: the belief is the latent."""

    causal = True

    def __init__(self, latent_size: int, action_size: int, action_width: int) -> None:
        super().__init__()
        self.size = latent_size

    def start(self, batch: int, like: Tensor) -> Blank:
        """Make the empty memory of `batch` streams."""
        return Blank(torch.zeros(batch, 0, dtype=torch.bool, device=like.device))

    def forward(
        self,
        z: Tensor,
        prev_action: Tensor,
        embed: ActionEmbedding,
        is_first: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Blank | None = None,
    ) -> tuple[Tensor, Blank | None]:
        """Return the latents as beliefs: B T D -> B T D."""
        return z, cache


class CausalBlock(nn.Module):
    """One pre-norm layer of attention over the last C tokens, ordered by relative key embeddings."""

    def __init__(self, width: int, heads: int, context: int, ff: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.relative = nn.Parameter(0.02 * torch.randn(heads, width // heads, context))
        self.feedforward = nn.Sequential(nn.Linear(width, ff), nn.SiLU(), nn.Linear(ff, width))

    def split(self, x: Tensor) -> Tensor:
        """Separate the heads: B T W -> B T heads W/heads."""
        return x.unflatten(-1, (self.heads, -1))

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor] | None, ages: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend and transform: B T W, past B C W, T S C, B T S -> B T W, keys B S W, values B S W."""
        query, keys, values = self.query_key_value(self.norm1(x)).chunk(3, -1)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 1), torch.cat([past[1], values], 1)
        q, k, v = self.split(query * self.scale), self.split(keys), self.split(values)
        # score(t, s) = q_t . (k_s + r_{t-s}), where `ages` lays r out over the pairs. Written out as sums
        # over B T S heads W/heads, because T, S and heads are small: compiled they fuse, along the features.
        r = torch.einsum("hdc,tsc->tshd", self.relative, ages)
        scores = (q[:, :, None] * (k[:, None] + r)).sum(-1).masked_fill(~allowed[..., None], float("-inf"))
        mixed = (scores.softmax(2)[..., None] * v[:, None]).sum(2).flatten(2)
        x = x + self.out(mixed)
        return x + self.feedforward(self.norm2(x)), keys, values


class Causal(nn.Module):
    """Attend causally over tokens [latent; action that led to it], within an episode and C tokens.

    With `motion`, a token also says how its latent differs from the one before, times about so much, and
    whether that is known: what moves slowly differs too little for attention to tell it from two latents.
    """

    causal = True

    def __init__(
        self,
        latent_size: int,
        action_size: int,
        action_width: int,
        *,
        width: int = 128,
        layers: int = 1,
        heads: int = 4,
        context: int = 4,
        ff: int = 256,
        motion: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"aggregator width={width} must be divisible by heads={heads}")
        self.size, self.width, self.context, self.motion = latent_size, width, context, motion
        self.first = nn.Parameter(0.02 * torch.randn(action_width))
        differences = latent_size + 1 if motion else 0
        self.token = nn.Linear(latent_size + action_width + differences, width)
        self.layers = nn.ModuleList(CausalBlock(width, heads, context, ff) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, latent_size)
        # The belief starts as the latent itself, so learning begins from the Markov case.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def reach(self) -> int:
        """Say how many rows back, its own included, a belief can depend on."""
        return len(self.layers) * (self.context - 1) + 1 + bool(self.motion)

    def start(self, batch: int, like: Tensor) -> Cache | MovingCache:
        """Make the empty memory of `batch` streams, on the device and in the precision of `like`."""
        empty = like.new_zeros(batch, len(self.layers), self.context, self.width)
        nothing = empty.new_zeros(batch, self.context, dtype=torch.bool)
        if self.motion:
            return MovingCache(empty, empty.clone(), nothing, like.new_zeros(batch, self.size))
        return Cache(empty, empty.clone(), nothing)

    def forward(
        self,
        z: Tensor,
        prev_action: Tensor,
        embed: ActionEmbedding,
        is_first: Tensor | None = None,
        valid: Tensor | None = None,
        cache: Cache | MovingCache | None = None,
    ) -> tuple[Tensor, Cache | MovingCache | None]:
        """Update beliefs: B T D, B T A, B T -> B T D; a row's belief holds nothing that comes after it."""
        past, time = (0 if cache is None else self.context), z.shape[1]
        e = embed(prev_action)
        if is_first is not None:
            e = torch.where(is_first[..., None], self.first.to(e.dtype), e)
        present = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if valid is None else valid
        present = present if cache is None else torch.cat([cache.valid, present], 1)
        episode = episodes(present, is_first, past)
        ages, allowed = self.neighbours(present, episode, past, time)
        said = [z, e, *self.moved(z, present, episode, cache)] if self.motion else [z, e]
        x, keys, values = self.token(torch.cat(said, -1)), [], []
        for index, layer in enumerate(self.layers):
            before = None if cache is None else (cache.keys[:, index], cache.values[:, index])
            x, k, v = layer(x, before, ages.to(x.dtype), allowed)
            keys.append(k[:, -self.context :])
            values.append(v[:, -self.context :])
        belief = z + self.out(self.norm(x))
        if cache is None:
            return belief, None
        present = present & (episode == episode[:, -1:])
        kept = torch.stack(keys, 1), torch.stack(values, 1), present[:, -self.context :]
        return belief, MovingCache(*kept, z[:, -1]) if self.motion else Cache(*kept)

    def moved(
        self, z: Tensor, present: Tensor, episode: Tensor, cache: Cache | MovingCache | None
    ) -> tuple[Tensor, Tensor]:
        """How latents differ from the one before, magnified, and whether there is one: -> B T D, B T 1."""
        latest = cache.latest if isinstance(cache, MovingCache) else torch.zeros_like(z[:, 0])
        before = torch.cat([latest[:, None], z[:, :-1]], 1)
        # A row is preceded by a row of its episode: in the memory, or in these rows.
        both = F.pad(present[:, :-1] & present[:, 1:] & (episode[:, 1:] == episode[:, :-1]), (1, 0))
        known = both[:, -z.shape[1] :, None]
        return torch.where(known, self.motion * (z - before), 0.0), known.to(z.dtype)

    def neighbours(self, present: Tensor, episode: Tensor, past: int, time: int) -> tuple[Tensor, Tensor]:
        """Say how old keys are to queries, one-hot, and which are seen: B S, B S -> T S C and B T S."""
        rows = torch.arange(past + time, device=present.device)
        age = rows[past:, None] - rows
        ages = age[..., None] == torch.arange(self.context, device=present.device)
        # Every row sees itself, padding too: a softmax over nothing would be NaN.
        seen = (present[:, None] & (episode[:, past:, None] == episode[:, None])) | (age == 0)
        return ages, seen & (age >= 0) & (age < self.context)


class Bidirectional(nn.Module):
    """Summarise a set of (latent, action) tokens in one extra token, without order: the paper's form."""

    causal = False

    def __init__(
        self,
        latent_size: int,
        action_size: int,
        action_width: int,
        *,
        layers: int = 3,
        heads: int = 4,
        context: int = 4,
        ff: int = 2560,
        dropout: float = 0.1,
        positions: str = "none",
    ) -> None:
        super().__init__()
        self.size = width = latent_size + action_width
        self.latent_size, self.action_size, self.context = latent_size, action_size, context
        if width % heads:
            raise ModelError(f"latent + action width = {width} must be divisible by aggregator heads={heads}")
        if positions not in ("none", "learned"):
            raise ModelError(f"aggregator positions={positions!r} is unknown; choose none or learned")
        # Counted back from the newest token, so that the number of tokens may differ between train and test.
        learned = positions == "learned"
        self.positions = nn.Parameter(0.02 * torch.randn(context, width)) if learned else None
        self.summary = nn.Parameter(torch.zeros(1, 1, width))
        block = {"dim_feedforward": ff, "dropout": dropout, "batch_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, **block) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def start(self, batch: int, like: Tensor) -> History:
        """Make the empty memory of `batch` streams, on the device and in the precision of `like`."""
        return History(
            like.new_zeros(batch, self.context, self.latent_size),
            like.new_zeros(batch, self.context, self.action_size),
            torch.zeros(batch, self.context, dtype=torch.bool, device=like.device),
        )

    def forward(
        self,
        z: Tensor,
        prev_action: Tensor,
        embed: ActionEmbedding,
        is_first: Tensor | None = None,
        valid: Tensor | None = None,
        cache: History | None = None,
    ) -> tuple[Tensor, History | None]:
        """Summarise all rows (B T D -> B 1 W), or with a memory the C rows up to each (B T D -> B T W)."""
        present = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device) if valid is None else valid
        if cache is None:
            episode = episodes(present, is_first, 0)
            return self.summarise(z, prev_action, embed, present & (episode == episode[:, -1:])), None
        batch, time = z.shape[:2]
        latents = torch.cat([cache.latents, z], 1)
        actions = torch.cat([cache.actions, prev_action], 1)
        present = torch.cat([cache.valid, present], 1)
        episode = episodes(present, is_first, self.context)
        windows = [x[:, 1:].unfold(1, self.context, 1) for x in (latents, actions, present, episode)]
        flat = [x.movedim(-1, 2).flatten(0, 1) for x in windows]
        belief = self.summarise(flat[0], flat[1], embed, flat[2] & (flat[3] == flat[3][:, -1:]))
        kept = (present & (episode == episode[:, -1:]))[:, -self.context :]
        history = History(latents[:, -self.context :], actions[:, -self.context :], kept)
        return belief.reshape(batch, time, self.size), history

    def tokens(self, z: Tensor, prev_action: Tensor, embed: ActionEmbedding) -> Tensor:
        """Attach each action to the view it leaves; the last token has exact zeros: B M D, B M A -> B M W."""
        last = z.new_zeros(z.shape[0], 1, embed.width)
        if z.shape[1] == 1:
            return torch.cat([z, last], -1)
        # Zeroed after the embedding, so that "no action" differs from a null action.
        return torch.cat([z, torch.cat([embed(prev_action[:, 1:]).to(z.dtype), last], 1)], -1)

    def summarise(self, z: Tensor, prev_action: Tensor, embed: ActionEmbedding, present: Tensor) -> Tensor:
        """Read a set of views through the summary token: B M D, B M A, B M -> B 1 W."""
        x = self.tokens(z, prev_action, embed)
        if self.positions is not None:
            if x.shape[1] > self.context:
                raise ModelError(
                    f"{x.shape[1]} views exceed the {self.context} learned positions; set aggregator.context"
                )
            x = x + self.positions[-x.shape[1] :]
        x = torch.cat([self.summary.to(x.dtype).expand(x.shape[0], 1, self.size), x], 1)
        hidden = F.pad(~present, (1, 0), value=False)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=hidden)
        return self.norm(x)[:, :1]


Aggregator = Memoryless | Causal | Bidirectional
AGGREGATORS: dict[str, type[Aggregator]] = {
    "none": Memoryless,
    "causal": Causal,
    "bidirectional": Bidirectional,
}
