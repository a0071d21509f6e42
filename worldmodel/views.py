"""Views: which part of a batch is seen, what is asked about it, and what would be the answer."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

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


ViewMaker = Callable[[Batch, tuple[str, ...]], Views]


def _split(batch: Batch, keys: tuple[str, ...], seen: slice, asked: slice, target: slice) -> Views:
    """Cut a batch along time into what is seen and what is asked."""
    is_first, valid = batch["is_first"], batch["valid"]
    # A transition needs both ends in one episode; padding repeats the last row and is nobody's successor.
    exists = valid[:, target] & ~is_first[:, target]
    return Views(
        obs={key: batch[key][:, seen] for key in keys},
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


def next_step(batch: Batch, keys: tuple[str, ...]) -> Views:
    """Ask at every position for the next one; all T rows are seen: B T -> Views with Q = T-1."""
    return _split(batch, keys, slice(None), slice(None, -1), slice(1, None))


def last_step(batch: Batch, keys: tuple[str, ...]) -> Views:
    """Ask once, after all rows but the last, for the last (the paper's form): B T -> Views with Q = 1."""
    return _split(batch, keys, slice(None, -1), slice(-1, None), slice(-1, None))


VIEWS: dict[str, ViewMaker] = {"next_step": next_step, "last_step": last_step}
