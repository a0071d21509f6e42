"""Views: which part of a batch is seen, what is asked about it, and what would be the answer."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoders.table import MISSING
from .errors import ModelError

Batch = Mapping[str, Tensor]  # a TensorDict or dict with the keys of the training batch, each [B, T, ...]


class Views(NamedTuple):
    """A question: what is seen (B N), from which beliefs it is asked, and what is to be predicted (B Q)."""

    obs: dict[str, Tensor]  # B N ...
    prev_action: Tensor  # B N A
    is_first: Tensor  # B N
    valid: Tensor  # B N
    asked: slice  # of the N positions, those whose beliefs are asked
    query: Tensor  # B Q A, the action that leaves each asked position
    target: dict[str, Tensor]  # B Q ...
    reward: Tensor  # B Q
    continues: Tensor  # B Q
    weight: Tensor  # B Q, 1 where the transition exists
    keep: Tensor | None = None  # B M, the positions that are seen, where not all are
    picked: Tensor | None = None  # B Q, the positions that are asked for, of what the target says of all


ViewMaker = Callable[[Batch, tuple[str, ...]], Views]


def _split(batch: Batch, keys: tuple[str, ...], seen: slice, asked: slice, target: slice) -> Views:
    """Cut a batch along time into what is seen and what is asked."""
    is_first, valid = batch["is_first"], batch["valid"]
    # A transition needs both ends in one episode; padding repeats the last row and is nobody's successor.
    exists = valid[:, target] & ~is_first[:, target]
    obs = {key: batch[key][:, seen] for key in keys}
    return Views(
        obs=hide(obs, batch["hidden"]) if "hidden" in batch else obs,
        prev_action=batch["prev_action"][:, seen],
        is_first=is_first[:, seen],
        valid=valid[:, seen],
        asked=asked,
        query=batch["prev_action"][:, target],
        target={key: batch[key][:, target] for key in keys},
        reward=batch["reward"][:, target],
        continues=(~batch["terminated"][:, target]).float(),
        weight=exists.float(),
    )


def hide(obs: dict[str, Tensor], hidden: Tensor) -> dict[str, Tensor]:
    """Mark entries of the float vectors as missing, by the order of their keys: dict of [B, T, ...], B N."""
    shown, start = {**obs, MISSING: obs[MISSING].maximum(hidden[:, None].to(obs[MISSING].dtype))}, 0
    for key in sorted(obs):
        if key == MISSING or obs[key].dtype != torch.float32:
            continue
        size = obs[key][0, 0].numel()
        mine = hidden[:, start : start + size].view(-1, 1, *obs[key].shape[2:])
        shown[key], start = obs[key].masked_fill(mine, 0.0), start + size
    return shown


def next_step(batch: Batch, keys: tuple[str, ...]) -> Views:
    """Ask at every position for the next one; all T rows are seen: B T -> Views with Q = T-1."""
    return _split(batch, keys, slice(None), slice(None, -1), slice(1, None))


def last_step(batch: Batch, keys: tuple[str, ...]) -> Views:
    """Ask once, after all rows but the last, for the last (the paper's form): B T -> Views with Q = 1."""
    return _split(batch, keys, slice(None, -1), slice(-1, None), slice(-1, None))


def hidden_columns(batch: Batch, keys: tuple[str, ...]) -> Views:
    """Show the columns in `keep` of one row and ask for those in `asked`, whose one-hot codes are the query.

    The masks are drawn with the data (`draw_columns`), so that what is asked of a batch is always the same.
    """
    keep, asked = batch["keep"], batch["asked"]
    query = F.one_hot(asked, batch["prev_action"].shape[-1]).float()
    seen, ones = torch.zeros_like(keep, dtype=torch.bool), torch.ones_like(asked, dtype=torch.float32)
    return Views(
        obs={key: batch[key] for key in keys},
        prev_action=query.new_zeros(*keep.shape, query.shape[-1]),
        is_first=seen,
        valid=~seen,
        asked=slice(None),
        query=query,
        target={key: batch[key] for key in keys},
        reward=torch.zeros_like(ones),
        continues=ones,
        weight=ones,
        keep=keep,
        picked=asked,
    )


def draw_columns(
    rows: int,
    columns: int,
    generator: torch.Generator,
    *,
    context: tuple[float, float] = (0.15, 0.4),
    target: tuple[float, float] = (0.15, 0.6),
    sets: int = 4,
) -> tuple[Tensor, Tensor]:
    """Choose the columns that are seen and `sets` times those that are asked for: rows M, rows sets*Q.

    Sizes are shares of the columns, drawn once for all rows; no column is both seen and asked for.
    """
    if columns < 2:
        raise ModelError("a table of one column has nothing to hide; give it more")
    low, high = torch.rand(2, generator=generator).tolist()
    seen = min(max(round(columns * (context[0] + low * (context[1] - context[0]))), 1), columns - 1)
    many = min(max(round(columns * (target[0] + high * (target[1] - target[0]))), 1), columns - seen)
    order = torch.rand(rows, columns, generator=generator).argsort(1)
    others = order[:, seen:]
    picks = [torch.rand(others.shape, generator=generator).argsort(1)[:, :many] for _ in range(sets)]
    return order[:, :seen], torch.cat([others.gather(1, pick) for pick in picks], 1)


VIEWS: dict[str, ViewMaker] = {
    "next_step": next_step,
    "last_step": last_step,
    "hidden_columns": hidden_columns,
}
